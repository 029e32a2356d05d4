"""`--trajectory ID`: a life across both sides, and what of it has no line."""

import json

import pytest
from log_lines import line, run_of

from common import tail
from common.errors import RunError
from common.tail_life import STATIONS, Life

ID, GROUP = "g000041.3.0", "g000041"
OWN = {"lease": ID, "group": GROUP, "task": "a_1"}
GATEWAY = [
    line(1, "lease_granted", level="debug", process="gateway", **OWN, actor="gpu-2", policy_version=3),
    line(2, "lease_granted", level="debug", process="gateway", lease="g000041.4.0", group=GROUP, actor="gpu-1"),
    line(8, "trajectory_received", level="debug", process="gateway", trajectory=ID, actor="gpu-2", reward=1.0),
    line(9, "trajectory_journalled", level="debug", process="gateway", **OWN, actor="gpu-2"),
    line(11, "group_ready", level="debug", process="gateway", group=GROUP, task="a_1", trajectories=6),
    line(12, "group_handed", level="debug", process="gateway", group=GROUP, task="a_1", step=7),
    line(12.1, "groups_handed", process="gateway", step=7, groups=4),
    line(14, "version_published", process="gateway", step=7, policy_version=7),
    line(15, "version_published", process="gateway", step=8, policy_version=8),
    line(14.1, "trajectory_trained", process="gateway", **OWN, trajectory=ID, actor="gpu-2", step=7),
]
ACTOR = [
    line(3, "episode_began", level="debug", process="actor", actor="gpu-2", **OWN),
    line(4, "turn_sampled", level="debug", process="actor", actor="gpu-2", lease=ID, turn=1),
    line(5, "turn_sampled", level="debug", process="actor", actor="gpu-2", lease=ID, turn=2),
    line(6, "episode_finished", process="actor", actor="gpu-2", **OWN, reward=1.0),
    line(6.1, "trajectory_spooled", level="debug", process="actor", actor="gpu-2", trajectory=ID),
    line(7, "trajectory_sent", level="debug", process="actor", actor="gpu-2", trajectory=ID),
    line(10, "trajectory_acknowledged", level="debug", process="actor", actor="gpu-2", trajectory=ID, outcome="ok"),
    line(10.1, "episode_finished", process="actor", actor="gpu-2", lease="g000042.0.0", group="g000042"),
]
TRAINER = [line(13, "step_made", step=7, policy_version=7), line(15, "step_made", step=8, policy_version=8)]


def info(*lines):
    """What is left of them where the level is info."""
    return [one for one in lines if json.loads(one)["level"] != "debug"]


def events(capsys, *words):
    assert tail.main([*map(str, words), "--json"]) == 0
    printed = capsys.readouterr()
    return [json.loads(row)["event"] for row in printed.out.splitlines()], printed.err


def life_of(*lines):
    life = Life(ID)
    list(life.add((b"", one.encode()) for one in lines))
    return life


def test_a_whole_life_is_told_in_order_from_the_lines_of_both_sides(tmp_path, capsys):
    run = run_of(tmp_path / "run", gateway=GATEWAY, trainer=TRAINER, actor=ACTOR)
    found, said = events(capsys, run, "--trajectory", ID)
    assert found == [
        "lease_granted",
        "episode_began",
        "turn_sampled",
        "turn_sampled",
        "episode_finished",
        "trajectory_spooled",
        "trajectory_sent",
        "trajectory_received",
        "trajectory_journalled",
        "trajectory_acknowledged",
        "group_ready",
        "group_handed",
        "groups_handed",
        "step_made",
        "version_published",
        "trajectory_trained",
    ]
    assert said == ""


def test_a_person_reads_whose_life_it_is_its_outcome_and_each_station(tmp_path, capsys):
    run = run_of(tmp_path / "run", gateway=GATEWAY, trainer=TRAINER, actor=ACTOR)
    assert tail.main([str(run), "--trajectory", ID]) == 0
    head, outcome, *rows = capsys.readouterr().out.splitlines()
    assert head == f"trajectory {ID}  group {GROUP}  task a_1  actor gpu-2  reward 1.0"
    assert outcome == "trained in step 7"
    assert [row[:21].strip() for row in rows[:3]] == ["granted", "episode begun", "turns"]
    assert rows[0].endswith("actor=gpu-2 policy_version=3")
    assert len(rows) == 16


def test_at_the_usual_level_it_says_what_was_passed_without_a_line(tmp_path, capsys):
    run = run_of(tmp_path / "run", gateway=info(*GATEWAY), trainer=TRAINER, actor=info(*ACTOR))
    found, said = events(capsys, run, "--trajectory", ID)
    assert found == ["episode_finished", "groups_handed", "step_made", "version_published", "trajectory_trained"]
    assert said == (
        "passed without a line: granted, episode begun, turns, spooled, sent, received, journalled, acknowledged,"
        " grouped (--run.log_level debug logs every step of a life)\n"
    )


def test_a_life_that_goes_on_says_what_has_no_line_yet():
    passed, to_come = life_of(*ACTOR[:6], GATEWAY[0]).without_a_line()
    assert passed == []
    assert to_come == ["received", "journalled", "acknowledged", "grouped", "handed to the trainer", "ended"]


def test_one_that_was_dropped_tells_why_and_waits_for_nothing():
    lapsed = line(9, "lease_dropped", process="gateway", **OWN, actor="gpu-2", reason="lapsed")
    life = life_of(GATEWAY[0], *ACTOR[:3], lapsed)
    assert life.outcome == "dropped: lapsed"
    assert life.without_a_line() == ([], [])


def test_one_that_was_evaluated_has_no_group_to_wait_for():
    life = Life("before.t0.a_1.0.0")
    rows = [line(1, event, lease=life.trajectory) for station, (event, *_) in STATIONS.items() if station != "ended"]
    rows = [row for row in rows if "group" not in row]
    rows.append(line(2, "trajectory_evaluated", lease=life.trajectory))
    list(life.add((b"", row.encode()) for row in rows))
    assert life.outcome == "evaluated"
    assert life.without_a_line() == ([], [])


def test_a_dropped_lease_whose_trajectory_came_after_all_is_what_became_of_it_last():
    assert life_of(line(1, "lease_dropped", **OWN, reason="lapsed"), GATEWAY[9]).outcome == "trained in step 7"


def test_the_lines_of_its_siblings_and_of_other_steps_are_not_its_own():
    life = life_of(*GATEWAY, *TRAINER, *ACTOR)
    assert not [part for part in life.parts if part.fields.get("step") == 8]
    assert {part.fields.get("lease", ID) for part in life.parts} == {ID}


def test_lines_of_its_step_count_also_when_they_came_before_it_was_known():
    early = [line(13, "step_made", step=7), line(12, "groups_handed", step=7)]
    assert len(life_of(*early, GATEWAY[9]).parts) == 3


def test_one_that_no_line_names_is_an_error_that_says_where_else_to_look(tmp_path):
    run = run_of(tmp_path / "run", gateway=GATEWAY)
    with pytest.raises(RunError, match="loop ledger"):
        tail.main([str(run), "--trajectory", "g000099.0.0"])
