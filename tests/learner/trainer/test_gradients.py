"""How a step is cut does not move its gradients; no tensor is as large as all tokens by the vocabulary."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from trainer_building import make_model_folder, random_trajectory

from learner.config import LearnerConfig
from learner.trainer.advantage import Scored
from learner.trainer.batch import make_batch
from learner.trainer.model import load_policy
from learner.trainer.update import Update, _accumulate

NOW = 3  # the learner's version


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_model_folder(tmp_path_factory.mktemp("model"), deviation=0.05)


@pytest.fixture(scope="module")
def policies(folder):
    """The same policy by kind of training, and by whether its activations are computed again for the gradient."""

    def load(training, recompute):
        config = LearnerConfig.model_validate(
            {
                "model": {
                    "path": folder,
                    "device": "cpu",
                    "training": training,
                    "lora": {"rank": 4, "alpha": 4.0},
                    "recompute_activations": recompute,
                }
            }
        )
        policy = load_policy(config.model, folder, seed=1)
        if training == "lora":  # a new adapter's second half is 0, and so is the gradient of its first
            noise = torch.Generator().manual_seed(2)
            with torch.no_grad():
                for value in policy.trainable().values():
                    value.add_(0.02 * torch.randn(value.shape, generator=noise))
        return policy

    return {(training, again): load(training, again) for training in ("full", "lora") for again in (False, True)}


def gradients(policy, batch, *, objective, correction, chunk=10**6):
    """Of a batch's loss by parameter, float64."""
    config = LearnerConfig.model_validate(
        {"batch": {"log_prob_chunk": chunk}, "objective": objective, "correction": correction}
    )
    policy.module.zero_grad()
    _accumulate(policy, batch, config, NOW, Update())
    return {name: value.grad.double() for name, value in policy.trainable().items()}


def norm(tensors):
    return sum(float(value.square().sum()) for value in tensors.values()) ** 0.5


BY_TOKEN = [
    {"proximal": "interpolated", "weight": "token", "weight_cap": 1.05},
    {"reject": "band", "reject_low": 0.9, "reject_high": 1.1},
]
BY_ANY_UNIT = [
    {},
    {"proximal": "interpolated", "weight": "trajectory"},
    {"reject": "geometric", "reject_low": 0.9, "reject_high": 1.1},
    {"reject": "trust_region", "reject_above": 0.3},
]
ratios = [("token", correction) for correction in BY_TOKEN + BY_ANY_UNIT]
ratios += [(ratio, correction) for ratio in ("turn", "trajectory") for correction in BY_ANY_UNIT]


@pytest.mark.parametrize("training", ["full", "lora"])
@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 10**6),
    lengths=st.lists(st.integers(20, 70), min_size=2, max_size=7),
    budget=st.integers(1, 300),
    chunk=st.integers(1, 80),
    again=st.booleans(),
    ratio=st.sampled_from(ratios),
    aggregation=st.sampled_from(["unit_mean", "trajectory_mean", "constant"]),
)
def test_gradients_depend_on_neither_packing_nor_micro_batches(
    policies, training, *, seed, lengths, budget, chunk, again, ratio, aggregation
):
    """Any budget, order, chunk of the vocabulary's logits, with activations kept or computed again, is one trajectory
    a pass: within 1e-6 of the trajectories' shares in float32. (Shares may cancel to far less than each is.)"""
    rng = np.random.default_rng(seed)
    scored = [
        Scored(random_trajectory(rng, f"g1.{k}.0", length=length, version=k % (NOW + 1)), float(rng.standard_normal()))
        for k, length in enumerate(lengths)
    ]
    how = {"objective": {"ratio": ratio[0], "aggregation": aggregation}, "correction": ratio[1]}
    one_a_pass = make_batch(scored, 1)
    shares = [
        gradients(policies[training, False], replace(one_a_pass, micro_batches=(micro,)), **how)
        for micro in one_a_pass.micro_batches
    ]
    shuffled = make_batch([scored[i] for i in rng.permutation(len(scored))], budget)
    packed = gradients(policies[training, again], shuffled, chunk=chunk, **how)
    difference = norm({name: packed[name] - sum(share[name] for share in shares) for name in packed})
    assert difference <= 1e-6 * sum(map(norm, shares))


class LargestTensor(TorchDispatchMode):
    """The most elements of any tensor that an operation made, forward or backward."""

    def __init__(self):
        super().__init__()
        self.most = 0

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        made = function(*arguments, **(named or {}))
        for value in made if isinstance(made, tuple | list) else (made,):
            if isinstance(value, torch.Tensor):
                self.most = max(self.most, value.numel())
        return made


@pytest.mark.parametrize("training", ["full", "lora"])
@pytest.mark.parametrize("entropy", [False, True])
def test_no_tensor_is_as_large_as_all_tokens_by_the_vocabulary(policies, training, entropy):
    """Forward and backward: the largest has a chunk's positions by the vocabulary, or is a weight's own size."""
    policy = policies[training, False]
    rng = np.random.default_rng(0)
    scored = [Scored(random_trajectory(rng, f"g1.{k}.0", length=400), 1.0) for k in range(4)]
    (micro,) = make_batch(scored, 10**6).micro_batches
    chunk = 50
    assert len(micro.targets) > 10 * chunk
    policy.module.zero_grad()
    with LargestTensor() as seen:
        log_probs, entropies = policy.log_probs(micro, chunk, entropy=entropy)
        (log_probs * torch.linspace(-1, 1, len(log_probs))).sum().backward()
    assert (entropies is not None) == entropy
    hidden = policy.causal.config.hidden_size
    allowed = {"logits of a chunk": chunk * policy.vocabulary, "activations": len(micro.tokens) * 2 * hidden}
    assert seen.most <= max(allowed.values())
    assert seen.most >= chunk * policy.vocabulary  # it did look
