"""`loop behaviour` on small run folders, and what the demo makes of it."""

import json

import pytest
from test_journal import make_trajectory, write
from test_prompt import make_prompt

from common.behaviour_cli import main
from common.checkpoint import TOKENIZER
from common.config import all_sections, load
from common.demo import TINY, Demo
from common.errors import UsageError
from common.wire import encode

LABELS = ["", "before.t0", "before.t0", "before.t1", *[""] * 19, "after.t1", "after.t0", "after.t0.test_challenge"]


def make_run(folder, labels=LABELS):
    """A run folder: one trajectory per label, in this order; the even ones of them solved."""
    made = [make_trajectory(f"g{number}.0.0", label=label) for number, label in enumerate(labels)]
    write(folder, [encode(one.model_copy(update={"success": number % 2 == 0})) for number, one in enumerate(made)])
    (folder / "model").mkdir()
    make_prompt()._tokenizer.save(str(folder / "model" / TOKENIZER))
    return folder


def told(capsys, *words):
    assert main([str(word) for word in (*words, "--json")]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["damage"] == []
    return {one["name"]: (one["episodes"], one["tgc"]) for one in facts["sets"]}


def test_evaluations_before_and_after_at_the_lowest_temperature_are_compared(tmp_path, capsys):
    assert told(capsys, make_run(tmp_path)) == {"before.t0": (2, 0.5), "after.t0": (1, 1.0)}


def test_a_run_without_evaluations_compares_its_first_and_last_tenth(tmp_path, capsys):
    run = make_run(tmp_path, [""] * 21)
    assert told(capsys, run) == {"first": (2, 0.5), "last": (2, 0.5)}
    assert told(capsys, run, "--label", "all") == {"all": (21, round(11 / 21, 6))}


def test_any_label_is_a_set_and_an_unknown_one_is_told_which_there_are(tmp_path, capsys):
    run = make_run(tmp_path)
    assert told(capsys, run, "--label", "before.t1", "--label", "train") == {"before.t1": (1, 0.0), "train": (20, 0.55)}
    with pytest.raises(UsageError, match=r"labelled dev.v5; there are train \(20\), before.t0 \(2\)"):
        main([str(run), "--label", "dev.v5"])


def test_several_runs_stand_side_by_side(tmp_path, capsys):
    runs = [make_run(tmp_path / name) for name in ("a", "b")]
    assert told(capsys, *runs) == {"a all": (26, 0.5), "b all": (26, 0.5)}
    assert set(told(capsys, *runs, "--label", "after.t0")) == {"a after.t0", "b after.t0"}
    files = [run / "journal" / "000001.frames" for run in runs]
    with pytest.raises(UsageError, match="--model"):
        main([str(files[0])])
    assert told(capsys, files[0], "--model", runs[0] / "model") == {"before.t0": (2, 0.5), "after.t0": (1, 1.0)}


def test_a_person_gets_a_table(tmp_path, capsys):
    assert main([str(make_run(tmp_path))]) == 0
    out = capsys.readouterr().out
    cells = [line.split("│")[1:3] for line in out.splitlines() if "│" in line]
    assert ["TGC", "50.0%"] in [[cell.strip() for cell in pair] for pair in cells]
    assert "before.t0" in out


def test_the_demo_tells_the_behaviour_of_a_run_that_was_evaluated_and_nothing_of_another(tmp_path):
    run = make_run(tmp_path / "run")
    demo = Demo(load(all_sections(), TINY, []), run, resumed=True)
    sets = demo.behaviour(["before.t0", "after.t0"])
    assert [(one["label"], one["episodes"]) for one in sets] == [("before.t0", 2), ("after.t0", 1)]
    assert demo.behaviour(["before.t7", "after.t7"]) == []
    assert '"event": "behaviour_unknown"' in (run / "logs" / "demo.jsonl").read_text()
    assert {file.name for file in (run / "logs").iterdir()} == {"behaviour.out", "demo.jsonl"}
