"""Planted mismatch and planted staleness are told apart, and the policy is afterwards what it was, bit for bit."""

import json
import shutil
import weakref

import numpy as np
import pytest
import recomputed_split as slow
import torch
from peft import PeftModel
from safetensors import safe_open as TRUE_OPEN  # noqa: N812 - what a test stands in for
from safetensors.torch import load_file, save_file
from trainer_building import FakeGateway, make_model_folder, make_trajectory, random_groups
from transformers import AutoModelForCausalLM

from common.checkpoint import MANIFEST, folder_of
from common.config import RunConfig
from common.errors import RunError
from learner.config import LearnerConfig
from learner.trainer.advantage import Scored
from learner.trainer.config import DiagnosticsConfig
from learner.trainer.loop import Trainer
from learner.trainer.model import load_policy
from learner.trainer.optimizer import Optimizer
from learner.trainer.publish import manifest_of, probe_tokens, publish_version
from learner.trainer.resume import WEIGHTS, TrainerState, fingerprint, load_state, newest_state, save_state
from learner.trainer.retained import Kept, recompute
from learner.trainer.update import update

NOW = 3  # the learner's version


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_model_folder(tmp_path_factory.mktemp("base"), deviation=0.1)


class History:
    """A policy that was published as versions 0 to 3, each apart from the one before, and whose state was saved."""

    def __init__(self, base, folder, training):
        self.base, self.folder, self.training = base, folder, training
        self.config = LearnerConfig.model_validate(
            {
                "model": {"path": base, "device": "cpu", "training": training, "lora": {"dropout": 0.2}},
                "diagnostics": {"recomputed_share": 1.0},
            }
        )
        self.checkpoints, self.plain = folder / "checkpoints", {}
        self.policy = load_policy(self.config.model, base, seed=1)
        self.optimizer = Optimizer(self.policy.trainable(), self.config.optimizer)
        if not folder.exists():
            self.make()
        self.kept = Kept(self.checkpoints, newest_state(folder / "state") / WEIGHTS)

    def make(self):
        noise = torch.Generator().manual_seed(5)
        tokens = probe_tokens(self.base, self.policy.context)
        for version in range(NOW + 1):
            if version:
                with torch.no_grad():
                    for value in self.policy.trainable().values():
                        value.add_(0.03 * torch.randn(value.shape, generator=noise))
            manifest = manifest_of(self.policy, run_id="r", policy_version=version, step=version, tokens=tokens)
            publish_version(self.policy, self.checkpoints, self.base, manifest, card="")
        self.save(step=NOW)

    def save(self, step):
        state = TrainerState(run_id="r", seed=1, model=fingerprint(self.policy), step=step, policy_version=NOW)
        folder = save_state(self.folder / "state", state, self.policy, self.optimizer)
        self.kept = Kept(self.checkpoints, folder / WEIGHTS)

    def copy(self, folder):
        """The same in another folder, for tests that change it."""
        shutil.copytree(self.folder, folder)
        made = History(self.base, folder, self.training)
        load_state(newest_state(folder / "state"), made.policy, made.optimizer, seed=1)
        made.plain = self.plain
        return made

    def recompute(self, scored, **overrides):
        config = self.config.model_copy(update=overrides)
        return recompute(self.policy, scored, config, self.kept, step=4, policy_version=NOW, seed=1)

    def log_probs(self, version, tokens):
        """Log p(token | before) [tokens] of a version as its files say, by transformers' own attention; first is 0."""
        ids = torch.tensor(np.asarray(tokens, np.int64))
        with torch.no_grad():
            logits = self.engine(version)(ids[None]).logits[0, :-1].double()
        return np.concatenate([[0.0], torch.log_softmax(logits, -1).gather(-1, ids[1:, None])[:, 0].numpy()])

    def engine(self, version):
        if version not in self.plain:
            folder = folder_of(self.checkpoints, 0 if self.training == "lora" else version)
            plain = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
            if self.training == "lora" and version:
                plain = PeftModel.from_pretrained(plain, folder_of(self.checkpoints, version))
            self.plain[version] = plain.eval()
        return self.plain[version]


@pytest.fixture(scope="module", params=["full", "lora"])
def shared(request, base, tmp_path_factory):
    """One a kind of training, for the tests that leave it as it was."""
    return History(base, tmp_path_factory.mktemp("history") / request.param, request.param)


@pytest.fixture
def history(shared, tmp_path):
    """A copy, for the tests that change it."""
    return shared.copy(tmp_path / "history")


def planted(history, *, noise=0.05, versions=(0, 1, 2, 3), count=5, mixed=True, seed=0):
    """Trajectories whose behaviour log-probs are their versions' own less a known noise, and what the split is then.

    Mixed: the versions change in mid-episode, as after a swap; otherwise a trajectory is of one.
    """
    rng = np.random.default_rng(seed)
    scored, expected = [], []
    by_version = {}
    for index in range(count):
        length = int(rng.integers(30, 60))
        tokens = rng.integers(300, size=length)
        turns = [(4, 12), (15, 24), (26, length)]
        where = np.concatenate([np.arange(a, b) for a, b in turns])
        own = np.sort(rng.choice(versions, len(where))) if mixed else np.full(len(where), rng.choice(versions))
        by_version = {version: history.log_probs(version, tokens)[where] for version in {NOW, *own.tolist()}}
        retained = np.array([by_version[version][at] for at, version in enumerate(own.tolist())])
        mismatch = np.maximum(noise * rng.standard_normal(len(where)), retained)  # log mu stays at or below 0
        trajectory = make_trajectory(
            f"g1.{index}.0", tokens=tokens, turns=turns, version=own, log_probs=retained - mismatch
        )
        scored.append(Scored(trajectory, 1.0))
        lags = NOW - own
        expected += zip(by_version[NOW], retained, retained - mismatch, lags.tolist(), [index] * len(own), strict=True)
    return scored, slow.split(expected)


def assert_split(made, expected, tolerance=1e-5):
    """Every figure of every lag; extremes and means within `tolerance` nats."""
    assert set(made["by_lag"]) == set(expected["by_lag"])
    for own, theirs in [(made, expected), *((made["by_lag"][lag], expected["by_lag"][lag]) for lag in made["by_lag"])]:
        for count in ("trajectories", "tokens", "unavailable"):
            assert own[count] == theirs[count]
        for part in ("mismatch", "staleness"):
            assert own[part] == pytest.approx(theirs[part], rel=0, abs=tolerance)


@pytest.mark.parametrize("mixed", [False, True], ids=["one version each", "swapped in mid-episode"])
def test_planted_mismatch_and_staleness_are_told_apart(shared, mixed):
    scored, expected = planted(shared, mixed=mixed, count=6)
    assert len(expected["by_lag"]) > 1
    assert expected["staleness"]["mean"] > 0.01  # there is something to be told
    assert_split(shared.recompute(scored), expected)


def test_an_engine_that_computes_as_the_learner_has_no_mismatch_whatever_the_lag(shared):
    scored, _ = planted(shared, noise=0.0)
    made = shared.recompute(scored)
    assert made["mismatch"]["max"] < 1e-5
    assert made["by_lag"]["3"]["staleness"]["mean"] > 0.01


def test_at_lag_0_staleness_is_exactly_0_and_no_file_is_read(history):
    scored, expected = planted(history, versions=(NOW,))
    shutil.rmtree(history.folder)
    made = history.recompute(scored)
    assert made["by_lag"]["0"]["staleness"] == {"mean": 0.0, "max": 0.0, "k1": 0.0, "k3": 0.0}
    assert made["mismatch"] == pytest.approx(expected["mismatch"], rel=0, abs=1e-5)


def test_parameters_moments_and_the_next_step_are_bit_for_bit_as_without_it(shared, tmp_path):
    """Dropout is on with LoRA, so that the random numbers of the step are compared too."""
    ends = []
    for share in (0.0, 1.0):
        history = shared.copy(tmp_path / str(share))
        scored, _ = planted(history)

        def step(number, history=history, scored=scored):
            update(history.policy, history.optimizer, scored, history.config, step=number, policy_version=NOW, seed=1)

        step(1)
        history.save(step=NOW + 1)
        before = bits_of(history)
        made = history.recompute(scored, diagnostics=DiagnosticsConfig(recomputed_share=share))
        assert bool(made) == bool(share)
        assert same_bits(bits_of(history), before)
        assert all(value.grad is None for value in history.policy.trainable().values())
        step(2)
        ends.append(bits_of(history))
    assert same_bits(*ends)
    assert not same_bits(ends[0], before)


def bits_of(history):
    """Parameters and moments, copied."""
    tensors = {**history.policy.trainable(), **history.optimizer.tensors()}
    return {name: value.detach().clone() for name, value in tensors.items()}


def same_bits(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in other)


@pytest.mark.parametrize("how", ["gone", "half gone", "damaged", "of another model"])
def test_a_version_that_cannot_be_read_is_counted_and_the_rest_is_measured(history, how):
    scored, expected = planted(history)
    folder = folder_of(history.checkpoints, 2)
    (file,) = folder.glob("*.safetensors")
    match how:
        case "gone":
            shutil.rmtree(folder)
        case "half gone":
            (folder / MANIFEST).unlink()
        case "damaged":
            file.write_bytes(file.read_bytes()[:50])
        case "of another model":
            tensors = load_file(file)
            name = max(tensors)
            save_file({**tensors, name: tensors[name][:-1].clone()}, file)
    before = bits_of(history)
    made = history.recompute(scored)
    assert made["unavailable"] == made["by_lag"]["1"]["unavailable"] == expected["by_lag"]["1"]["tokens"]
    assert made["by_lag"]["1"]["tokens"] == 0
    assert "mismatch" not in made["by_lag"]["1"]
    assert made["by_lag"]["3"]["mismatch"] == pytest.approx(expected["by_lag"]["3"]["mismatch"], rel=0, abs=1e-5)
    assert same_bits(bits_of(history), before)


def test_parameters_that_cannot_be_restored_end_the_run(history):
    scored, _ = planted(history)
    wrong = history.folder / "wrong.safetensors"
    save_file({name: value.detach() + 1e-7 for name, value in history.policy.trainable().items()}, wrong)
    for weights, says in (
        (history.folder / "none", "cannot be restored"),
        (wrong, "not the parameters of before the step"),
    ):
        before = history.copy(history.folder.with_name(weights.name))
        before.kept = Kept(history.checkpoints, weights)
        with pytest.raises(RunError, match=says):
            before.recompute(scored)


def test_only_one_tensor_at_a_time_is_read(history, monkeypatch):
    """No second model: of a version's tensors there is one in memory, and the one before it until that is let go."""
    scored, _ = planted(history, versions=(1,))
    alive, most = set(), []

    class Watched:
        def __init__(self, file, kind):
            self.opened = TRUE_OPEN(file, kind)

        def __enter__(self):
            self.stored = self.opened.__enter__()
            return self

        def __exit__(self, *arguments):
            return self.opened.__exit__(*arguments)

        def keys(self):
            return self.stored.keys()

        def get_tensor(self, name):
            value = self.stored.get_tensor(name)
            alive.add(name)
            weakref.finalize(value, alive.discard, name)
            most.append(len(alive))
            return value

    monkeypatch.setattr("learner.trainer.retained.safe_open", Watched)
    history.recompute(scored)
    assert len(most) == 2 * len(history.policy.trainable())
    assert max(most) <= 2


@pytest.mark.parametrize("training", ["full", "lora"])
def test_a_step_writes_the_split_into_metrics(base, tmp_path, training):
    """Two steps on trajectories of version 0, through the wiring: the second has lag 1, and staleness with it."""
    config = LearnerConfig.model_validate(
        {
            "model": {"path": base, "training": training, "device": "cpu"},
            "rollout": {"steps": 2, "staleness_bound": 5},
            "diagnostics": {"recomputed_share": 0.5},
        }
    )
    gateway = FakeGateway({step: random_groups(step) for step in (1, 2)})
    trainer = Trainer(RunConfig(folder=tmp_path, seed=1), config, gateway)
    trainer.start(resumed=False)
    trainer.run()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    first, second = (line["recomputed"] for line in lines if line["event"] == "step")
    assert first["by_lag"]["0"]["staleness"]["max"] == 0.0
    assert second["by_lag"]["1"]["staleness"]["max"] > 0.0
    assert second["unavailable"] == 0
    assert first["trajectories"] == -(-lines[0]["trajectories"] // 2)
