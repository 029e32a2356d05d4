from __future__ import annotations

import itertools
import json
import random
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from common.errors import UsageError
from common.prompt import Prompt
from common.prompt_config import PromptConfig
from common.prompt_text import PromptText
from learner.warm_start import supervised
from learner.warm_start.config import ModelShape, WarmStartConfig
from learner.warm_start.curriculum import batches, drill, echo, episode
from learner.warm_start.demonstrations import Demonstration, read_demonstrations, split_tasks
from learner.warm_start.make import main, make_policy
from learner.warm_start.renaming import Renamer, copied_values
from learner.warm_start.tokenizer import train_tokenizer

LOG_IN = "t = apis.spotify.login(username=me['email'], password=pw['spotify'])['access_token']"
TITLES = ("Silver River", "Quiet Garden", "Velvet Star", "Paper Moon")


def demonstration(number: int, *, turns: int = 3, right: bool = True) -> dict[str, object]:
    title = TITLES[number % len(TITLES)]
    cells = [
        {"code": LOG_IN, "observation": "Execution successful."},
        {"code": f"print(apis.spotify.search_songs(query='{title}')[0]['song_id'])", "observation": f"{number}\n"},
        {"code": f"apis.supervisor.complete_task(answer='{number}')", "observation": "Execution successful."},
    ]
    return {
        "task_id": f"songId_{number}",
        "scenario": "songId",
        "instruction": f"What is the id of the song '{title}'?",
        "supervisor": {"first_name": "Ada", "last_name": "Moss", "email": "a@mail.com", "phone_number": "1"},
        "turns": cells[:turns],
        "right": right,
        "success": None,
        "solver": "a field that nobody here reads",
    }


def write(file: Path, *lines: object) -> Path:
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return file


def small(tmp_path: Path, **changes: object) -> WarmStartConfig:
    settings = {
        "demonstrations": write(tmp_path / "demonstrations.jsonl", *(demonstration(n) for n in range(12))),
        "out": tmp_path / "model",
        "model": ModelShape(hidden=16, layers=1, heads=2, ff=16, context=256),
        "vocabulary": 400,
        "held_out": 0.25,
        "steps": 6,
        "warm_up": 5,
        "threads": 1,
    }
    return WarmStartConfig.model_validate(settings | changes)


def of(raw: dict[str, object]) -> Demonstration:
    return Demonstration.model_validate(raw)


def prompt_for(*demonstrations: Demonstration) -> Prompt:
    texts = [turn.code for demonstration in demonstrations for turn in demonstration.turns]
    return Prompt.of(train_tokenizer(texts, 400))


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path: Path):
    weights = {}
    for name, seed in (("first", 1), ("again", 1), ("other", 2)):
        make_policy(small(tmp_path, out=tmp_path / name), seed)
        weights[name] = (tmp_path / name / "model.safetensors").read_bytes()
    assert weights["first"] == weights["again"]
    assert weights["first"] != weights["other"]


def test_the_folder_is_one_that_transformers_loads(tmp_path: Path):
    config = small(tmp_path)
    figures = make_policy(config, 1)
    model = AutoModelForCausalLM.from_pretrained(config.out)
    tokenizer = AutoTokenizer.from_pretrained(config.out)
    prompt = Prompt.load(config.out)
    me, words = of(demonstration(1)).supervisor, PromptText(PromptConfig())
    spoken = [
        {"role": "system", "content": words.head[0].text},
        {"role": "user", "content": words.task("Like the song 'Silver River'.", me)},
    ]
    templated = tokenizer.apply_chat_template(spoken, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert templated == prompt.opening("Like the song 'Silver River'.", me)
    assert model.dtype == torch.float32
    assert model.config.tie_word_embeddings is False
    assert model.config.vocab_size == prompt.vocabulary_size == len(tokenizer)
    assert (model.generation_config.eos_token_id,) == prompt.stop_ids
    assert sum(p.numel() for p in model.parameters()) == figures["parameters"]
    assert figures["by_scenario"].keys() == {"songId"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demonstrations.jsonl", "model"]


def test_training_lowers_the_loss(tmp_path: Path):
    episodes_alone = {"echoes": 0.0, "drills": 0.0, "renaming": 0.0, "learning_rate": 1e-2}
    short = make_policy(small(tmp_path, steps=1, out=tmp_path / "short", **episodes_alone), 1)
    longer = make_policy(small(tmp_path, steps=60, out=tmp_path / "longer", **episodes_alone), 1)
    assert longer["held_out_loss"] < 0.5 * short["held_out_loss"]


def test_an_example_is_what_an_episode_would_hold():
    one = of(demonstration(5))
    prompt = prompt_for(one)
    example = episode(one, prompt, 500)
    first, second, third = one.turns
    parts = [
        (prompt.opening(one.instruction, one.supervisor), False),
        (prompt.reply(first.code), True),
        (prompt.observation(first.observation, 500), False),
        (prompt.reply(second.code), True),
        (prompt.observation(second.observation, 500), False),
        (prompt.reply(third.code), True),
    ]
    assert example.tokens.tolist() == [token for ids, _ in parts for token in ids]
    assert example.sampled.tolist() == [sampled for ids, sampled in parts for _ in ids]


def test_a_drill_is_the_task_without_prompt_head_and_log_in():
    one = of(demonstration(5))
    prompt = prompt_for(one)
    _, second, third = one.turns
    made = drill(one, prompt, 500)
    expected = prompt.observation(one.instruction, 500) + prompt.reply(second.code)
    expected += prompt.observation(second.observation, 500) + prompt.reply(third.code)
    assert made.tokens.tolist() == expected
    assert made.sampled.sum() == len(prompt.reply(second.code)) + len(prompt.reply(third.code))


def test_an_echo_asks_for_the_values_that_it_shows():
    prompt = prompt_for(of(demonstration(5)))
    made = echo(["Silver River", "57"], prompt, 500)
    assert prompt.text(made.tokens.tolist()) == (
        "\n<|im_start|>user\n'Silver River' '57'<|im_end|>\n<|im_start|>assistant\n'Silver River' '57'<|im_end|>"
    )
    assert prompt.text(made.tokens[made.sampled].tolist()) == "'Silver River' '57'<|im_end|>"


def test_batches_leave_out_what_is_longer_than_the_context():
    one, other = of(demonstration(5)), of(demonstration(6, turns=1))
    prompt = prompt_for(one, other)
    examples = [episode(one, prompt, 500), episode(other, prompt, 500)]
    context = len(examples[0].tokens) - 1
    found = list(islice(batches(cycle(examples), 3, context, random.Random(1)), 20))
    assert {len(batch) for batch in found} == {3}
    assert {len(example.tokens) for batch in found for example in batch} == {len(examples[1].tokens)}


def test_renaming_changes_a_copied_value_everywhere_and_nothing_else():
    demonstrations = [of(demonstration(number)) for number in range(12)]
    one = demonstrations[5]
    assert copied_values(one) == {"Quiet Garden", "5"}
    renamed = Renamer(demonstrations).renamed(one, random.Random(4))
    title = renamed.instruction.split("'")[1]
    number = renamed.turns[1].observation
    assert (title, number) != ("Quiet Garden", "5")
    assert renamed.instruction == f"What is the id of the song '{title}'?"
    assert [turn.code for turn in renamed.turns] == [
        LOG_IN,
        f"print(apis.spotify.search_songs(query='{title}')[0]['song_id'])",
        f"apis.supervisor.complete_task(answer='{number}')",
    ]
    assert renamed.turns[0].observation == "Execution successful."
    assert set(title.split()) <= {word for each in TITLES for word in each.split()}


def test_two_values_of_a_demonstration_stay_two():
    raw = demonstration(1) | {"instruction": "Send 5 dollars for 'Paper Moon' to 'Velvet Star'."}
    raw["turns"] = [{"code": "pay(amount=5, note='Paper Moon', who='Velvet Star')", "observation": ""}]
    one = of(raw)
    renamer = Renamer([one])
    for seed in range(50):
        values = copied_values(renamer.renamed(one, random.Random(seed)))
        assert len(values) == 3


def test_a_value_that_the_code_takes_from_nowhere_is_left():
    raw = demonstration(1) | {"instruction": "In which city is my 'Home' address?"}
    raw["turns"] = [{"code": "print(a['city'] if a['name'] == 'Work')", "observation": "Salem\n"}]
    one = of(raw)
    assert copied_values(one) == set()
    assert Renamer([of(demonstration(2)), one]).renamed(one, random.Random(1)) == one


@pytest.mark.parametrize(
    "code",
    [
        "s = [x for i in range(3) for x in apis.spotify.show_liked_songs(access_token=t, page_index=i)]\nprint(len(s))",
        "for x in s:\n    if x['title'] == 'Ünïcode ✓ \"q\"':\n        print( x )\n\n\treturn",
        "print(next(a['city'] for a in apis.supervisor.show_addresses() if a['name'] == 'Home'))",
        "12345 + 0.5e-3  # a  comment",
    ],
)
def test_the_tokenizer_gives_code_back_exactly(code: str):
    prompt = Prompt.of(train_tokenizer([code], 500))
    assert prompt.code(prompt.reply(code)) == code
    assert Prompt.of(train_tokenizer(["nothing of it"], 300)).code(prompt.reply("x")) is not None


@pytest.mark.parametrize("value", ["Silver River", "fix the lamp", "2031", "12.50", "ada.moss@mail.com", "555-01 23"])
def test_a_value_is_the_same_tokens_wherever_it_stands(value: str):
    code = f"apis.notes.create(title='{value}', access_token=t)"
    tokenizer = train_tokenizer([value, code, f"Write '{value}' down.", f"{value}\n"], 500)
    alone = tokenizer.encode(value).ids
    for text in (code, f"Write '{value}' down.", f"answer='{value}')", f"user\n{value}"):
        ids = tokenizer.encode(text).ids
        assert any(ids[i : i + len(alone)] == alone for i in range(len(ids)))


def test_a_dotted_name_with_its_bracket_is_one_token():
    tokenizer = train_tokenizer(["apis.spotify.like_song(song_id=n, access_token=t)"] * 5, 500)
    assert tokenizer.encode("apis.spotify.like_song(song_id=").tokens == ["apis.spotify.like_song(", "song_id="]


def test_a_task_is_never_both_trained_on_and_measured():
    demonstrations = [of(demonstration(n)) for n in range(20)] * 3
    train, measured = split_tasks(demonstrations, 0.2, random.Random(1))
    assert len(train) == 48
    assert len(measured) == 12
    assert not {one.task_id for one in train} & {one.task_id for one in measured}


def test_padding_carries_no_loss_and_the_target_is_the_next_token():
    one, other = of(demonstration(5)), of(demonstration(6, turns=1))
    prompt = prompt_for(one, other)
    long, short = episode(one, prompt, 500), episode(other, prompt, 500)
    batch = supervised.pad([long, short], 0.0)
    assert batch.tokens.shape == (2, len(long.tokens))
    taken = batch.targets != supervised.IGNORED
    assert taken.sum(1).tolist() == [int(long.sampled.sum()), int(short.sampled.sum())]
    assert batch.targets[0][taken[0]].tolist() == long.tokens[long.sampled].tolist()
    read = supervised.pad([short], 0.25)
    assert (read.targets[0, :-1] != supervised.IGNORED).all()
    assert np.isclose(float(read.weights.sum()), short.sampled.sum() + 0.25 * (~short.sampled[1:]).sum())


def test_padding_does_not_change_what_is_computed_for_the_rest():
    one, other = of(demonstration(5)), of(demonstration(6, turns=1))
    prompt = prompt_for(one, other)
    long, short = episode(one, prompt, 500), episode(other, prompt, 500)
    torch.manual_seed(1)
    model = supervised.make_model(
        ModelShape(hidden=16, layers=2, heads=2, ff=16, context=500), prompt.vocabulary_size, prompt.stop_ids[0]
    )
    together, _ = supervised.loss_of(model, supervised.pad([long, short], 0.0))
    alone = [supervised.loss_of(model, supervised.pad([each], 0.0))[0] for each in (long, short)]
    assert torch.allclose(together, sum(alone), rtol=1e-5)


def test_a_batch_that_is_shared_out_between_threads_gives_the_same_steps():
    demonstrations = [of(demonstration(n, turns=1 + n % 3)) for n in range(5)]
    prompt = prompt_for(*demonstrations)
    batch = [episode(one, prompt, 500) for one in demonstrations]
    shape = ModelShape(hidden=16, layers=2, heads=2, ff=16, context=500)

    def trained(threads):
        torch.manual_seed(1)
        model = supervised.make_model(shape, prompt.vocabulary_size, prompt.stop_ids[0])
        loss = supervised.train(model, itertools.repeat(batch), WarmStartConfig(steps=3, threads=threads))
        return loss, torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    (loss, alone), (same, shared), (_, again) = trained(1), trained(2), trained(2)
    assert loss == pytest.approx(same, rel=1e-5)
    # AdamW divides by a gradient's size, so where that is nearly nothing its rounding counts
    assert torch.quantile((alone - shared).abs(), 0.99) < 1e-5
    assert torch.equal(shared, again)


def test_the_rate_rises_stays_and_falls_to_nothing():
    config = WarmStartConfig(steps=100, learning_rate=1.0, warm_up=10, flat=0.5)
    rates = [round(supervised.rate(step, config), 3) for step in (0, 4, 9, 50, 75, 99)]
    assert rates == [0.1, 0.5, 1.0, 1.0, 0.5, 0.02]


def test_bad_demonstrations_are_refused_with_their_line(tmp_path: Path):
    file = tmp_path / "demonstrations.jsonl"
    with pytest.raises(UsageError, match=r"demonstrations\.jsonl: No such file"):
        read_demonstrations(file)
    with pytest.raises(UsageError, match=r"demonstrations\.jsonl: holds no demonstration"):
        read_demonstrations(write(file))
    with pytest.raises(UsageError, match=r"demonstrations\.jsonl, line 2: turns: "):
        read_demonstrations(write(file, demonstration(1), demonstration(2) | {"turns": []}))
    with pytest.raises(UsageError, match=r"demonstrations\.jsonl, line 2: turns\.0\.code: "):
        read_demonstrations(write(file, demonstration(1), demonstration(2) | {"turns": [{"observation": "x"}]}))
    file.write_text(json.dumps(demonstration(1)) + "\n{not json\n")
    with pytest.raises(UsageError, match=r"demonstrations\.jsonl, line 2: Invalid JSON"):
        read_demonstrations(file)


def test_demonstrations_that_do_not_fit_are_refused(tmp_path: Path):
    shape = ModelShape(hidden=16, layers=1, heads=2, ff=16, context=64)
    with pytest.raises(UsageError, match=r"no demonstration fits into 64 tokens"):
        make_policy(small(tmp_path, model=shape), 1)
    assert not (tmp_path / "model").exists()


def test_a_folder_that_is_no_model_is_not_replaced(tmp_path: Path):
    config = small(tmp_path)
    config.out.mkdir()
    (config.out / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="exists and is no model folder"):
        make_policy(config, 1)
    assert (config.out / "thesis.txt").read_text() == "years of work"


def test_the_command_takes_its_two_paths_and_prints_its_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = small(tmp_path)
    shape = [f"--learner.warm_start.model.{key}={value}" for key, value in config.model.model_dump().items()]
    options = [f"--demonstrations={config.demonstrations}", "--out", str(config.out), "--json"]
    options += [f"--run.folder={tmp_path / 'run'}", "--learner.warm_start.steps=2", "--learner.warm_start.threads=1"]
    assert main([*options, *shape, "--learner.warm_start.vocabulary", "400"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["out"] == str(config.out)
    assert figures["steps"] == 2
    events = [json.loads(line)["event"] for line in (tmp_path / "run/logs/warm_start.jsonl").read_text().splitlines()]
    assert events == ["warm_start_begins", "warm_start_step", "warm_start_done"]
