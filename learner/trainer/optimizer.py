"""Stage 9: gradients -> parameters. AdamW, global-norm clip, a schedule that is a function of the step.

A step whose loss or gradient is not finite never reaches the parameters or the moments. In several processes each
steps its share of every parameter, by the norm over all of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.nn.utils import clip_grads_with_norm_

from learner.trainer.config import OptimizerConfig
from learner.trainer.ranks import ALONE, Ranks, share_of

MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def learning_rate(step: int, steps: int, config: OptimizerConfig) -> float:
    """The rate of step number `step`, from 1, of `steps`: linear warm-up to the peak, then by the schedule.

    Linear and cosine reach `final_share` of the peak one step after the last, so that the last step still moves.
    """
    if step <= config.warm_up:
        return config.learning_rate * step / config.warm_up
    passed = (step - 1 - config.warm_up) / max(1, steps - config.warm_up)
    passed = min(1.0, max(0.0, passed))
    match config.schedule:
        case "constant":
            share = 1.0
        case "linear":
            share = 1.0 - (1.0 - config.final_share) * passed
        case "cosine":
            share = config.final_share + (1.0 - config.final_share) * 0.5 * (1.0 + math.cos(math.pi * passed))
    return config.learning_rate * share


@dataclass(frozen=True)
class Stepped:
    """What became of one optimizer step."""

    applied: bool  # False: loss or gradient were not finite, nothing has changed
    gradient_norm: float  # global, before the clip; may be inf or nan when not applied


class Optimizer:
    """AdamW over named parameters, all float32."""

    def __init__(
        self, parameters: Mapping[str, torch.nn.Parameter], config: OptimizerConfig, ranks: Ranks = ALONE
    ) -> None:
        self._parameters = dict(parameters)
        self._config = config
        self._ranks = ranks
        self._adamw = torch.optim.AdamW(
            self._parameters.values(),
            lr=config.learning_rate,
            betas=(config.beta1, config.beta2),
            eps=config.epsilon,
            weight_decay=config.weight_decay,
            fused=True,
        )

    def step(self, loss: float, rate: float) -> Stepped:
        """Apply the accumulated gradients at learning rate `rate`, unless loss or norm are not finite; then clear."""
        gradients = [p.grad for p in self._parameters.values() if p.grad is not None]
        total = self._ranks.norm(gradients)
        norm = float(total)
        applied = math.isfinite(loss) and math.isfinite(norm)
        if applied:
            clip_grads_with_norm_(self._parameters.values(), self._config.clip_norm, total)
            for group in self._adamw.param_groups:
                group["lr"] = rate
            self._adamw.step()
        self._adamw.zero_grad(set_to_none=True)
        return Stepped(applied, norm)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The moments as `<moment>.<parameter>`; none of a parameter that was never stepped."""
        made = {}
        for name, parameter in self._parameters.items():
            for moment, value in self._adamw.state.get(parameter, {}).items():
                made[f"{moment}.{name}"] = value
        return made

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take over what `tensors` gave. Raises KeyError for a parameter that only some moments are there of."""
        for name, parameter in self._parameters.items():
            if f"step.{name}" in tensors:
                self._adamw.state[parameter] = {
                    # on the parameter's own memory layout; torch keeps the step on the device when fused
                    moment: share_of(tensors[f"{moment}.{name}"], parameter)
                    for moment in MOMENTS
                }
