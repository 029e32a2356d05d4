"""The section `learner`, put together from its parts' own. Free of torch: gateway and `--help` resolve it too."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from common.config import LinkConfig, RunConfig, Section
from common.metrics_config import MetricsConfig
from common.prompt_config import PromptConfig
from learner.gateway.draw import RolloutConfig
from learner.gateway.evaluation import EvaluationConfig
from learner.trainer.config import (
    BatchConfig,
    CheckpointsConfig,
    CorrectionConfig,
    DiagnosticsConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
)
from learner.warm_start.config import WarmStartConfig


class LearnerConfig(Section):
    """The learner of a run: what is rolled out, how it is trained on, what is evaluated."""

    model: ModelConfig = Field(default=ModelConfig(), description="the policy")
    rollout: RolloutConfig = Field(default=RolloutConfig(), description="what is rolled out, and how old it may be")
    batch: BatchConfig = Field(default=BatchConfig(), description="how a step is cut")
    objective: ObjectiveConfig = Field(default=ObjectiveConfig(), description="what is maximised")
    correction: CorrectionConfig = Field(
        default=CorrectionConfig(), description="what is done about tokens that another policy sampled"
    )
    optimizer: OptimizerConfig = Field(default=OptimizerConfig(), description="AdamW and its schedule")
    checkpoints: CheckpointsConfig = Field(default=CheckpointsConfig(), description="what stays on the disk")
    diagnostics: DiagnosticsConfig = Field(default=DiagnosticsConfig(), description="what is measured besides")
    evaluation: EvaluationConfig = Field(default=EvaluationConfig(), description="what is evaluated")
    warm_start: WarmStartConfig = Field(default=WarmStartConfig(), description="a model to start from")

    @property
    def kept_versions(self) -> int:
        """Newest versions that stay: those whose tokens may still be trained on, one being fetched, one to spare."""
        bound = self.rollout.staleness_bound
        return max(self.checkpoints.keep_versions or bound + 3, bound + 1)

    @model_validator(mode="after")
    def parts_agree(self) -> Self:
        """What no part can check alone."""
        if self.rollout.temperature != 1.0:
            # the engine reports log-probs of the unscaled distribution: any other would falsify every ratio
            raise ValueError("rollout.temperature must be 1: behaviour log-probs are reported at temperature 1")
        if self.objective.kl_stop is not None and self.batch.epochs == 1 and self.batch.minibatch is None:
            raise ValueError(
                "objective.kl_stop acts between optimizer steps, but a step has one: set batch.epochs or minibatch"
            )
        if self.objective.advantage == "success" and (self.rollout.refill_most or self.rollout.retire_after):
            raise ValueError(
                "rollout.refill_most and retire_after take groups whose rewards are all equal to be without signal, "
                "but objective.advantage: success learns from them: unset the one or the other"
            )
        self._corrections_agree()
        return self

    def _corrections_agree(self) -> None:
        objective, correction = self.objective, self.correction
        if objective.kl_coefficient and self.model.training != "lora":
            raise ValueError("objective.kl_coefficient needs model.training: lora: the base is what the adapter is on")
        clipped_itself = objective.surrogate == "clip" and correction.proximal == "behaviour"
        if correction.weight != "none" and clipped_itself:
            raise ValueError(
                "correction.weight would correct twice: the clipped ratio is taken against the behaviour; "
                "set correction.proximal to recomputed or interpolated, or objective.surrogate to reinforce"
            )
        if objective.surrogate == "reinforce" and correction.proximal != "behaviour" and correction.weight == "none":
            raise ValueError("correction.proximal is read by nothing: reinforce has no ratio; set correction.weight")
        if objective.ratio != "token" and (correction.weight == "token" or correction.reject == "band"):
            raise ValueError(f"correction by token needs objective.ratio: token, not {objective.ratio}")


# what all of the learner's processes resolve; the trainer passes over the link and the prompt
SECTIONS: dict[str, type[Section]] = {
    "run": RunConfig,
    "link": LinkConfig,
    "metrics": MetricsConfig,
    "prompt": PromptConfig,
    "learner": LearnerConfig,
}
