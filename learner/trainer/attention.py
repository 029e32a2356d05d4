"""Attention over contexts that lie end to end: each attends to itself alone, causally. Used by model.py.

Registered with transformers under a name of its own, so that any of its decoders can run packed. No mask exists, and
nothing is computed that a mask would throw away: on a GPU in 16 bits one call of torch's varlen kernel for the whole
row, elsewhere one call of its fused kernel for each trajectory.
"""

from __future__ import annotations

import itertools
from functools import lru_cache
from typing import Any

import torch
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

DOCUMENTS = "documents"
CAUSAL = (-1, 0)  # window of the varlen kernel: everything before, nothing after


def document_attention(
    module: torch.nn.Module,  # noqa: ARG001 - transformers passes it
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    document_lengths: tuple[int, ...],
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Queries [1, heads, P, d], keys and values [1, key-value heads, P, d] -> [1, P, heads, d].

    Raises:
        ValueError: a mask, dropout, or a window shorter than a trajectory, none of which is supported.
    """
    if attention_mask is not None or dropout:
        raise ValueError("packed trajectories attend without mask and dropout")
    if sliding_window is not None and sliding_window < max(document_lengths):
        raise ValueError(f"a sliding window of {sliding_window} tokens is shorter than a trajectory")
    dtype = computed_in(query)
    if varlen_kernel_takes(query.device, dtype, query.shape[-1]):
        return by_row(query.to(dtype), key.to(dtype), value.to(dtype), document_lengths, scaling), None
    return by_trajectory(query, key, value, document_lengths, scaling), None


def varlen_kernel_takes(device: torch.device, dtype: torch.dtype, head_size: int) -> bool:
    """Whether torch's varlen kernel, FlashAttention 2, runs there forward and backward: Ampere or newer, 16 bits."""
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return False
    # it takes heads up to 256, but trains those above 192 on data centre chips alone
    return torch.cuda.get_device_capability(device) >= (8, 0) and head_size % 8 == 0 and head_size <= 192


def computed_in(query: torch.Tensor) -> torch.dtype:
    """The precision of attention: autocast's, to which it casts torch's own attention but not the varlen kernel."""
    device = query.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else query.dtype


def by_row(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: tuple[int, ...], scale: float | None
) -> torch.Tensor:
    """One call for all: [1, heads, P, d], [1, key-value heads, P, d] twice -> [1, P, heads, d]."""
    ends, longest = boundaries(lengths, query.device), max(lengths)
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # [P, heads, d], as the projections left them
    shared = len(query[0]) != len(key[0])
    made = varlen_attn(q, k, v, ends, ends, longest, longest, scale=scale, window_size=CAUSAL, enable_gqa=shared)
    assert isinstance(made, torch.Tensor)  # a pair only where more was asked for
    return made[None]


@lru_cache(maxsize=4)
def boundaries(lengths: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Where trajectories begin and end in the row, int32 [N + 1]; kept, as every layer of a pass asks for the same."""
    return torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32, device=device)


def by_trajectory(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: tuple[int, ...], scale: float | None
) -> torch.Tensor:
    """One call for each: [1, heads, P, d], [1, key-value heads, P, d] twice -> [1, P, heads, d]."""
    shared = query.shape[1] // key.shape[1]
    # on a CPU the kernel reads shared heads where they are: forward the same bits, no slower (400 to 4,000 tokens, 4 to
    # 16 heads), and no copies are kept for the gradient; on a GPU some of the kernels behind the name take none
    read_in_place = shared > 1 and query.device.type == "cpu"
    if shared > 1 and not read_in_place:
        key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
    parts = [
        scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=read_in_place)
        for q, k, v in zip(*(torch.split(x, list(lengths), 2) for x in (query, key, value)), strict=True)
    ]
    return torch.cat(parts, 2).transpose(1, 2).contiguous()


def register() -> None:
    """Make the name known to transformers. No mask function goes with it, so transformers makes no mask."""
    AttentionInterface.register(DOCUMENTS, document_attention)
