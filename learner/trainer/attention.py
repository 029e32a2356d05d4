"""Attention over trajectories that lie end to end: each attends to itself alone, causally. Used by model.py.

Registered with transformers under a name of its own, so that any of its decoders can run packed. Per trajectory one
call of torch's fused kernel: no mask exists, and nothing is computed that a mask would throw away.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface

DOCUMENTS = "documents"


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
    shared = query.shape[1] // key.shape[1]
    if shared > 1:
        key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
    sizes = list(document_lengths)
    parts = [
        torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling)
        for q, k, v in zip(*(torch.split(x, sizes, 2) for x in (query, key, value)), strict=True)
    ]
    return torch.cat(parts, 2).transpose(1, 2).contiguous(), None


def register() -> None:
    """Make the name known to transformers. No mask function goes with it, so transformers makes no mask."""
    AttentionInterface.register(DOCUMENTS, document_attention)
