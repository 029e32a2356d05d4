"""The section `prompt`, what its digest covers, and what the configurations that come with the project say."""

from pathlib import Path

import pytest
from qwen_tokenizers import make_tokenizer

from common import prompt_text
from common.config import all_sections, load
from common.errors import UsageError
from common.prompt import CHARACTERS_PER_TOKEN, Prompt, PromptConfig, form_digest

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.yaml"))
SECTIONS = {"prompt": PromptConfig}


@pytest.mark.parametrize(
    ("config", "tokens"),
    [
        (PromptConfig(), None),
        (PromptConfig(form="react"), 3000),
        (PromptConfig(form="react", observation_tokens=500), 500),
        (PromptConfig(observation_tokens=500), 500),
    ],
)
def test_the_compact_form_cuts_by_room_alone_and_react_at_3000_tokens(config, tokens):
    assert config.observation_limit == tokens


def test_yamls_off_and_on_are_words_here(tmp_path):
    for word in ("off", "on"):
        (tmp_path / "a.yaml").write_text(f"prompt: {{thinking: {word}}}")
        assert load(SECTIONS, tmp_path / "a.yaml", [])["prompt"].thinking == word
        assert load(SECTIONS, None, ["--prompt.thinking", word])["prompt"].thinking == word
    with pytest.raises(UsageError, match=r"prompt.thinking: Input should be 'off' or 'on' \(got 'maybe'\)"):
        load(SECTIONS, None, ["--prompt.thinking", "maybe"])


def test_the_digest_covers_every_option():
    variants = [{}, {"form": "react"}, {"thinking": "on"}, {"observation_tokens": 100}, {"observation_tokens": 101}]
    variants += [{"long_context": "stub"}, {"long_context": "stub", "stub_share": 0.5}]
    assert {name for variant in variants for name in variant} == set(PromptConfig.model_fields)
    assert len({form_digest(PromptConfig(**variant)) for variant in variants}) == len(variants)
    assert len({str(PromptConfig(**variant)) for variant in variants}) == len(variants)
    assert form_digest(PromptConfig(form="react")) == form_digest(PromptConfig(form="react", observation_tokens=3000))


@pytest.mark.parametrize("name", ["system.j2", "task.j2", "example.yaml", "observation.j2", "no_code.j2"])
def test_the_digest_covers_every_word(tmp_path, monkeypatch, name):
    before = form_digest(PromptConfig(form="react"))
    folder = tmp_path / "react"
    folder.mkdir()
    for file in (prompt_text.FORMS / "react").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr(prompt_text, "FORMS", tmp_path)
    assert form_digest(PromptConfig(form="react")) == before
    with (folder / name).open("a") as file:
        file.write(" ")
    assert form_digest(PromptConfig(form="react")) != before


@pytest.mark.parametrize("config", CONFIGS, ids=lambda file: file.name)
def test_llms_get_react_with_3000_tokens_and_the_worlds_own_cut_leaves_them_whole(config):
    loaded = load(all_sections(), config, [])
    prompt, world = loaded["prompt"], loaded["world"]
    assert prompt.form == ("compact" if config.name == "tiny.yaml" else "react")
    if prompt.form == "react":
        assert prompt.observation_limit == 3000
        assert world.observation_characters >= prompt.observation_limit * CHARACTERS_PER_TOKEN[-1]


@pytest.mark.parametrize("family", ["qwen2.5", "qwen3"])
def test_an_observation_above_the_limit_is_cut_at_a_line_end_and_says_how_much_is_missing(family):
    prompt = Prompt.of(make_tokenizer(family), config=PromptConfig(form="react"))
    lines = [f"line {number} of many, with some words" for number in range(2000)]
    text = "\n".join(lines)
    shown = prompt.text(prompt.observation(text, 30_000)).split("Output:\n```\n")[1].split("\n```<|im_end|>")[0]
    *kept, note = shown.split("\n")
    assert kept == lines[: len(kept)]
    assert note == f"[{len(text) - len(chr(10).join(kept)) - 1} more characters]"
    assert 2900 < len(prompt._encode(shown)) <= 3000


def test_an_observation_at_the_limit_is_whole_and_less_room_cuts_it_further():
    prompt = Prompt.of(make_tokenizer("qwen2.5"), config=PromptConfig(form="react", observation_tokens=200))
    text = "1 2 3\n" * 33
    assert len(prompt._encode(text.rstrip("\n"))) <= 200 < len(prompt._encode(text + text))
    assert "more characters" not in prompt.text(prompt.observation(text, 1000))
    assert "more characters" in prompt.text(prompt.observation(text + text, 1000))
    assert 60 < len(prompt.observation(text, 100)) <= 100
    assert prompt.observation(text, 10) == []


def test_what_the_world_has_cut_already_counts_as_missing():
    prompt = Prompt.of(make_tokenizer("qwen2.5"), config=PromptConfig(form="react", observation_tokens=100))
    cut = "word\n" * 1000 + "[Output cut: 4999 of 70000 characters are shown.]"
    shown = prompt.text(prompt.observation(cut, 1000))
    missing = 70_000 - 5 * shown.count("word")
    assert f"[{missing} more characters]" in shown
