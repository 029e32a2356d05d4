"""Stage 8, pure: log-probs of a micro-batch -> its share of the loss.

arXiv 2502.01600, equations for LOOP: with mu the behaviour policy (log-probs recorded by the engine at sampling, never
recomputed) and units u of tokens, turns or whole trajectories, r_u = exp(sum over u of log pi - log mu) and

    objective = aggregate over u of min(r_u A, clip(r_u, low, high) A).

With one on-policy step r = 1 and its gradient is REINFORCE with the advantage as given (RLOO).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from learner.trainer.batch import Totals
from learner.trainer.config import ObjectiveConfig


@dataclass(frozen=True, eq=False)
class Loss:
    """A micro-batch's share of the loss, and what the diagnostics are made of. S sampled tokens."""

    loss: torch.Tensor  # scalar, to be minimised; the shares of a batch's micro-batches add up to its loss
    log_ratio: torch.Tensor  # float32 [S], log pi - log mu by token, detached
    clipped: torch.Tensor  # bool [S], True where the token's unit has no gradient because its ratio is clipped


def policy_loss(
    log_probs: torch.Tensor,
    behaviour: torch.Tensor,
    *,
    advantages: torch.Tensor,
    turns: torch.Tensor,
    trajectories: torch.Tensor,
    totals: Totals,
    objective: ObjectiveConfig,
) -> Loss:
    """All are [S], one row a sampled token: log-probs in nats, advantages, indices of turn and trajectory from 0.

    A trajectory lies in one micro-batch, whole. Masked tokens are not among the S.

    Raises:
        ValueError: lengths differ.
    """
    if not log_probs.shape == behaviour.shape == advantages.shape == turns.shape == trajectories.shape:
        raise ValueError(f"log-probs {tuple(log_probs.shape)}, behaviour {tuple(behaviour.shape)} and rest must agree")
    log_ratio = log_probs - behaviour  # [S]
    units = unit_of(objective.ratio, turns, trajectories)  # [S]
    if units is None:
        unit_log_ratio, unit_advantage, unit_trajectory = log_ratio, advantages, trajectories
    else:
        count = int(units[-1]) + 1
        unit_log_ratio = log_ratio.new_zeros(count).index_add(0, units, log_ratio)  # [U]
        first = torch.zeros(count, dtype=torch.int64, device=units.device).scatter_reduce(
            0, units, torch.arange(len(units), device=units.device), "amin", include_self=False
        )
        unit_advantage, unit_trajectory = advantages[first], trajectories[first]
    ratio = unit_log_ratio.exp()  # [U]
    low, high = clip_bounds(objective)
    unclipped = ratio * unit_advantage
    surrogate = torch.minimum(unclipped, ratio.clamp(low, high) * unit_advantage)
    with torch.no_grad():
        outside = ((ratio > high) & (unit_advantage > 0)) | ((ratio < low) & (unit_advantage < 0))
        clipped = outside if units is None else outside[units]
    loss = -(surrogate * unit_weights(unit_trajectory, totals, objective, ratio.dtype)).sum()
    return Loss(loss, log_ratio.detach(), clipped)


def unit_of(
    ratio: Literal["token", "turn", "trajectory"], turns: torch.Tensor, trajectories: torch.Tensor
) -> torch.Tensor | None:
    """The unit of each token [S], ascending from 0; None when each token is one."""
    match ratio:
        case "token":
            return None
        case "turn":
            return turns
        case "trajectory":
            return trajectories


def unit_weights(
    unit_trajectory: torch.Tensor, totals: Totals, objective: ObjectiveConfig, dtype: torch.dtype
) -> torch.Tensor:
    """Weight of each unit in the loss [U], from the trajectory [U] that each belongs to."""
    if objective.aggregation == "unit_mean":
        units = {"token": totals.tokens, "turn": totals.turns, "trajectory": totals.trajectories}[objective.ratio]
        return torch.full_like(unit_trajectory, 1.0 / units, dtype=dtype)
    own_units = torch.bincount(unit_trajectory)[unit_trajectory].to(dtype)  # [U]
    divisor = objective.divisor if objective.aggregation == "constant" else float(totals.trajectories)
    return 1.0 / (own_units * divisor)


def clip_bounds(objective: ObjectiveConfig) -> tuple[float, float]:
    """Between which a ratio has its gradient."""
    low = 1.0 - objective.clip if objective.clip_form == "symmetric" else 1.0 / (1.0 + objective.clip)
    return low, 1.0 + (objective.clip if objective.clip_higher is None else objective.clip_higher)
