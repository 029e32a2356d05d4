"""The `prompt` section: how a task, code and observations are put to the policy. Both sides read it, and must agree."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from common.config import Section

Form = Literal["compact", "react"]
LongContext = Literal["end", "stub"]
OBSERVATION_TOKENS: dict[Form, int | None] = {"compact": None, "react": 3000}  # LOOP (arXiv 2502.01600): 3,000


class PromptConfig(Section):
    """How the policy is spoken to."""

    form: Form = Field(
        default="compact",
        description="compact: a line of system, the task, bare code (tiny policies); react: instructions, a worked "
        "example, thoughts and one fenced code block a turn (instruction-tuned LLMs)",
        examples=["react"],
    )
    thinking: Literal["off", "on"] = Field(
        default="off",
        description="whether a Qwen3 thinks before it answers; off for every other model",
        examples=["on"],
    )
    observation_tokens: int | None = Field(
        default=None,
        ge=16,
        description="longest observation, tokens; a longer one is cut at a line end with a note; none: 3000 for react, "
        "as much as there is room for with compact",
        examples=[3000],
    )

    long_context: LongContext = Field(
        default="end",
        description="what happens when an episode's context is full: end: it ends, and is graded as it stands; stub: "
        "its oldest observations are replaced by a stub, and it goes on",
        examples=["stub"],
    )
    stub_share: float = Field(
        default=0.25,
        gt=0,
        lt=1,
        description="with stub: share of the context that is made free at once, as far as observations fill it, so "
        "that the engine's cache of its beginning lasts for some turns",
        examples=[0.25],
    )

    @field_validator("thinking", mode="before")
    @classmethod
    def is_a_word(cls, value: object) -> object:
        """YAML reads a bare off as false."""
        return {False: "off", True: "on"}.get(value, value) if isinstance(value, bool) else value

    @property
    def observation_limit(self) -> int | None:
        """`observation_tokens`, or its form's own; None: by room alone."""
        return self.observation_tokens or OBSERVATION_TOKENS[self.form]

    def __str__(self) -> str:
        """All that an actor and the learner must agree about, for a person: e.g. "react, thinking off, ..."."""
        limit = self.observation_limit or "unlimited"
        full = f"stub {self.stub_share:g}" if self.long_context == "stub" else "end"
        return f"{self.form}, thinking {self.thinking}, observation_tokens {limit}, long_context {full}"
