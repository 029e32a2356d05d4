import json
import subprocess
import sys

import pytest
import structlog

from actor.world import cli, show
from actor.world.scenarios import CHALLENGE, TRAIN, UNSEEN
from common.errors import UsageError


@pytest.fixture(autouse=True)
def logs_as_they_were():
    """The command sets up logs on the standard error of its test, which is closed after it."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


def loop(*words):
    return subprocess.run(
        [sys.executable, "-m", "common.cli", "world", *map(str, words)], capture_output=True, text=True, check=False
    )


def test_a_task_is_shown_with_all_that_a_person_needs(world_root):
    facts = show.task_facts(world_root, "payFriend_1")
    assert facts["dataset"] == "train"
    assert facts["apps"] == ["venmo"]
    assert facts["difficulty"] == 2
    assert facts["answer"] is None
    assert facts["instruction"].startswith("Send ")
    assert facts["solution"][0].endswith(
        "t = apis.venmo.login(username=me['email'], password=pw['venmo'])['access_token']"
    )
    assert facts["requirements"][0] == "that amount went to that person"
    assert "def evaluate(" in facts["tests"]


def test_the_command_prints_a_task_for_a_person(world_root):
    done = loop("show", "longestSong_1", "--root", world_root)
    assert done.returncode == 0, done.stderr
    for piece in ("longestSong_1", "What is the title of the longest song", "cell 3", "the answer is right"):
        assert piece in done.stdout


def test_the_command_prints_a_task_as_json(world_root):
    done = loop("show", "longestSong_1", "--root", world_root, "--json")
    assert json.loads(done.stdout) == show.task_facts(world_root, "longestSong_1")


def test_without_a_task_the_scenarios_are_listed(world_root):
    facts = {fact["scenario"]: fact for fact in show.scenario_facts(world_root)}
    assert len(facts) == len(TRAIN + UNSEEN + CHALLENGE)
    assert facts["likeSong"]["tasks"] == {"train": 4, "dev": 1, "test_normal": 1, "test_challenge": 0}
    assert facts["alarmTime"]["tasks"]["test_normal"] == 1


def test_an_unknown_task_is_refused_with_the_nearest_one(world_root):
    with pytest.raises(UsageError, match=r"there is no task likeSing_1 in .*; the nearest is likeSong_1"):
        show.task_facts(world_root, "likeSing_1")


def test_a_task_id_that_climbs_out_of_the_folder_is_refused(world_root):
    with pytest.raises(UsageError, match="there is no task"):
        show.task_facts(world_root, "../tasks/likeSong_1")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["buidl"], "invalid choice: 'buidl'"),
        (["build", "--train", "many"], "'many' is not a number"),
        (["build", "--train", "0"], "--train: input should be greater than or equal to 1"),
        (["show", "--root", "/nowhere"], "/nowhere is not a data root"),
        (["demonstrate", "--root", "/nowhere", "--out", "x"], "/nowhere is not a data root"),
    ],
)
def test_bad_words_are_refused_in_one_line(words, problem):
    with pytest.raises(UsageError, match=problem):
        cli.main(words)


def test_the_built_world_is_named_as_json(world_root, capsys):
    sizes = ["--train", "4", "--dev", "1", "--test", "1", "--unseen", "1", "--challenge", "1"]
    assert cli.main(["build", *sizes, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["root"] == str(world_root)
    assert found["tasks"]["train"] == 4 * len(TRAIN)
