"""What a step did, in figures: its groups and what the update made of them -> a line of metrics.jsonl. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from learner.gateway.trainer_port import GroupRecord
from learner.trainer.groups import members_of
from learner.trainer.update import Update


def step_figures(
    records: Sequence[GroupRecord], made: Update, consumed: Sequence[str], dropped: Mapping[str, str]
) -> dict[str, Any]:
    """A step's figures as they stand in metrics.jsonl, but for its number, version and seconds."""
    members = members_of(records)
    reasons = sorted(set(dropped.values()))
    diagnostics = made.record.summary()
    lags = {lag: split["tokens"] for lag, split in diagnostics.get("by_lag", {}).items()}
    figures = {
        "mean_reward": _mean([one.reward for one in members]),
        "success_share": _mean([float(one.success) for one in members]),
        "mean_turns": _mean([float(len(one.turns)) for one in members]),
        "groups": len(records),
        "trajectories": len(consumed),
        "dropped": {reason: sum(1 for one in dropped.values() if one == reason) for reason in reasons},
        "sampled_tokens": sum(int(one.sampled.sum()) for one in members),
        "trained_tokens": made.forward_tokens,
        "optimizer_steps": made.optimizer_steps,
        "refused": made.refused,
        "stopped_by_kl": made.stopped_by_kl,
        "loss": made.loss,
        "gradient_norm": made.gradient_norm,
        "learning_rate": made.learning_rate,
        "lags": lags,
        "ratios": diagnostics,
        "recomputed": made.recomputed,
    }
    return {name: _finite(value) for name, value in figures.items()}


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _finite(value: Any) -> Any:
    """JSON has no inf and nan: a refused step's figures stand as null."""
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
