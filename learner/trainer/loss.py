"""Stage 8, pure: log-probs of a micro-batch -> its share of the loss.

arXiv 2502.01600, equations for LOOP: with mu the behaviour policy (log-probs recorded by the engine at sampling, never
recomputed) and units u of tokens, turns or whole trajectories, r_u = exp(sum over u of log pi - log mu) and

    objective = aggregate over u of min(r_u A, clip(r_u, low, high) A).

With one on-policy step r = 1 and its gradient is REINFORCE with the advantage as given (RLOO): the `reinforce`
surrogate, (sum over u of log pi) A, which needs no ratio. With correction (correction.py) the ratio is taken against
pi_prox, a unit's term is multiplied by its truncated importance weight, and what is rejected is 0. GRPO's penalty
(arXiv 2402.03300, equation 4) adds beta times k3 = exp(log ref - log pi) - (log ref - log pi) - 1 by token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from learner.trainer.batch import Totals
from learner.trainer.config import ObjectiveConfig
from learner.trainer.correction import Correction


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
    correction: Correction | None = None,
    reference: torch.Tensor | None = None,
) -> Loss:
    """All are [S], one row a sampled token: log-probs in nats, advantages, indices of turn and trajectory from 0.

    A trajectory lies in one micro-batch, whole. Masked tokens are not among the S. Without `correction` the ratio is
    taken against `behaviour`, unweighted; `reference` holds the base's log-probs for the KL penalty.

    Raises:
        ValueError: lengths differ, or a KL penalty without `reference`.
    """
    if not log_probs.shape == behaviour.shape == advantages.shape == turns.shape == trajectories.shape:
        raise ValueError(f"log-probs {tuple(log_probs.shape)}, behaviour {tuple(behaviour.shape)} and rest must agree")
    log_ratio = (log_probs - behaviour).detach()  # [S]
    anchor = behaviour if correction is None else correction.anchor
    units = unit_of(objective.ratio, turns, trajectories)  # [S], or None: each token is one
    first = None if units is None else _first_of(units)
    unit_advantage, unit_trajectory = (x if first is None else x[first] for x in (advantages, trajectories))  # [U]
    if objective.surrogate == "clip":
        against_anchor = log_probs - anchor  # [S]
        if correction is not None and correction.kept is not None:
            # masked before the exponential: a rejected token's ratio may be infinite, and 0 x infinity is no gradient
            against_anchor = torch.where(correction.kept, against_anchor, 0.0)
        ratio = _sum_by(units, against_anchor).exp()  # [U]
        low, high = clip_bounds(objective)
        terms = torch.minimum(ratio * unit_advantage, ratio.clamp(low, high) * unit_advantage)
        with torch.no_grad():
            clipped = ((ratio > high) & (unit_advantage > 0)) | ((ratio < low) & (unit_advantage < 0))
    else:
        terms = _sum_by(units, log_probs) * unit_advantage  # [U]
        clipped = torch.zeros_like(terms, dtype=torch.bool)
    if correction is not None:
        terms = _corrected(terms, correction, first)
    loss = -(terms * unit_weights(unit_trajectory, totals, objective, objective.ratio, terms.dtype)).sum()
    if objective.kl_coefficient:
        if reference is None:
            raise ValueError("a KL penalty needs the base's log-probs")
        weights = unit_weights(trajectories, totals, objective, "token", log_probs.dtype)
        loss = loss + objective.kl_coefficient * (k3(log_probs, reference) * weights).sum()
    return Loss(loss, log_ratio, clipped if units is None else clipped[units])


def k3(log_probs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """GRPO's estimate of KL(policy || reference) at each sampled token [S], nats, at least 0."""
    difference = reference - log_probs
    return difference.exp() - difference - 1.0


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
    unit_trajectory: torch.Tensor,
    totals: Totals,
    objective: ObjectiveConfig,
    level: Literal["token", "turn", "trajectory"],
    dtype: torch.dtype,
) -> torch.Tensor:
    """Weight of each unit of a level in the loss [U], from the trajectory [U] that each belongs to."""
    if objective.aggregation == "unit_mean":
        units = {"token": totals.tokens, "turn": totals.turns, "trajectory": totals.trajectories}[level]
        return torch.full_like(unit_trajectory, 1.0 / units, dtype=dtype)
    own_units = torch.bincount(unit_trajectory)[unit_trajectory].to(dtype)  # [U]
    divisor = objective.divisor if objective.aggregation == "constant" else float(totals.trajectories)
    return 1.0 / (own_units * divisor)


def clip_bounds(objective: ObjectiveConfig) -> tuple[float, float]:
    """Between which a ratio has its gradient."""
    low = 1.0 - objective.clip if objective.clip_form == "symmetric" else 1.0 / (1.0 + objective.clip)
    return low, 1.0 + (objective.clip if objective.clip_higher is None else objective.clip_higher)


def _corrected(terms: torch.Tensor, correction: Correction, first: torch.Tensor | None) -> torch.Tensor:
    """Terms of units [U], weighed and masked. A unit's tokens share weight and mask (learner/config.py sees to it)."""
    if correction.weight is not None:
        terms = terms * (correction.weight if first is None else correction.weight[first])
    if correction.kept is not None:
        kept = correction.kept if first is None else correction.kept[first]
        terms = torch.where(kept, terms, 0.0)
    return terms


def _sum_by(units: torch.Tensor | None, values: torch.Tensor) -> torch.Tensor:
    """Sums over units [U] of values [S]."""
    if units is None:
        return values
    return values.new_zeros(int(units[-1]) + 1).index_add(0, units, values)


def _first_of(units: torch.Tensor) -> torch.Tensor:
    """Index of each unit's first token [U]."""
    count = int(units[-1]) + 1
    order = torch.arange(len(units), device=units.device)
    empty = torch.zeros(count, dtype=torch.int64, device=units.device)
    return empty.scatter_reduce(0, units, order, "amin", include_self=False)
