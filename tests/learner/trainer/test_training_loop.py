"""The wiring against a gateway that is a Python object: what it is told, what is written, what restarts make of it."""

import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from trainer_building import FakeGateway, make_group, make_model_folder, random_groups

from common.checkpoint import folder_of, published_versions, read_manifest
from common.config import RunConfig
from common.errors import RunError, UsageError
from common.metrics import MetricsFile
from learner.config import LearnerConfig
from learner.gateway.trainer_port import GroupRecord
from learner.trainer import loop
from learner.trainer.loop import Trainer
from learner.trainer.resume import STATE, WEIGHTS, newest_state, read_state

TRUE_SAVE, TRUE_PUBLISH = loop.resume.save_state, loop.publish_version


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_model_folder(tmp_path_factory.mktemp("base"))


class Killed(Exception):  # noqa: N818 - an event, no error
    """Stands for SIGKILL: nothing that comes after it runs."""


def make_config(base, *, steps=3, training="full", bound=100, **optimizer):
    return LearnerConfig.model_validate(
        {
            "model": {"path": base, "training": training, "device": "cpu"},
            "rollout": {"steps": steps, "staleness_bound": bound},
            "batch": {"micro_batch_tokens": 100},
            "optimizer": optimizer,
        }
    )


def groups_by_step(steps=10):
    return {step: random_groups(step, groups=2, members=3) for step in range(1, steps + 1)}


def train(folder, config, *, resumed=False, gateway=None, seed=1):
    """A whole life of a trainer, in this process. Returns it and its gateway."""
    gateway = gateway or FakeGateway(groups_by_step())
    trainer = Trainer(RunConfig(folder=folder, seed=seed), config, gateway)
    trainer.start(resumed=resumed)
    trainer.run()
    return trainer, gateway


def metrics_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights_after(folder, step):
    return load_file(folder / "state" / f"step{step:06d}" / WEIGHTS)


def same_bits(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in other)


@pytest.mark.parametrize("training", ["full", "lora"])
def test_a_run_publishes_the_start_and_a_version_a_step(base, tmp_path, training):
    _, gateway = train(tmp_path, make_config(base, training=training), gateway=FakeGateway(groups_by_step(), waits=2))
    assert gateway.resumed == [None]
    assert gateway.is_finished
    assert [(version, step) for version, _, step, _, _ in gateway.told] == [(0, 0), (1, 1), (2, 2), (3, 3)]
    for version, digest, step, _, _ in gateway.told:
        manifest, found = read_manifest(folder_of(tmp_path / "checkpoints", version))
        assert found == digest
        assert (manifest.step, manifest.run_id) == (step, "test-run")
        assert manifest.kind == ("adapter" if training == "lora" and version else "full")
    assert not same_bits(weights_after(tmp_path, 2), weights_after(tmp_path, 3))


def test_a_versions_card_states_the_evaluations_so_far(base, tmp_path):
    figures = {"policy_version": 0, "tasks": 3, "tgc": 0.25, "sgc": 0.125, "mean_reward": 0.5, "by_scenario": {}}
    MetricsFile(tmp_path / "metrics.jsonl").write("evaluation", label="before.t0", **figures)
    train(tmp_path, make_config(base, steps=1))
    card = (folder_of(tmp_path / "checkpoints", 1) / "README.md").read_text()
    assert "| before.t0 | 0 | 3 | 0.25 | 0.125 | 0.5 |" in card


def test_each_trajectory_handed_out_is_consumed_or_dropped(base, tmp_path):
    groups = {1: [*random_groups(1), make_group("equal", [0.5, 0.5], version=0)]}
    _, gateway = train(tmp_path, make_config(base, steps=1), gateway=FakeGateway(groups))
    _, _, _, consumed, dropped = gateway.told[1]
    handed = [member.trajectory_id for record in groups[1] for member in record.members]
    assert sorted([*consumed, *dropped]) == sorted(handed)
    assert dropped["equal.0.0"] == dropped["equal.1.0"] == "no_signal"


def test_a_step_says_what_it_did(base, tmp_path):
    train(tmp_path, make_config(base, steps=2))
    first, second = (event for event in metrics_of(tmp_path) if event["event"] == "step")
    records = groups_by_step()[1]
    members = [member for record in records for member in record.members]
    assert first["step"] == first["policy_version"] == 1
    assert first["groups"] == 2
    assert first["trajectories"] + sum(first["dropped"].values()) == len(members)
    assert first["mean_reward"] == pytest.approx(sum(member.reward for member in members) / len(members))
    assert first["sampled_tokens"] == sum(int(member.sampled.sum()) for member in members)
    assert first["optimizer_steps"] == 1
    assert first["gradient_norm"] > 0
    assert set(first["seconds"]) == {"wait", "forward_backward", "save_state", "publish"}
    assert set(first["lags"]) == {"0"}
    # the trajectories of the second step were sampled by version 0
    assert set(second["lags"]) == set(second["ratios"]["by_lag"]) == {"1"}


def test_lag_makes_ratios_that_are_not_1(base, tmp_path):
    """The same trajectories a second time, scored by the very policy that sampled them: only the first ratios are 1."""
    groups = groups_by_step()
    trainer = Trainer(RunConfig(folder=tmp_path), make_config(base), FakeGateway(groups))
    trainer.start(resumed=False)
    told = [behaviour_of(trainer.policy, record) for record in groups[1]]
    gateway = FakeGateway({1: told, 2: told})
    shutil.rmtree(tmp_path)
    train(tmp_path, make_config(base, steps=2), gateway=gateway)
    first, second = (event["ratios"] for event in metrics_of(tmp_path))
    assert first["ratio_max"] == pytest.approx(1.0, abs=1e-4)
    assert first["ess"] == pytest.approx(1.0, abs=1e-6)
    assert second["ratio_max"] > 1.005
    assert second["kl_k3"] > first["kl_k3"]


def behaviour_of(policy, record):
    """The group with the log-probs that an engine with this policy would have recorded."""
    members = []
    for member in record.members:
        log_probs = torch.zeros(len(member.tokens))
        log_probs[1:] = torch.tensor(policy.score(member.tokens.tolist()))
        recorded = (log_probs.numpy() * member.sampled).astype("<f4")
        members.append(member.model_copy(update={"log_prob_bytes": recorded.tobytes()}))
    return GroupRecord(record.group_id, record.task_id, members)


def test_a_step_without_signal_publishes_the_same_weights_and_goes_on(base, tmp_path):
    groups = {1: [make_group("g1", [0.5, 0.5])], 2: random_groups(2)}
    _, gateway = train(tmp_path, make_config(base, steps=2), gateway=FakeGateway(groups))
    assert gateway.told[1][3:] == ((), {"g1.0.0": "no_signal", "g1.1.0": "no_signal"})
    assert same_bits(weights_after(tmp_path, 1), load_weights(base))
    first = metrics_of(tmp_path)[0]
    assert (first["optimizer_steps"], first["refused"], first["ratios"]) == (0, False, {})


def load_weights(folder):
    return load_file(folder / "model.safetensors")


def poison(records):
    """Behaviour log-probs so low that every ratio overflows float32."""
    members = []
    for member in records[0].members:
        low = (member.sampled * -1000.0).astype("<f4")
        members.append(member.model_copy(update={"log_prob_bytes": low.tobytes()}))
    return [GroupRecord(records[0].group_id, records[0].task_id, members), *records[1:]]


def test_a_step_that_is_not_finite_is_skipped_counted_and_named(base, tmp_path):
    groups = {1: poison(random_groups(1)), 2: random_groups(2)}
    trainer, gateway = train(tmp_path, make_config(base, steps=2), gateway=FakeGateway(groups))
    _, _, _, consumed, dropped = gateway.told[1]
    assert consumed == ()
    assert "not_finite" in dropped.values()
    assert same_bits(weights_after(tmp_path, 1), load_weights(base))
    first, second = metrics_of(tmp_path)
    assert (first["refused"], first["loss"]) == (True, None)
    assert (second["refused"], second["optimizer_steps"]) == (False, 1)
    assert trainer.state.skips_in_a_row == 0


def test_too_many_steps_in_a_row_that_are_not_finite_end_the_run(base, tmp_path):
    groups = {step: poison(random_groups(step)) for step in (1, 2, 3)}
    config = make_config(base, steps=3, most_skips=2)
    with pytest.raises(RunError, match="2 steps in a row were not finite, the last was 2"):
        train(tmp_path, config, gateway=FakeGateway(groups))


def test_stale_trajectories_are_not_trained_on(base, tmp_path):
    groups = {1: random_groups(1), 2: [*random_groups(2, version=1), *random_groups(3, version=0)]}
    _, gateway = train(tmp_path, make_config(base, steps=2, bound=0), gateway=FakeGateway(groups))
    _, _, _, consumed, dropped = gateway.told[2]
    assert {name for name, reason in dropped.items() if reason == "stale"} == {
        member.trajectory_id for record in random_groups(3) for member in record.members
    }
    assert all(name.startswith("s2") for name in consumed)


def test_old_versions_and_states_are_removed(base, tmp_path):
    train(tmp_path, make_config(base, steps=6, bound=0, training="lora"), gateway=FakeGateway(fresh_groups(6)))
    assert published_versions(tmp_path / "checkpoints") == [0, 4, 5, 6]
    assert sorted(folder.name for folder in (tmp_path / "state").iterdir()) == ["step000005", "step000006"]


def test_versions_that_actors_use_stay(base, tmp_path):
    gateway = FakeGateway(fresh_groups(6))
    gateway.in_use = frozenset({1, 3})
    train(tmp_path, make_config(base, steps=6, bound=0), gateway=gateway)
    assert published_versions(tmp_path / "checkpoints") == [1, 3, 4, 5, 6]


def fresh_groups(steps):
    return {step: random_groups(step, version=step - 1) for step in range(1, steps + 1)}


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from test_training_loop import make_config, train
for training in ("full", "lora"):
    config = make_config(Path(sys.argv[1]), steps=6, training=training)
    train(Path(sys.argv[2]) / training / "stopped", config, resumed=True)
"""


def test_a_run_resumed_in_another_process_ends_bit_for_bit_as_if_it_had_not_stopped(base, tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for training in ("full", "lora"):
            train(tmp_path / training / "straight", make_config(base, steps=6, training=training))
            train(tmp_path / training / "stopped", make_config(base, steps=3, training=training))
    finally:
        torch.set_num_threads(threads)
    script = SCRIPT.format(tests=str(Path(__file__).parent))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", script, str(base), str(tmp_path)], check=True, env=environment, timeout=300)
    for training in ("full", "lora"):
        stopped, straight = tmp_path / training / "stopped", tmp_path / training / "straight"
        for file in ("state/step000006/weights.safetensors", "state/step000006/optimizer.safetensors"):
            assert same_bits(load_file(stopped / file), load_file(straight / file))
        files = [read_manifest(folder_of(run / "checkpoints", 6))[0].files for run in (stopped, straight)]
        for each in files:
            each.pop("README.md")  # says when it was made
        assert files[0] == files[1]


@pytest.fixture
def clock_stands_still():
    """Two runs made at the same time have the same model cards, and so the same digests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("learner.trainer.loop.utc_now", lambda: "2026-01-02 03:04:05")
        yield


@pytest.mark.usefixtures("clock_stands_still")
@pytest.mark.parametrize("where", ["before the state", "before the version", "before the word"])
@pytest.mark.parametrize("at_step", [0, 2])
def test_a_crash_anywhere_in_a_step_neither_loses_nor_repeats_it(base, tmp_path, monkeypatch, where, at_step):
    def crash(name, original, is_due):
        def act(*arguments, **options):
            if is_due(*arguments):
                raise Killed
            return original(*arguments, **options)

        monkeypatch.setattr(name, act)

    gateway = FakeGateway(groups_by_step())
    if where == "before the state":
        crash("learner.trainer.resume.save_state", TRUE_SAVE, lambda parent, state, *_: state.step == at_step)
    elif where == "before the version":
        crash(
            "learner.trainer.loop.publish_version", TRUE_PUBLISH, lambda _p, _c, _s, manifest: manifest.step == at_step
        )
    else:
        said = gateway.published

        def published(version, digest, step, *rest):
            if step == at_step:
                raise Killed
            return said(version, digest, step, *rest)

        gateway.published = published
    with pytest.raises(Killed):
        train(tmp_path / "crashed", make_config(base), gateway=gateway)
    monkeypatch.undo()
    _, second = train(tmp_path / "crashed", make_config(base), resumed=True)
    _, straight = train(tmp_path / "straight", make_config(base))
    assert same_bits(weights_after(tmp_path / "crashed", 3), weights_after(tmp_path / "straight", 3))
    told = {entry[0]: entry for entry in [*gateway.told, *second.told]}
    assert list(told.values()) == straight.told
    # the step that was under way is said to be consumed exactly when its state was complete
    complete = at_step if where != "before the state" else at_step - 1
    assert second.resumed == [None if complete < 1 else second.resumed[0]]
    if complete >= 1:
        assert (second.resumed[0].step, second.resumed[0].consumed) == (complete, straight.told[complete][3])


def test_the_version_of_a_state_is_told_again_and_not_published_again(base, tmp_path):
    _, first = train(tmp_path, make_config(base, steps=2))
    folder = folder_of(tmp_path / "checkpoints", 2)
    made = folder.stat().st_mtime_ns
    _, second = train(tmp_path, make_config(base, steps=2), resumed=True)
    assert second.told == [first.told[-1]]
    assert folder.stat().st_mtime_ns == made
    assert second.is_finished


def test_a_damaged_version_is_published_again_from_its_state_with_the_digest_it_had(base, tmp_path, monkeypatch):
    times = itertools.count()
    monkeypatch.setattr("learner.trainer.loop.utc_now", lambda: f"time {next(times)}")
    _, first = train(tmp_path, make_config(base, steps=2))
    weights = folder_of(tmp_path / "checkpoints", 2) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"1234")
    _, second = train(tmp_path, make_config(base, steps=2), resumed=True)
    assert second.told == [first.told[-1]]


def test_the_number_of_a_version_whose_state_is_gone_is_never_given_again(base, tmp_path):
    train(tmp_path, make_config(base, steps=3))
    shutil.rmtree(tmp_path / "state" / "step000003")
    _, gateway = train(tmp_path, make_config(base, steps=3), resumed=True)
    assert [(version, step) for version, _, step, _, _ in gateway.told] == [(2, 2), (4, 3)]


def test_a_half_written_state_is_not_taken_up(base, tmp_path):
    train(tmp_path, make_config(base, steps=2))
    newer = tmp_path / "state" / "step000003"
    shutil.copytree(tmp_path / "state" / "step000002", newer)
    (newer / STATE).unlink()
    assert read_state(newest_state(tmp_path / "state")).step == 2
    train(tmp_path, make_config(base, steps=3), resumed=True)
    assert read_state(newest_state(tmp_path / "state")).step == 3


def test_a_damaged_state_ends_the_run_with_the_files_name(base, tmp_path):
    train(tmp_path, make_config(base, steps=1))
    weights = tmp_path / "state" / "step000001" / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-4] + b"1234")
    with pytest.raises(RunError, match=r"step000001/weights\.safetensors: missing or damaged"):
        train(tmp_path, make_config(base, steps=2), resumed=True)


@pytest.mark.parametrize(
    ("change", "says"), [({"training": "lora"}, "state of another model"), ({"seed": 2}, "a run keeps its seed")]
)
def test_the_state_of_another_run_is_refused(base, tmp_path, change, says):
    train(tmp_path, make_config(base, steps=1))
    seed = change.get("seed", 1)
    with pytest.raises(UsageError, match=says):
        train(tmp_path, make_config(base, steps=2, training=change.get("training", "full")), resumed=True, seed=seed)


def test_a_folder_with_a_run_is_not_begun_anew_by_mistake(base, tmp_path):
    train(tmp_path, make_config(base, steps=1))
    with pytest.raises(UsageError, match="holds a run already: add --resume"):
        train(tmp_path, make_config(base, steps=2))


def test_versions_without_any_state_are_not_built_upon(base, tmp_path):
    train(tmp_path, make_config(base, steps=1))
    shutil.rmtree(tmp_path / "state")
    with pytest.raises(UsageError, match="has no state, but versions were published"):
        train(tmp_path, make_config(base, steps=2), resumed=True)


def test_resuming_what_never_began_begins_it(base, tmp_path):
    _, gateway = train(tmp_path, make_config(base, steps=1), resumed=True)
    assert [(version, step) for version, _, step, _, _ in gateway.told] == [(0, 0), (1, 1)]


def test_what_crashes_left_half_made_is_removed(base, tmp_path):
    train(tmp_path, make_config(base, steps=1))
    (tmp_path / "checkpoints" / ".draft-v000002-1").mkdir()
    (tmp_path / "state" / ".draft-step000002-1").mkdir()
    train(tmp_path, make_config(base, steps=1), resumed=True)
    assert not [*tmp_path.glob("*/.draft-*")]
