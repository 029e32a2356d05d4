"""The trainer's sections of `learner`: model, batch, objective, optimizer, checkpoints.

Apart from the code that they configure, because the gateway and `--help` resolve them too and must not import torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from common.config import Section


class LoraSettings(Section):
    """The adapter's shape, when `learner.model.training` is lora."""

    rank: int = Field(default=16, ge=1, description="rank r of the update, count", examples=[16])
    alpha: float = Field(default=32.0, gt=0, description="the update is scaled by alpha / rank", examples=[32.0])
    dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout before the adapter, share", examples=[0.0])
    targets: tuple[str, ...] = Field(
        default=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        min_length=1,
        description="names of the linear layers that get an adapter",
        examples=[("q_proj", "v_proj")],
    )


class ModelConfig(Section):
    """Which policy is trained, and how it is held."""

    path: Path = Field(
        default=Path("base"), description="Hugging Face folder of policy version 0", examples=["runs/tiny/base"]
    )
    training: Literal["full", "lora"] = Field(
        default="full", description="all weights, or a LoRA adapter on a frozen base", examples=["lora"]
    )
    lora: LoraSettings = Field(default=LoraSettings(), description="the adapter's shape")
    dtype: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="precision of the computation and of a frozen base; what is trained is float32 always",
        examples=["bfloat16"],
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="where the model lies; auto takes a GPU when there is one", examples=["cpu"]
    )
    threads: int = Field(default=1, ge=1, description="CPU threads of the trainer, count", examples=[1])
    recompute_activations: bool = Field(
        default=False, description="activation checkpointing: a third more time, far less memory", examples=[True]
    )


class BatchConfig(Section):
    """How a step's trajectories are cut into optimizer steps and micro-batches."""

    micro_batch_tokens: int = Field(
        default=4096,
        ge=1,
        description="tokens of one forward and backward pass; a longer trajectory passes alone",
        examples=[32768],
    )
    log_prob_chunk: int = Field(
        default=1024,
        ge=1,
        description="most positions whose logits over the vocabulary exist at a time, tokens",
        examples=[4096],
    )
    epochs: int = Field(default=1, ge=1, description="passes over a step's trajectories, count", examples=[2])
    minibatch: int | None = Field(
        default=None, ge=1, description="trajectories of one optimizer step, count; none: all", examples=[32]
    )


class ObjectiveConfig(Section):
    """What is maximised. Defaults are LOOP's: leave-one-out advantage, token ratios, PPO's clipped surrogate."""

    advantage: Literal["leave_one_out", "group_mean", "normalised", "success"] = Field(
        default="leave_one_out",
        description="baseline: mean of the other members, mean of all, or that over the standard deviation; or 1 for "
        "successes, which alone are trained on (expert iteration)",
        examples=["leave_one_out"],
    )
    surrogate: Literal["clip", "reinforce"] = Field(
        default="clip",
        description="PPO's clipped ratio; or the log-prob itself, without a ratio (REINFORCE, RLOO, expert iteration)",
        examples=["reinforce"],
    )
    least_advantage: float = Field(
        default=0.01, ge=0, description="trajectories with a smaller |advantage| are passed over", examples=[0.01]
    )
    ratio: Literal["token", "turn", "trajectory"] = Field(
        default="token", description="unit whose probability ratio is taken and clipped", examples=["token"]
    )
    clip: float = Field(default=0.2, gt=0, description="PPO's epsilon", examples=[0.1])
    clip_higher: float | None = Field(
        default=None, gt=0, description="epsilon of the upper bound, when it differs", examples=[0.28]
    )
    clip_form: Literal["symmetric", "reciprocal"] = Field(
        default="symmetric",
        description="bounds [1 - eps, 1 + eps] as in the paper, or [1 / (1 + eps), 1 + eps] as in its code",
        examples=["reciprocal"],
    )
    aggregation: Literal["trajectory_mean", "unit_mean", "constant"] = Field(
        default="unit_mean",
        description="mean over a trajectory's units, then over trajectories; mean over all units; or mean over a "
        "trajectory's units, then the sum over trajectories by learner.objective.divisor",
        examples=["constant"],
    )
    divisor: float = Field(
        default=32.0, gt=0, description="divisor of aggregation `constant`, trajectories", examples=[32.0]
    )
    kl_coefficient: float = Field(
        default=0.0,
        ge=0,
        description="weight of GRPO's KL penalty against the base, which is the policy with its adapter switched off",
        examples=[0.04],
    )
    kl_stop: float | None = Field(
        default=None,
        gt=0,
        description="a step ends early when the mean k1 estimate of KL(behaviour || policy) of its trajectories "
        "exceeds this, nats a trajectory",
        examples=[20.0],
    )
    entropy: bool = Field(
        default=True, description="whether the policy's entropy at the sampled tokens is reported", examples=[True]
    )


class CorrectionConfig(Section):
    """What is done about tokens that an older policy, or another engine, sampled. Default: LOOP's ratio alone."""

    proximal: Literal["behaviour", "recomputed", "interpolated"] = Field(
        default="behaviour",
        description="policy that the ratio is taken against: the one that sampled; the learner's at the start of the "
        "step (decoupled PPO); or between both by lag",
        examples=["recomputed"],
    )
    weight: Literal["none", "token", "trajectory"] = Field(
        default="none",
        description="unit whose importance weight proximal / behaviour multiplies the loss, cut at weight_cap",
        examples=["token"],
    )
    weight_cap: float = Field(default=2.0, ge=1, description="largest importance weight", examples=[5.0])
    reject: Literal["none", "band", "geometric", "trust_region"] = Field(
        default="none",
        description="what is masked: tokens whose weight, or trajectories whose geometric mean of weights, is outside "
        "reject_low to reject_high; or trajectories one of whose tokens' |log weight| is above reject_above",
        examples=["trust_region"],
    )
    reject_low: float = Field(default=0.5, gt=0, le=1, description="least weight kept", examples=[0.5])
    reject_high: float = Field(default=2.0, ge=1, description="largest weight kept", examples=[5.0])
    reject_above: float = Field(default=2.0, gt=0, description="largest |log weight| kept, nats", examples=[1.0])


class OptimizerConfig(Section):
    """AdamW, its schedule over the run's steps, and what a step may not do."""

    learning_rate: float = Field(default=1e-3, gt=0, description="AdamW's peak learning rate", examples=[5e-5])
    beta1: float = Field(default=0.9, ge=0, lt=1, description="decay of the gradient's mean", examples=[0.9])
    beta2: float = Field(default=0.95, ge=0, lt=1, description="decay of the gradient's square", examples=[0.95])
    epsilon: float = Field(default=1e-5, gt=0, description="AdamW's epsilon", examples=[1e-8])
    weight_decay: float = Field(default=0.0, ge=0, description="AdamW's decoupled weight decay", examples=[0.01])
    clip_norm: float = Field(default=0.05, gt=0, description="largest global gradient norm", examples=[0.1])
    schedule: Literal["constant", "linear", "cosine"] = Field(
        default="constant", description="how the learning rate goes on after the warm-up", examples=["linear"]
    )
    warm_up: int = Field(default=0, ge=0, description="steps until the peak, count", examples=[5])
    final_share: float = Field(
        default=0.0, ge=0, le=1, description="share of the peak that linear and cosine end at", examples=[0.1]
    )
    most_skips: int = Field(
        default=3, ge=1, description="steps in a row with a loss that is not finite before the run ends", examples=[3]
    )


class CheckpointsConfig(Section):
    """What stays on the disk."""

    keep_versions: int | None = Field(
        default=None,
        ge=2,
        description="newest published versions kept, count; none: the staleness bound + 3; never fewer than that + 1, "
        "nor what an actor samples with or fetches",
        examples=[8],
    )
    keep_hours: float = Field(
        default=0.0, ge=0, description="published versions younger than this are kept besides, hours", examples=[24.0]
    )
    keep_every: int | None = Field(
        default=None, ge=1, description="every so manieth published version is kept for good; none: none", examples=[10]
    )
    keep_states: int = Field(
        default=2, ge=1, description="newest states of the trainer kept (weights and optimizer), count", examples=[2]
    )


class DiagnosticsConfig(Section):
    """What is measured besides the figures that every step gives."""

    recomputed_share: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of a step's trajectories, rounded up, whose log-probs are recomputed under the versions "
        "that sampled them, to tell staleness from engine mismatch; a step then reads the trained weights from the "
        "disk once for each version in use; 0: none",
        examples=[0.05],
    )
