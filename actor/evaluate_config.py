"""The `evaluate` section, as `loop eval` reads it."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from common.config import Section


class EvaluateConfig(Section):
    """One evaluation: which policy, on what, and where its results go."""

    checkpoint: str = Field(
        default="",
        description="a model folder or a published version, or a run's folder, with @VERSION for other than its newest",
        examples=["runs/tiny@12"],
    )
    dataset: str = Field(default="", description="data set of the data root", examples=["test_normal"])
    temperature: float = Field(default=0.0, ge=0, le=10, description="softmax temperature", examples=[0.0])
    rollouts: int = Field(default=1, ge=1, le=1000, description="episodes of a task, count", examples=[4])
    difficulty: tuple[int, ...] = Field(
        default=(), description="difficulties of the tasks that are played; none: all", examples=[(1, 2)]
    )
    out: Path | None = Field(
        default=None,
        description="folder for results and outputs; none: evaluations/ in the run's folder, or in runs/",
        examples=["runs/eval"],
    )
    max_turns: int | None = Field(
        default=None,
        ge=1,
        description="turns of an episode, count; none: as the run evaluates, or 50 without one",
        examples=[50],
    )
    max_turn_tokens: int | None = Field(
        default=None,
        ge=1,
        description="tokens sampled in one turn, count; none: as in the run, or 1500 without one",
        examples=[1500],
    )
    max_context_tokens: int | None = Field(
        default=None,
        ge=16,
        description="tokens of a whole episode, count; none: as in the run, or 32000 without one",
        examples=[32000],
    )
    attempts: int = Field(
        default=3,
        ge=1,
        le=100,
        description="tries of an episode whose world or request breaks down; then it is lost, and named",
        examples=[3],
    )
    cross_check: bool = Field(
        default=True,
        description="whether AppWorld's own evaluation is run on the outputs and compared, task by task",
        examples=[True],
    )
