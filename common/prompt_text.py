"""What a prompt says, before it is tokens: the templates of a form, its worked example. Config in, messages out.

A form is a folder of templates below `prompts/`: system, task, observation, no_code, answer (a turn as it should look),
and for react a worked example: `example.yaml` holds a task, its cells and what the engine printed, which a test plays.

"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from common.prompt_config import PromptConfig

START, STOP = "<|im_start|>", "<|im_end|>"
CUT_NOTE = "[{count} more characters]"
STUB = "[This output was taken out to make room.]"
SECOND_BLOCK = "[Only the first code block of the answer was executed.]"
RULES = 2  # +1 when the same text would become other tokens, or the same tokens other code
FORMS = Path(__file__).resolve().parent / "prompts"


class Supervisor(Protocol):
    """The person on whose behalf a task is done, as the task's specs name them."""

    @property
    def first_name(self) -> str: ...
    @property
    def last_name(self) -> str: ...
    @property
    def email(self) -> str: ...
    @property
    def phone_number(self) -> str: ...


@dataclass(frozen=True)
class Message:
    """One turn of a conversation before it is tokens."""

    role: str  # system, user, assistant
    text: str


def form_digest(config: PromptConfig | None = None) -> str:
    """sha256 (hex) of all about prompts but the tokenizer; learner and actor must have the same."""
    config = config or PromptConfig()
    digest = hashlib.sha256(f"{RULES}\0{config}\0{START}\0{STOP}\0{CUT_NOTE}\0{STUB}\0{SECOND_BLOCK}\0".encode())
    for file in sorted((FORMS / config.form).iterdir()):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


class PromptText:
    """The words of one form."""

    def __init__(self, config: PromptConfig) -> None:
        self._form = config.form
        self._environment = Environment(  # noqa: S701 - the policy reads text, not HTML
            loader=FileSystemLoader(FORMS / config.form),
            undefined=StrictUndefined,
            trim_blocks=True,
        )
        self.no_code = self._render("no_code")
        self.fence_needed = config.form == "react"
        self.head: tuple[Message, ...] = (Message("system", self._render("system")), *self._example())

    def task(self, instruction: str, supervisor: Supervisor) -> str:
        """What the user turn says that gives the task."""
        return self._render("task", instruction=instruction, supervisor=supervisor)

    def observation(self, output: str) -> str:
        """What the user turn says that shows what a cell printed."""
        return self._render("observation", output=output)

    def answer(self, code: str, thought: str = "") -> str:
        """A turn as the policy should say it. For examples and demonstrations."""
        return self._render("answer", code=code, thought=thought)

    def _example(self) -> Iterator[Message]:
        """The worked example as turns, where the form has one."""
        file = FORMS / self._form / "example.yaml"
        if not file.exists():
            return
        example = yaml.safe_load(file.read_text(encoding="utf-8"))
        seen = self._render("example", instruction=example["instruction"], supervisor=example["supervisor"])
        for turn in example["turns"]:
            yield Message("user", seen)
            yield Message("assistant", self.answer(turn["code"], turn["thought"]))
            seen = self.observation(turn["observation"].rstrip("\n"))

    def _render(self, name: str, **values: Any) -> str:
        return self._environment.get_template(f"{name}.j2").render(**values)
