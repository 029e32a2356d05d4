"""The section `learner`, put together from its parts' own. Free of torch."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from learner.gateway.draw import EvaluationConfig, RolloutConfig
from learner.trainer.config import TrainerConfig
from learner.warm_start_config import WarmStartConfig


class LearnerConfig(TrainerConfig):
    """The learner of a run: what is rolled out, how it is trained on, what is evaluated."""

    rollout: RolloutConfig = Field(default=RolloutConfig(), description="what is rolled out, and how old it may be")
    evaluation: EvaluationConfig = Field(default=EvaluationConfig(), description="what is evaluated")
    warm_start: WarmStartConfig = Field(default=WarmStartConfig(), description="a model to start from")

    @model_validator(mode="after")
    def ratios_are_of_one_distribution(self) -> Self:
        """The engine reports log-probs of the unscaled distribution; sampling from another would falsify each ratio."""
        if self.rollout.temperature != 1.0:
            raise ValueError("rollout.temperature must be 1: behaviour log-probs are reported at temperature 1")
        return self
