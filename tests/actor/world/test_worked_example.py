"""The worked example that LLMs are shown is right: AppWorld's unmodified engine prints what stands in it."""

import json
import re

import pytest
import yaml
from playing_example import FILE, play

from common.prompt_config import PromptConfig
from common.prompt_text import FORMS, PromptText


@pytest.fixture(scope="module")
def example():
    return yaml.safe_load(FILE.read_text(encoding="utf-8"))


def test_the_engine_prints_what_the_example_shows_and_passes_it(example, appworld_python):
    played = play(example)
    assert played["observations"] == [turn["observation"] for turn in example["turns"]]
    assert played["completed"]
    assert played["verdict"]["success"]
    assert not any(text.startswith("Execution failed") for text in played["observations"])


def test_every_api_that_the_words_name_is_one(world_root):
    words = "\n".join(file.read_text(encoding="utf-8") for file in sorted((FORMS / "react").iterdir()))
    folder = world_root / "episode" / "data" / "api_docs" / "standard"
    known = {file.stem: json.loads(file.read_text()) for file in folder.glob("*.json")}
    named = set(re.findall(r"apis\.([a-z_]+)\.([a-z_]+)\(", words))
    assert {("api_docs", "show_api_doc"), ("supervisor", "complete_task"), ("simple_note", "login")} <= named
    assert [f"{app}.{api}" for app, api in named if api not in known[app]] == []
    assert all(f"`{app}`" in words or f" {app} " in words or f" {app} (" in words for app in known)


def test_the_example_shows_each_turn_as_the_policy_is_to_say_it(example):
    words = PromptText(PromptConfig(form="react"))
    system, *turns = words.head
    assert system.role == "system"
    assert [message.role for message in turns] == ["user", "assistant"] * len(example["turns"])
    assert example["instruction"] in turns[0].text
    for shown, before in zip(turns[2::2], example["turns"], strict=False):
        assert before["observation"].rstrip("\n") in shown.text
    for said, turn in zip(turns[1::2], example["turns"], strict=True):
        assert said.text == f"{turn['thought']}\n```python\n{turn['code']}\n```"


def test_a_prompt_reads_the_note_of_what_the_world_has_cut():
    from actor.world.cell import cut
    from common.prompt import _CUT_BEFORE

    found = _CUT_BEFORE.search(cut("line\n" * 100, 90))
    assert found is not None
    assert found[1] == "500"
