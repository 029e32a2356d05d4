"""What can be asked of a run when it is over: does it replay, and what did its policy do."""

import json

from system.conftest import run_loop

from common.journal import Journal


def test_every_trajectory_of_the_run_comes_out_again(finished_run, world_root):
    facts = json.loads(run_loop("replay", finished_run, "--all", "--json", "--world.root", world_root).stdout)
    recorded = sum(1 for _ in Journal(finished_run).places())
    assert recorded >= 2 * 4 * 6 + 2 * 4
    assert (facts["replayed"], facts["same"], facts["trajectories"]) == (recorded, recorded, [])
    assert facts["damage"] == []


def test_its_behaviour_is_told_before_and_after(finished_run):
    before, after = json.loads(run_loop("behaviour", finished_run, "--json").stdout)["sets"]
    assert (before["label"], after["label"]) == ("before.t0", "after.t0")
    assert before["episodes"] == after["episodes"] == 4
    evaluations = [json.loads(line) for line in (finished_run / "metrics.jsonl").read_text().splitlines()]
    shares = {one["label"]: one["tgc"] for one in evaluations if one["event"] == "evaluation"}
    assert {"before.t0": before["tgc"], "after.t0": after["tgc"]} == shares
    assert 1 <= before["turns"] <= 7
    first, last = json.loads(
        run_loop("behaviour", finished_run, "--label", "first", "--label", "last", "--json").stdout
    )["sets"]
    assert first["episodes"] == last["episodes"] == 4
    assert "turns / episode" in run_loop("behaviour", finished_run).stdout
