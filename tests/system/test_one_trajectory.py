"""One real trajectory through all twelve stages, in real processes: gateway, trainer, actor with vLLM, AppWorld; and
what can be asked of its run when it is over: does it replay, and what did its policy do.
"""

import json
import sqlite3
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from system.conftest import assert_all_come_out_again, run_loop

from common.checkpoint import folder_of, published_versions, read_manifest, verify
from common.messages import Trajectory
from common.prompt import Prompt
from common.segments import Place, read_frame
from common.wire import decode


def rows(file, query, *values):
    with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as database:
        return database.execute(query, values).fetchall()


def lines(file, event):
    return [line for line in map(json.loads, file.read_text().splitlines()) if line["event"] == event]


def journalled(run, query, *values):
    """Trajectories that the ledger names, as they came over the link."""
    places = rows(run / "ledger.sqlite", f"SELECT t.segment, t.offset, t.length FROM {query}", *values)
    return [decode(read_frame(run / "journal", Place(*place))) for place in places]


@pytest.fixture(scope="module")
def trained(finished_run):
    """A trajectory that was trained on, as it came over the link."""
    joined = "trajectories t JOIN leases l ON t.trajectory_id = l.lease_id WHERE state = 'trained' ORDER BY lease_id"
    found = journalled(finished_run, joined)
    assert found, "no trajectory was trained on"
    trajectory = found[0]
    assert isinstance(trajectory, Trajectory)
    return trajectory


def group_of(run, trajectory):
    """All members of its group."""
    joined = "trajectories t JOIN leases l ON t.trajectory_id = l.lease_id WHERE group_id = ? ORDER BY member"
    return journalled(run, joined, trajectory.lease.group_id)


def test_stage_1_a_lease_was_granted_for_a_training_task(finished_run, trained, world_root):
    tasks = (world_root / "full" / "data" / "datasets" / "train.txt").read_text().split()
    assert trained.lease.purpose == "train"
    assert trained.lease.task_id in tasks
    assert trained.trajectory_id == trained.lease.lease_id
    ((actor, purpose),) = rows(
        finished_run / "ledger.sqlite", "SELECT actor, purpose FROM leases WHERE lease_id = ?", trained.trajectory_id
    )
    assert (actor, purpose) == ("actor-0", "train")


def test_stage_2_the_episode_was_played_in_the_real_world(finished_run, trained, small_policy):
    """Code that the policy wrote was executed: the world's own words stand between the turns."""
    prompt = Prompt.load(small_policy)
    assert 1 <= len(trained.turns) <= trained.lease.sampling.max_turns
    observations = [
        prompt.text(list(member.tokens[end:begin]))
        for member in group_of(finished_run, trained)
        for (_, end), (begin, _) in pairwise(member.turns)
    ]
    assert any("Execution successful" in text or "Traceback" in text or "Error" in text for text in observations)
    assert trained.world_seconds > 0
    assert trained.engine_seconds > 0


def test_stage_3_every_sampled_token_has_its_log_prob_and_version(trained):
    assert trained.sampled.sum() == sum(end - begin for begin, end in trained.turns)
    assert (trained.log_probs[trained.sampled] <= 0).all()
    assert (trained.log_probs[trained.sampled] < 0).any()
    assert set(trained.versions[trained.sampled]) <= {0, 1}


def test_stage_4_what_was_acknowledged_is_journalled_and_has_left_the_spool(finished_run):
    spool = finished_run / "actors" / "actor-0" / "spool.sqlite"
    (table,) = rows(spool, "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")[0]
    assert rows(spool, f"SELECT count(*) FROM {table}") == [(0,)]
    ((journalled,),) = rows(finished_run / "ledger.sqlite", "SELECT count(*) FROM trajectories")
    assert journalled >= 2 * 4 * 6 + 2 * 4


def test_stage_5_the_group_has_all_its_members_and_one_task(finished_run, trained):
    members = group_of(finished_run, trained)
    assert [member.lease.member for member in members] == list(range(6))
    assert {member.lease.task_id for member in members} == {trained.lease.task_id}


def test_stage_6_only_members_with_an_advantage_were_trained_on(finished_run, trained):
    members = group_of(finished_run, trained)
    total = sum(member.reward for member in members)
    advantages = {m.trajectory_id: m.reward - (total - m.reward) / (len(members) - 1) for m in members}
    query = (
        "SELECT lease_id, state FROM leases WHERE group_id = ? AND lease_id IN (SELECT trajectory_id FROM trajectories)"
    )
    states = dict(rows(finished_run / "ledger.sqlite", query, trained.lease.group_id))
    expected = {name: "trained" if abs(value) >= 0.01 else "dropped" for name, value in advantages.items()}
    assert states == expected


def test_stages_7_and_8_at_lag_0_the_learner_and_the_engine_agree_on_each_log_prob(finished_run):
    first = lines(finished_run / "metrics.jsonl", "step")[0]
    fresh = first["ratios"]["by_lag"]["0"]
    assert fresh["ratio_mean"] == pytest.approx(1.0, abs=1e-4)
    assert fresh["ratio_max"] == pytest.approx(1.0, abs=1e-3)
    assert abs(fresh["kl_k1"]) < 1e-5
    assert first["trained_tokens"] >= fresh["tokens"] > 0


def test_stage_9_each_step_changed_the_parameters(finished_run):
    folders = [folder_of(finished_run / "checkpoints", version) for version in (0, 1, 2)]
    weights = [load_file(folder / "model.safetensors") for folder in folders]
    for before, after in pairwise(weights):
        changes = [np.abs(after[name] - before[name]).max() for name in before]
        assert 0 < max(changes) < 0.1
    assert [event["policy_version"] for event in lines(finished_run / "metrics.jsonl", "step")] == [1, 2]


def test_stage_10_each_version_is_whole_and_names_its_run(finished_run):
    assert published_versions(finished_run / "checkpoints") == [0, 1, 2]
    for version in (0, 1, 2):
        manifest = verify(folder_of(finished_run / "checkpoints", version))
        assert manifest.policy_version == version
        assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(manifest.files)


def test_stage_11_each_version_was_announced_with_its_digest(finished_run):
    digests = {version: read_manifest(folder_of(finished_run / "checkpoints", version))[1] for version in (0, 1, 2)}
    known = dict(rows(finished_run / "ledger.sqlite", "SELECT version, digest FROM versions"))
    assert known == digests


def test_stage_12_each_new_version_was_probed_and_then_sampled_with(finished_run):
    reloads = lines(finished_run / "logs" / "gateway.jsonl", "version_reloaded")
    assert {line["policy_version"] for line in reloads} >= {2}
    assert max(line["probe_difference"] for line in reloads) < 1e-4
    after = journalled(finished_run, "trajectories t WHERE label = 'after.t0'")
    assert len(after) == 4
    assert {int(version) for one in after for version in one.versions[one.sampled]} == {2}


def test_the_books_balance(finished_run):
    books = json.loads(run_loop("ledger", finished_run, "--json").stdout)
    assert books["balanced"] is True
    assert books["pending"] == {}
    assert books["faults"] == []


def test_the_last_version_gives_the_probes_log_probs_in_transformers_and_in_vllm(finished_run):
    """In a process of its own: vLLM's engine for a script, `vllm.LLM`, as a user would call it."""
    script = Path(__file__).parent / "load_version.py"
    folder = folder_of(finished_run / "checkpoints", 2)
    done = subprocess.run([sys.executable, str(script), str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    differences = json.loads(done.stdout.splitlines()[-1])
    assert differences["transformers"] < 1e-4
    assert differences["vllm"] < 1e-4


def test_every_trajectory_of_the_run_comes_out_again(finished_run, world_root):
    assert assert_all_come_out_again(finished_run, world_root) >= 2 * 4 * 6 + 2 * 4


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
