"""`loop replay` as a person calls it, on a run folder with a journal, a configuration and a tokenizer."""

import json
import subprocess
import sys

import pytest
import recording
import yaml
from recording import record

from actor.world.replay_cli import main
from common.checkpoint import TOKENIZER
from common.errors import UsageError
from common.segments import Segments
from common.wire import encode

FINISH = "apis.supervisor.complete_task()"


@pytest.fixture(scope="module")
def run(worlds, tmp_path_factory):
    """Three trajectories; the grade of one is not its own."""
    folder, prompt = tmp_path_factory.mktemp("run"), recording.make_prompt()
    segments = Segments(folder / "journal", {})
    for number in range(3):
        story = ["import random\nprint(random.random())", FINISH]
        trajectory = worlds.run(record(worlds.host, prompt, worlds.tasks[number], story, name=f"g{number}.0.0"))
        planted = {"reward": 1.0, "success": True, "failures": ()} if number == 2 else {}
        segments.append(encode(trajectory.model_copy(update=planted)))
    segments.close()
    with (folder / "journal" / "000001.frames").open("ab") as file:
        file.write(encode(trajectory)[:100])
    (folder / "model").mkdir()
    prompt._tokenizer.save(str(folder / "model" / TOKENIZER))
    world = {"root": str(worlds.root), "memory_megabytes": 256, "max_worlds": 4}
    (folder / "config.yaml").write_text(yaml.safe_dump({"world": world, "run": {"seed": 3}}))
    return folder


def test_all_of_a_run_is_audited_and_what_differs_makes_it_fail(run, capfd):
    assert main([str(run), "--all", "--json"]) == 1
    facts = json.loads(capfd.readouterr().out)
    assert (facts["replayed"], facts["same"], facts["different"]) == (3, 2, 1)
    assert facts["kinds"] == {"grade": 1}
    assert [one["trajectory_id"] for one in facts["trajectories"]] == ["g2.0.0"]
    (damage,) = facts["damage"]
    assert "its last frame, 100 bytes" in damage


def test_one_trajectory_is_told_to_a_person(run, capfd):
    assert main([str(run), "g2.0.0"]) == 1
    out = capfd.readouterr().out
    assert "the grade of turn 1 differs" in out
    assert "    -reward 1.0" in out.splitlines()
    assert out.splitlines()[-1] == "1 replayed: 0 the same, 1 different; first difference: the grade 1"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "name a run"),
        (["RUN"], "or --all"),
        (["RUN", "g0.0.0", "--all"], "or --all"),
        (["RUN", "g0.0.0", "--sample", "3"], "--sample is for --all"),
        (["RUN", "--all", "--sample", "x"], "a number of 0 or more"),
        (["RUN", "--all", "--seed"], "a value is missing"),
        (["RUN", "--all", "--world.rot", "x"], "did you mean '--world.root'"),
        (["RUN", "g1.0.1"], "no trajectory g1.0.1; the nearest of 3 is g1.0.0"),
    ],
)
def test_what_is_wrong_with_its_words_is_said(run, words, told):
    with pytest.raises(UsageError, match=told):
        main([str(run) if word == "RUN" else word for word in words])


def test_a_run_without_a_tokenizer_asks_for_one(run, tmp_path):
    (tmp_path / "journal").symlink_to(run / "journal")
    with pytest.raises(UsageError, match="name one with --model FOLDER"):
        main([str(tmp_path), "g0.0.0"])


def test_its_help_names_its_own_words_and_the_worlds():
    done = subprocess.run(
        [sys.executable, "-m", "common.cli", "replay", "--help"], capture_output=True, text=True, check=True
    )
    assert {"--all", "--json"} <= set(done.stdout.split())
    assert "--world.root" in done.stdout
    assert "--actor." not in done.stdout
