import itertools
import json

import pytest

from actor.world.demonstrate import demonstrate
from common.errors import UsageError


@pytest.fixture(scope="module")
def lines(world_root, tmp_path_factory):
    """Graded demonstrations of the small world."""
    out = tmp_path_factory.mktemp("demonstrations") / "out.jsonl"
    facts = demonstrate(world_root, out, count=300, seed=1, graded=True)
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert facts == {"count": 300, "right": sum(line["right"] for line in found), "out": str(out)}
    return found


def failed(line):
    return any(turn["observation"].startswith("Execution failed.") for turn in line["turns"])


def test_only_train_tasks_are_played_and_evenly(lines, world_root):
    train = (world_root / "full" / "data" / "datasets" / "train.txt").read_text().split()
    counts = [sum(line["task_id"] == task_id for line in lines) for task_id in train]
    assert sum(counts) == len(lines) == 300
    assert set(counts) == {2, 3}


def test_a_line_holds_what_a_policy_is_told_and_what_it_did(lines):
    for line in lines:
        assert line["task_id"].startswith(line["scenario"] + "_")
        assert set(line["supervisor"]) == {"first_name", "last_name", "email", "phone_number"}
        assert 1 <= len(line["turns"]) <= 7
        assert all(turn["code"] and turn["observation"] for turn in line["turns"])
        assert "apis.supervisor.complete_task(" in line["turns"][-1]["code"]


def test_the_right_options_succeed_and_wrong_ones_do_not(lines):
    plain = [line for line in lines if not failed(line)]
    assert [line["task_id"] for line in plain if line["success"] != line["right"]] == []
    assert 0.25 < sum(line["right"] for line in lines) / len(lines) < 0.6


def test_some_cells_fail_and_some_of_those_are_tried_again(lines):
    broken = [line for line in lines if failed(line)]
    assert broken
    assert any(line["success"] for line in broken)
    assert not any(line["right"] for line in broken)


def test_a_few_look_around_look_an_api_up_or_forget_their_token_and_mend_it(lines):
    def turns(word):
        return [(line, i) for line in lines for i, turn in enumerate(line["turns"]) if word in turn["code"]]

    looked, looked_up = turns("print(*pw)"), turns("api_docs.show_api_doc(")
    slipped = [
        (line, i)
        for line in lines
        for i, (turn, after) in enumerate(itertools.pairwise(line["turns"]))
        if "Response status code is 401" in turn["observation"] and "access_token=" in after["code"]
    ]
    assert 1 <= len(looked) <= 20
    assert 1 <= len(looked_up + slipped) <= 40
    assert all(line["turns"][i]["observation"].startswith("amazon phone ") for line, i in looked)
    assert all("access_token" in line["turns"][i]["observation"] for line, i in looked_up)
    assert not any(line["right"] for line, _ in slipped)


def same_but_for_the_verdicts(lines, again):
    return [json.loads(line) for line in again.read_text().splitlines()] == [
        {**line, "success": None} for line in lines
    ]


def test_the_same_seed_gives_the_same_lines(world_root, tmp_path):
    first, again = tmp_path / "first.jsonl", tmp_path / "again.jsonl"
    demonstrate(world_root, first, count=12, seed=1, graded=True)
    demonstrate(world_root, again, count=12, seed=1)
    lines = [json.loads(line) for line in first.read_text().splitlines()]
    assert {line["success"] for line in lines} <= {True, False}
    assert len(lines) == 12
    assert same_but_for_the_verdicts(lines, again)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_lines_of_every_task(lines, world_root, tmp_path):
    demonstrate(world_root, tmp_path / "again.jsonl", count=300, seed=1)
    assert same_but_for_the_verdicts(lines, tmp_path / "again.jsonl")


def test_what_cannot_be_written_or_asked_for_is_refused(world_root, tmp_path):
    with pytest.raises(UsageError, match="does not exist; make it first"):
        demonstrate(world_root, tmp_path / "nowhere" / "out.jsonl", count=1, seed=1)
    with pytest.raises(UsageError, match="at least one demonstration"):
        demonstrate(world_root, tmp_path / "out.jsonl", count=0, seed=1)
