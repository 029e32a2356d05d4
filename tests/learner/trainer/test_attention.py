"""Both ways of attending, against a slow twin in float64: each position looks at its own trajectory up to itself."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from trainer_building import make_model_folder, random_trajectory

from learner.trainer import attention
from learner.trainer.advantage import Scored
from learner.trainer.batch import make_batch
from learner.trainer.config import ModelConfig
from learner.trainer.model import load_policy

NO_KERNEL = "needs a GPU of compute capability 8.0 or newer: torch's varlen kernel has no CPU version"
has_kernel = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)


def varlen_twin(query, key, value, *offsets, scale=None, window_size, enable_gqa=False):
    """`torch.nn.attention.varlen.varlen_attn` as its documentation has it: [T, heads, d], offsets int32 [N + 1]."""
    cu_seq_q, cu_seq_k, max_q, max_k = offsets
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert window_size == (-1, 0)  # causal
    sizes = cu_seq_q.diff().tolist()
    assert (max(sizes), cu_seq_q[0], cu_seq_q[-1]) == (max_q, 0, len(query))
    assert max_q == max_k
    assert torch.equal(cu_seq_q, cu_seq_k)
    shared = query.shape[1] // key.shape[1]
    assert enable_gqa == (shared > 1)
    scale = 1 / math.sqrt(query.shape[2]) if scale is None else scale
    parts = []
    for q, k, v in zip(*(torch.split(x.double(), sizes) for x in (query, key, value)), strict=True):
        k, v = k.repeat_interleave(shared, 1), v.repeat_interleave(shared, 1)  # noqa: PLW2901 - one copy a head
        weights = scale * torch.einsum("qhd,khd->hqk", q, k)
        ahead = torch.ones(len(q), len(q), dtype=torch.bool).triu(1)
        weights = weights.masked_fill(ahead, -math.inf).softmax(-1)
        parts.append(torch.einsum("hqk,khd->qhd", weights, v))
    return torch.cat(parts).to(query.dtype)


@pytest.fixture
def kernel_on_the_cpu(monkeypatch):
    """The row's path with the twin in the kernel's place; counts its calls."""
    calls = []

    def called(*arguments, **options):
        calls.append(len(arguments[3]) - 1)
        return varlen_twin(*arguments, **options)

    monkeypatch.setattr(attention, "varlen_attn", called)
    monkeypatch.setattr(attention, "varlen_kernel_takes", lambda device, dtype, head_size: True)
    return calls


def projections(seed, lengths, shape, *, dtype=torch.float32, device="cpu"):
    """Queries, keys, values [1, P, heads, d] as a decoder projects them, and a gradient. `shape`: both heads, d."""
    torch.manual_seed(seed)
    total, (heads, key_value_heads, size) = sum(lengths), shape
    made = [torch.randn(1, total, n, size) for n in (heads, key_value_heads, key_value_heads, heads)]
    query, key, value, gradient = (x.to(device, dtype) for x in made)
    return [x.requires_grad_() for x in (query, key, value)], gradient


def run(path, inputs, gradient, lengths, scale):
    output = path(*(x.transpose(1, 2) for x in inputs), lengths, scale)
    return output, torch.autograd.grad(output, inputs, gradient)


shapes = st.sampled_from([(4, 4, 8), (4, 2, 16), (8, 1, 8), (6, 2, 8)])


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=5).map(tuple),
    shape=shapes,
    scale=st.none() | st.floats(0.1, 2),
)
def test_a_trajectory_at_a_time_is_the_twin(seed, lengths, shape, scale):
    inputs, gradient = projections(seed, lengths, shape)
    made, gradients = run(attention.by_trajectory, inputs, gradient, lengths, scale)

    def twin(query, key, value, lengths, scale):
        ends, longest = attention.boundaries(lengths, torch.device("cpu")), max(lengths)
        rows = (x[0].transpose(0, 1) for x in (query, key, value))
        shared = shape[0] != shape[1]
        return varlen_twin(*rows, ends, ends, longest, longest, scale=scale, window_size=(-1, 0), enable_gqa=shared)[
            None
        ]

    expected, by_hand = run(twin, inputs, gradient, lengths, scale)
    torch.testing.assert_close(made, expected, rtol=0, atol=5e-6)
    for one, other in zip(gradients, by_hand, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("shape", [(4, 4, 8), (4, 2, 16), (8, 1, 8)])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_the_whole_row_at_once_is_a_trajectory_at_a_time(kernel_on_the_cpu, shape, scale):
    """What is passed to the kernel: layout, offsets, longest, causal window, scale, shared heads."""
    for lengths in ((7,), (3, 1, 9, 4), (1, 1, 1), (20, 2)):
        inputs, gradient = projections(len(lengths), lengths, shape)
        made, gradients = run(attention.by_row, inputs, gradient, lengths, scale)
        expected, others = run(attention.by_trajectory, inputs, gradient, lengths, scale)
        torch.testing.assert_close(made, expected, rtol=0, atol=5e-6)
        for one, other in zip(gradients, others, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=2e-5)
    assert kernel_on_the_cpu == [1, 4, 3, 2]


def test_shared_heads_read_in_place_give_the_same_bits_as_copies_of_them():
    inputs, _ = projections(3, (30, 7), (8, 2, 16))
    query, key, value = (x.transpose(1, 2) for x in inputs)
    copied = attention.by_trajectory(query, key.repeat_interleave(4, 1), value.repeat_interleave(4, 1), (30, 7), None)
    assert torch.equal(attention.by_trajectory(query, key, value, (30, 7), None), copied)


@pytest.mark.parametrize(
    ("where", "head_size", "capability", "taken"),
    [
        (("cuda", torch.bfloat16), 128, (9, 0), True),
        (("cuda", torch.float16), 64, (8, 0), True),
        (("cuda", torch.float32), 128, (9, 0), False),
        (("cuda", torch.bfloat16), 128, (7, 5), False),
        (("cuda", torch.bfloat16), 100, (9, 0), False),
        (("cuda", torch.bfloat16), 256, (9, 0), False),
        (("cpu", torch.bfloat16), 128, (9, 0), False),
    ],
)
def test_the_kernel_is_used_where_it_runs(monkeypatch, where, head_size, capability, taken):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    device, dtype = where
    assert attention.varlen_kernel_takes(torch.device(device), dtype, head_size) is taken


def test_attention_computes_in_autocasts_precision(kernel_on_the_cpu, monkeypatch):
    """Rotary positions leave queries in float32 under autocast; the kernel takes 16 bits alone."""
    seen = []
    monkeypatch.setattr(attention, "varlen_kernel_takes", lambda device, dtype, size: seen.append(dtype) or True)
    inputs, _ = projections(1, (5, 3), (4, 2, 8))
    query, key, value = (x.transpose(1, 2) for x in inputs)
    plain, _ = attention.document_attention(None, query, key, value, None, document_lengths=(5, 3))
    with torch.autocast("cpu", torch.bfloat16):
        cast, _ = attention.document_attention(None, query, key, value, None, document_lengths=(5, 3))
    assert seen == [torch.float32, torch.bfloat16]
    assert (plain.dtype, cast.dtype) == (torch.float32, torch.bfloat16)
    torch.testing.assert_close(cast.float(), plain, rtol=0, atol=0.05)


@pytest.mark.parametrize("recompute", [False, True])
def test_a_policy_trains_through_the_row_as_through_its_trajectories(tmp_path, request, recompute):
    """Gradients of a whole model on both paths, activations kept or computed again."""
    folder = make_model_folder(tmp_path / "base")
    config = ModelConfig(path=folder, device="cpu", recompute_activations=recompute)
    rng = np.random.default_rng(0)
    scored = [Scored(random_trajectory(rng, f"g1.{k}.0", length=20 + 13 * k), 1.0) for k in range(3)]
    (micro,) = make_batch(scored, 10**6).micro_batches
    policy = load_policy(config, folder, seed=1)

    def gradients():
        policy.module.zero_grad()
        log_probs, _ = policy.log_probs(micro, 4096, entropy=False)
        log_probs.sum().backward()
        return log_probs.detach(), {name: value.grad.clone() for name, value in policy.trainable().items()}

    expected, by_trajectory = gradients()
    calls = request.getfixturevalue("kernel_on_the_cpu")
    made, by_row = gradients()
    assert calls == [3] * (2 + 2 * recompute)  # one call a layer, again for the gradient
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-5)
    for name, value in by_row.items():
        assert float((value - by_trajectory[name]).norm() / by_trajectory[name].norm()) < 1e-5


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"attention_mask": torch.ones(1)}, "without mask and dropout"),
        ({"dropout": 0.1}, "without mask and dropout"),
        ({"sliding_window": 4}, "window of 4 tokens is shorter"),
    ],
)
def test_what_packing_would_leave_out_is_refused(options, says):
    inputs, _ = projections(1, (5, 3), (4, 2, 8))
    mask = options.pop("attention_mask", None)
    with pytest.raises(ValueError, match=says):
        attention.document_attention(
            None, *(x.transpose(1, 2) for x in inputs), mask, document_lengths=(5, 3), **options
        )


@pytest.mark.skipif(not has_kernel, reason=NO_KERNEL)
@pytest.mark.parametrize("shape", [(4, 4, 64), (16, 8, 128), (8, 1, 96)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_true_kernel_is_the_twin(shape, dtype):
    lengths = (129, 1, 700, 64)
    inputs, gradient = projections(5, lengths, shape, dtype=dtype, device="cuda")
    assert attention.varlen_kernel_takes(inputs[0].device, dtype, shape[2])
    made, gradients = run(attention.by_row, inputs, gradient, lengths, None)
    on_cpu = [x.detach().cpu().float().requires_grad_() for x in inputs]
    expected, others = run(attention.by_trajectory, on_cpu, gradient.cpu().float(), lengths, None)
    torch.testing.assert_close(made.cpu().float(), expected, rtol=0.02, atol=0.02)
    for one, other in zip(gradients, others, strict=True):
        assert float((one.cpu().float() - other).norm() / other.norm()) < 0.02
