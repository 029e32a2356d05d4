"""A run that was backed up and restored as the operations document says goes on elsewhere, without what it left behind.

Minutes long: `pytest -m slow tests/system/test_restored_backup.py`.
"""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from system.conftest import run_loop
from system.soaking import Soak

DOCUMENT = Path(__file__).resolve().parents[2] / "common" / "docs" / "operations.md"
LONGEST_SECONDS = 1800


def commands():
    """Those of the document's section: to back up, and to restore; words each."""
    text = DOCUMENT.read_text(encoding="utf-8")
    section = text.split("\n## Back-up and restore of a run\n")[1].split("\n## ")[0]
    blocks = re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    back_up, restore = (block.replace("\\\n", " ").splitlines() for block in blocks)
    return [shlex.split(line) for line in back_up], [shlex.split(part) for line in restore for part in line.split("&&")]


def metrics(run, event):
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == event]


def test_the_document_stops_nothing_and_resumes():
    """What the slow test takes out of it is there."""
    back_up, restore = commands()
    assert [words[0] for words in back_up] == ["tar", "cp"]
    assert [words[:2] for words in restore if words[0] == "loop"] == [["loop", "ledger"], ["loop", "learner"]]
    assert "--resume" in restore[-1]
    assert restore[-1][restore[-1].index("--run.folder") + 1] == restore[-2][-1] == "restored/first"


@pytest.mark.slow
@pytest.mark.timeout(LONGEST_SECONDS)
def test_a_run_goes_on_from_its_back_up_on_another_machine(tmp_path, world_root, small_policy):
    here, there = tmp_path / "here", tmp_path / "there"
    back_up, restore = commands()
    run = here / "runs" / "first"
    with Soak(run, small_policy, world_root, keys=here / "keys") as soak:
        soak.until_steps(2)
        left = soak.leave()
    assert left["exit_codes"] == {"actor": 0, "learner": 0}
    made = [line["step"] for line in metrics(run, "step")]
    assert made == list(range(1, len(made) + 1))

    for words in back_up:
        subprocess.run(words, cwd=here, check=True)
    there.mkdir()
    shutil.move(here / "first.tar", there)
    shutil.move(here / "kept-keys", there / "keys")
    shutil.rmtree(here)
    for words in restore:
        if words[0] != "loop":
            subprocess.run(words, cwd=there, check=True)
    restored = there / "restored" / "first"
    assert not (restored / "versions").exists()
    assert not (restored / "actors").exists()
    books = json.loads(run_loop("ledger", restored, "--json").stdout)
    assert books == left["books"]

    with Soak(restored, small_policy, world_root, keys=there / "keys", resumed=True) as soak:
        soak.until_steps(len(made) + 3)
        ending = soak.leave()
    assert ending["exit_codes"] == {"actor": 0, "learner": 0}
    steps = [line["step"] for line in metrics(restored, "step")]
    # the step that the stop fell into may be made again, with the same figures: readers take one of a step
    assert sorted(set(steps)) == list(range(1, max(steps) + 1)), "none is left out"
    assert len(steps) - len(set(steps)) <= 1
    assert max(steps) >= len(made) + 2
    assert ending["books"]["balanced"] is True
    assert ending["books"]["issued"] > books["issued"]
    assert ending["books"]["trained"] >= books["trained"], "a step whose groups have no signal trains on nothing"
    assert [line for line in metrics(restored, "reload") if not line["accepted"]] == []
