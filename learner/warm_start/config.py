"""The section `learner.warm_start`: which demonstrations, which model, how long. Read by `loop learner warm-start`.

Apart from the code that it configures, because the gateway resolves it too and must not import torch.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from common.config import Section


class ModelShape(Section):
    """A Qwen3-shaped model: full attention, as many key-value heads as heads, embeddings not tied."""

    hidden: int = Field(default=96, ge=8, description="width of the residual stream, count", examples=[96])
    layers: int = Field(default=3, ge=1, description="transformer blocks, count", examples=[3])
    heads: int = Field(default=3, ge=1, description="attention heads, each hidden / heads wide, count", examples=[3])
    ff: int = Field(default=256, ge=8, description="width of the feed-forward layer, count", examples=[256])
    context: int = Field(default=768, ge=64, description="longest sequence, tokens", examples=[768])
    rope_theta: float = Field(default=10_000.0, gt=1, description="base of the rotary embedding", examples=[10_000.0])
    initial_deviation: float = Field(
        default=0.05, gt=0, le=1, description="standard deviation of initial weights", examples=[0.05]
    )


class WarmStartConfig(Section):
    """Supervised fine-tuning of a small model made from nothing, on noisy demonstrations."""

    demonstrations: Path = Field(
        default=Path("demonstrations.jsonl"),
        description="JSON lines of episodes to imitate (`loop world demonstrate` writes them)",
        examples=["runs/tiny/demonstrations.jsonl"],
    )
    out: Path = Field(
        default=Path("warm-start"),
        description="model folder to write, replaced when there",
        examples=["runs/tiny/base"],
    )
    model: ModelShape = Field(default=ModelShape(), description="the model's shape")
    vocabulary: int = Field(
        default=1024, ge=300, le=200_000, description="most tokens of the tokenizer, count", examples=[1024]
    )
    held_out: float = Field(
        default=0.05, ge=0, le=0.5, description="share of tasks measured on instead of trained on", examples=[0.05]
    )
    steps: int = Field(default=1700, ge=1, description="optimizer steps, count", examples=[1700])
    echoes: float = Field(
        default=0.2, ge=0, le=1, description="share of the steps, from the first, on copying alone", examples=[0.2]
    )
    drills: float = Field(
        default=0.35,
        ge=0,
        le=1,
        description="share of the steps, after the echoes, on tasks without log-in and prompt's head",
        examples=[0.35],
    )
    drill_batch: int = Field(default=8, ge=1, description="examples in a step of echoes or drills, count", examples=[8])
    batch: int = Field(default=4, ge=1, description="demonstrations in a step after the drills, count", examples=[4])
    renaming: float = Field(
        default=0.6,
        ge=0,
        le=1,
        description="share of demonstrations whose copied values are replaced by others",
        examples=[0.6],
    )
    learning_rate: float = Field(default=2.5e-3, gt=0, description="AdamW's peak learning rate", examples=[2.5e-3])
    warm_up: int = Field(default=50, ge=0, description="steps until the peak, count", examples=[50])
    flat: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="share of the steps after which the rate falls linearly to 0",
        examples=[0.5],
    )
    weight_decay: float = Field(default=0.01, ge=0, description="AdamW's decoupled weight decay", examples=[0.01])
    clip: float = Field(default=1.0, gt=0, description="largest gradient norm", examples=[1.0])
    context_weight: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="weight of tokens that the policy reads, where those that it samples have 1",
        examples=[0.1],
    )
    threads: int = Field(default=2, ge=1, description="CPU threads of the training, count", examples=[2])
