"""Off-policy correction, pure: how much of a token sampled by an older policy, or by another engine, is trained on.

With mu the behaviour policy (the engine's own log-probs), pi the policy being updated and pi_prox a policy between
both, the importance weight of a token is w = pi_prox / mu. Two separate terms are made of it, over the same quantities:

weight   min(w, cap) by token (truncated importance sampling), or min(product of w, cap) by trajectory
reject   a mask: `band` drops tokens with w outside [low, high] (IcePop); `geometric` drops trajectories whose
         geometric mean of w lies outside [low, high]; `trust_region` drops trajectories one of whose tokens has
         |log w| above a bound (arXiv 2512.23075, with the log-ratio for the divergence of a sampled token)

pi_prox is mu itself (LOOP: the clipped ratio pi / mu corrects alone, and the mask's w is pi / mu), the learner's policy
at the start of the step (decoupled PPO, arXiv 2505.24298), or pi and mu interpolated by lag (A-3PO, arXiv 2512.06547).
What is masked adds nothing to the loss; the divisor of the loss stays, so that a mask never raises another's share.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from learner.trainer.config import CorrectionConfig


@dataclass(frozen=True, eq=False)
class Correction:
    """What a micro-batch's S sampled tokens are corrected by; none of it carries a gradient."""

    anchor: torch.Tensor  # float [S], log-probs that the ratio is taken against, nats
    weight: torch.Tensor | None  # float [S], factor of the token's unit; None where all are 1
    kept: torch.Tensor | None  # bool [S], False where the token is rejected; None where none is
    log_weight: torch.Tensor  # float [S], log w, before any cap


def correct(
    log_probs: torch.Tensor,
    behaviour: torch.Tensor,
    *,
    proximal: torch.Tensor | None,
    lags: torch.Tensor,
    trajectories: torch.Tensor,
    config: CorrectionConfig,
) -> Correction:
    """All [S]: log-probs of the policy and of its behaviour, those at the step's start where they were recomputed,
    lags in policy versions, trajectory's index from 0.

    Raises:
        ValueError: `recomputed` without `proximal`.
    """
    current = log_probs.detach()
    match config.proximal:
        case "behaviour":
            anchor, log_weight = behaviour, current - behaviour
        case "recomputed":
            if proximal is None:
                raise ValueError("learner.correction.proximal: recomputed, but no log-probs were recomputed")
            anchor, log_weight = proximal, proximal - behaviour
        case "interpolated":
            anchor = interpolated(current, behaviour, lags)
            log_weight = anchor - behaviour
    return Correction(
        anchor=anchor,
        weight=truncated(log_weight, trajectories, config),
        kept=kept(log_weight, trajectories, config),
        log_weight=log_weight,
    )


def interpolated(current: torch.Tensor, behaviour: torch.Tensor, lags: torch.Tensor) -> torch.Tensor:
    """Log pi_prox = a log mu + (1 - a) log pi, a = 1 / lag and 0 without lag. All [S], nats. A-3PO, section 3."""
    share = torch.where(lags > 0, 1.0 / lags.clamp(min=1).to(current.dtype), 0.0)
    return share * behaviour + (1.0 - share) * current


def truncated(log_weight: torch.Tensor, trajectories: torch.Tensor, config: CorrectionConfig) -> torch.Tensor | None:
    """min(w, cap) [S], by token or by the whole trajectory; None when nothing is weighed."""
    match config.weight:
        case "none":
            return None
        case "token":
            log_unit = log_weight
        case "trajectory":
            log_unit = _by_trajectory(log_weight, trajectories, mean=False)
    # exp after the cap: a product of many ratios would overflow before it
    return log_unit.clamp(max=math.log(config.weight_cap)).exp()


def kept(log_weight: torch.Tensor, trajectories: torch.Tensor, config: CorrectionConfig) -> torch.Tensor | None:
    """False where a token, or its whole trajectory, is rejected [S]; None when nothing is looked at."""
    match config.reject:
        case "none":
            return None
        case "band":
            unit = log_weight
        case "geometric":
            unit = _by_trajectory(log_weight, trajectories, mean=True)
        case "trust_region":
            largest = log_weight.new_zeros(int(trajectories[-1]) + 1)
            largest = largest.scatter_reduce(0, trajectories, log_weight.abs(), "amax")
            unit = largest[trajectories]
            return unit <= config.reject_above
    return (unit >= math.log(config.reject_low)) & (unit <= math.log(config.reject_high))


def _by_trajectory(values: torch.Tensor, trajectories: torch.Tensor, *, mean: bool) -> torch.Tensor:
    """Each token's trajectory's sum, or mean, of `values` [S]."""
    sums = values.new_zeros(int(trajectories[-1]) + 1).index_add(0, trajectories, values)
    if mean:
        sums = sums / torch.bincount(trajectories).to(values.dtype)
    return sums[trajectories]
