"""Text to tokens and back: the only file that does it. Used inside stage 2 (episode) and by the warm start.

One format for every model, ChatML as Qwen2.5 and Qwen3 use it. An episode's tokens are built by appending: `opening`,
then for each turn the ids that the policy sampled (its stop token with them) and `observation`. What was sampled is
never decoded and encoded again; `code` decodes for execution alone.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from tokenizers import Tokenizer

from common.errors import UsageError

START, STOP = "<|im_start|>", "<|im_end|>"
SYSTEM = "Write python using apis; end with apis.supervisor.complete_task."
TASK = "I am {first_name} {last_name} ({email}, {phone_number}).\n{instruction}"
CUT_NOTE = "[{count} more characters]"
FORM = 1  # +1 when the same text would become other tokens, or the same tokens other code
MOST_CHARACTERS_PER_TOKEN = 64  # beyond room * this no text can fit, so it need not be encoded to be cut

_FENCE = re.compile(r"```[a-zA-Z]*[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)


def form_digest() -> str:
    """sha256 (hex) of what is fixed about prompts, without a tokenizer; learner and actor must have the same."""
    return hashlib.sha256(f"{FORM}\0{START}\0{STOP}\0{SYSTEM}\0{TASK}\0{CUT_NOTE}".encode()).hexdigest()


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


def task_text(instruction: str, supervisor: Supervisor) -> str:
    """What the first user turn says."""
    return TASK.format(
        first_name=supervisor.first_name,
        last_name=supervisor.last_name,
        email=supervisor.email,
        phone_number=supervisor.phone_number,
        instruction=instruction,
    )


class Prompt:
    """The prompt's format, bound to one tokenizer."""

    def __init__(self, tokenizer: Tokenizer, stop: int, start: int) -> None:
        self._tokenizer = tokenizer
        # "<|im_end|>" inside a text is encoded as text, so that no text forges a turn
        self._tokenizer.encode_special_tokens = True
        self._start, self._stop = start, stop
        self._newline = self._encode("\n")
        self._system = [start, *self._encode(f"system\n{SYSTEM}"), stop, *self._newline]
        self._reply_header = [*self._newline, start, *self._encode("assistant\n")]
        self.digest: str = hashlib.sha256(f"{form_digest()}\0{tokenizer.to_str()}".encode()).hexdigest()
        self.stop_ids: tuple[int, ...] = (stop,)
        self.vocabulary_size: int = tokenizer.get_vocab_size(with_added_tokens=True)

    @classmethod
    def load(cls, model_folder: Path) -> Prompt:
        """The prompt for a Hugging Face model directory.

        Raises UsageError when there is no tokenizer.json, it cannot be read, or it lacks ChatML's tokens.
        """
        file = model_folder / "tokenizer.json"
        if not file.is_file():
            raise UsageError(f"{file}: no such file: a model needs its tokenizer; `loop learner warm-start` makes both")
        try:
            tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # noqa: BLE001 - the library raises plain Exception for a bad file
            raise UsageError(f"{file}: not a tokenizer: {' '.join(str(error).split())[:200]}") from None
        return cls.of(tokenizer, str(file))

    @classmethod
    def of(cls, tokenizer: Tokenizer, where: str = "tokenizer") -> Prompt:
        """The prompt for a tokenizer at hand, which it takes over; `where` names it in errors.

        Raises UsageError when the tokenizer lacks ChatML's tokens, or would let a text forge them.
        """
        start, stop = tokenizer.token_to_id(START), tokenizer.token_to_id(STOP)
        if start is None or stop is None:
            missing = START if start is None else STOP
            raise UsageError(f"{where}: has no token {missing}: prompts are ChatML, take a Qwen2.5 or Qwen3 tokenizer")
        prompt = cls(tokenizer, stop, start)
        if {start, stop} & set(prompt._encode(START + STOP)):
            raise UsageError(f"{where}: {STOP} is not marked special, so a text could forge the end of a turn")
        return prompt

    def opening(self, instruction: str, supervisor: Supervisor) -> list[int]:
        """An episode's first tokens: the system line, the task, the header of the first assistant turn."""
        task = self._encode(f"user\n{task_text(instruction, supervisor)}")
        return [*self._system, self._start, *task, self._stop, *self._reply_header]

    def observation(self, text: str, room: int, *, stopped: bool = True) -> list[int]:
        """What follows the policy's stop token: the observation as a user turn, the header of the next assistant turn.

        At most `room` tokens: a longer text is cut at a line end, with a note that says how much is missing. Empty when
        `room` is too small for anything: the episode has run out of context. `stopped=False` says that the turn was
        ended by its token limit; the stop token that the policy did not sample then comes first.
        """
        before = [*([] if stopped else [self._stop]), *self._newline, self._start]
        after = [self._stop, *self._reply_header]
        for shown in self._shorter_and_shorter(text.rstrip("\n"), room - len(before) - len(after)):
            ids = [*before, *self._encode(f"user\n{shown}"), *after]
            if len(ids) <= room:
                return ids
        return []

    def reply(self, code: str) -> list[int]:
        """A turn as the policy should sample it: the code, then the stop token. For demonstrations alone."""
        return [*self._encode(code), self._stop]

    def code(self, sampled_ids: Sequence[int]) -> str | None:
        """What to execute of a turn; None when there is nothing.

        The first fenced block when there is a fence (an unclosed one reaches to the end), else the whole text. What a
        reasoning model thinks before `</think>` does not count.
        """
        text: str = self._tokenizer.decode(list(sampled_ids), skip_special_tokens=True)
        text = text.rpartition("</think>")[2]
        fenced = _FENCE.search(text)
        code = (fenced.group(1) if fenced else text).strip("\n")
        return code if code.strip() else None

    def text(self, ids: Sequence[int]) -> str:
        """Tokens as a person reads them, the format's own tokens shown."""
        shown: str = self._tokenizer.decode(list(ids), skip_special_tokens=False)
        return shown

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _shorter_and_shorter(self, text: str, room: int) -> Iterator[str]:
        """Texts to try, longest first; the first that fits is shown. The last is empty."""
        window = text[: max(room, 0) * MOST_CHARACTERS_PER_TOKEN]
        if window == text:
            yield text
        ends = [end for _, end in self._tokenizer.encode(window, add_special_tokens=False).offsets]
        # the note costs tokens too: how many depends on the tokenizer, so shorter heads are tried until one fits
        for kept in (room - 8, room - 16, room - 32, room // 2, 0):
            head = window[: ends[min(kept, len(ends)) - 1]] if kept > 0 and ends else ""
            head = head[: head.rfind("\n") + 1] or (head + "\n" if head else "")
            yield head + CUT_NOTE.format(count=len(text) - len(head))
        yield ""
