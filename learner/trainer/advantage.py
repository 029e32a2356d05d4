"""Stage 6, pure: rewards of a group -> advantages of its members (arXiv 2502.01600; RLOO: arXiv 2402.14740)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from common.messages import Trajectory
from learner.trainer.groups import Group

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
STD_FLOOR = 1e-6  # added to the standard deviation, as GRPO's public implementations do


@dataclass(frozen=True)
class Scored:
    """A trajectory that will be trained on, with its advantage. It has S sampled tokens."""

    trajectory: Trajectory
    advantage: float
    proximal: Float32 | None = None  # [S], their log-probs by the policy at the step's start, where they are wanted


def leave_one_out(rewards: Sequence[float] | Float64) -> Float64:
    """A_k = R_k - mean of the other members' rewards = n / (n - 1) * (R_k - mean R). [n] -> [n].

    `rewards` are those of the members that survived: a dropped one is in nobody's baseline.

    Raises:
        ValueError: fewer than two rewards, or one that is not finite.
    """
    values = _checked(rewards)
    advantages: Float64 = (values - values.mean()) * (len(values) / (len(values) - 1))
    return advantages


def group_mean(rewards: Sequence[float] | Float64) -> Float64:
    """A_k = R_k - mean R, GRPO without normalisation. [n] -> [n]. Raises as `leave_one_out`."""
    values = _checked(rewards)
    advantages: Float64 = values - values.mean()
    return advantages


def normalised(rewards: Sequence[float] | Float64) -> Float64:
    """A_k = (R_k - mean R) / (std R + 1e-6), GRPO's; the paper's RwNorm. [n] -> [n]. Raises as `leave_one_out`."""
    values = _checked(rewards)
    advantages: Float64 = (values - values.mean()) / (values.std(ddof=1) + STD_FLOOR)
    return advantages


def score(
    groups: Iterable[Group], kind: Literal["leave_one_out", "group_mean", "normalised", "success"], least: float
) -> tuple[list[Scored], dict[str, str]]:
    """Trajectories with their advantages; those with |advantage| < `least`, or 0, are passed over as `no_signal`.

    `success` is expert iteration: 1 for each success of a group, whatever its siblings did; the rest is `no_success`.
    """
    scored, dropped = [], {}
    for group in groups:
        if kind == "success":
            scored += [Scored(member, 1.0) for member in group.members if member.success]
            dropped.update({member.trajectory_id: "no_success" for member in group.members if not member.success})
            continue
        rewards = [member.reward for member in group.members]
        match kind:
            case "leave_one_out":
                advantages = leave_one_out(rewards)
            case "group_mean":
                advantages = group_mean(rewards)
            case "normalised":
                advantages = normalised(rewards)
        # all-equal rewards are tested on the rewards: their float mean may differ from them by an ulp
        signal = len(set(rewards)) > 1
        for member, advantage in zip(group.members, advantages, strict=True):
            if signal and advantage != 0 and abs(advantage) >= least:
                scored.append(Scored(member, float(advantage)))
            else:
                dropped[member.trajectory_id] = "no_signal"
    return scored, dropped


def _checked(rewards: Sequence[float] | Float64) -> Float64:
    values = np.asarray(rewards, np.float64)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"rewards have shape {values.shape}: a baseline needs two members or more")
    if not np.isfinite(values).all():
        raise ValueError("a reward is not finite")
    return values
