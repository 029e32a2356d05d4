r"""Text to tokens and back: the only file that does it. Used inside stage 2 (episode) and by the warm start.

One format for every model, ChatML as Qwen2.5 and Qwen3 use it; what is said in it is the form's (prompt_text.py). An
episode's tokens are built by appending: `opening`, then for each turn the ids that the policy sampled (its stop token
with them) and `observation`. What was sampled is never decoded and encoded again, nor taken out; `code` decodes for
execution alone.

The opening is, token for token, what the model's own chat template renders. So are all later turns of Qwen2.5. With
Qwen3 they differ in the thoughts: its template takes those of earlier turns out of the conversation, and the empty ones
(`<think>\n\n</think>\n\n`, with which thinking is switched off) too. Here they stay. A conversation that is changed
behind the policy's back is another sequence at each turn: it cannot be trained on in one pass, with the context in
which each token was sampled, and no cache of its beginning would serve twice. What may be changed, seldom and by
`stub`, is an old observation, where a run asks for that (actor/context.py).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from tokenizers import Tokenizer

from common.code_of_turn import THOUGHT, THOUGHT_END, Reading, read
from common.errors import UsageError
from common.prompt_config import PromptConfig
from common.prompt_text import CUT_NOTE, SECOND_BLOCK, START, STOP, STUB, PromptText, Supervisor, form_digest

__all__ = ["START", "STOP", "Prompt", "PromptConfig", "Supervisor", "form_digest"]
NO_THOUGHT = f"{THOUGHT}\n\n{THOUGHT_END}\n\n"
CHARACTERS_PER_TOKEN = (8, 64)  # more than most texts have; more than any has but long runs of one sign
_CUT_BEFORE = re.compile(r"\n\[Output cut: \d+ of (\d{1,12}) characters are shown\.\]$")  # what the world says


class Prompt:
    """The prompt's format, bound to one tokenizer."""

    def __init__(self, tokenizer: Tokenizer, stop: int, start: int, config: PromptConfig) -> None:
        self._tokenizer = tokenizer
        # "<|im_end|>" inside a text is encoded as text, so that no text forges a turn
        self._tokenizer.encode_special_tokens = True
        self._words, self._limit = PromptText(config), config.observation_limit
        self._start, self._stop = start, stop
        self.freed_share = config.stub_share if config.long_context == "stub" else None
        self._special = {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
        self._newline = self._encode("\n")
        thinks = tokenizer.token_to_id(THOUGHT_END) is not None
        header = f"assistant\n{NO_THOUGHT}" if thinks and config.thinking == "off" else "assistant\n"
        self._reply_header = [start, *self._encode(header)]
        self._head = [id_ for message in self._words.head for id_ in self._turn(message.role, message.text)]
        self._framed = len(self._user_turn("")) - len(self._encode("user\n"))
        self.digest: str = hashlib.sha256(f"{form_digest(config)}\0{tokenizer.to_str()}".encode()).hexdigest()
        self.stop_ids: tuple[int, ...] = (stop,)
        self.vocabulary_size: int = tokenizer.get_vocab_size(with_added_tokens=True)

    @classmethod
    def load(cls, model_folder: Path, config: PromptConfig | None = None) -> Prompt:
        """The prompt for a Hugging Face model directory; `config` as a run's section `prompt` has it.

        Raises UsageError when there is no tokenizer.json, it cannot be read, lacks ChatML's tokens, or cannot think.
        """
        file = model_folder / "tokenizer.json"
        if not file.is_file():
            raise UsageError(f"{file}: no such file: a model needs its tokenizer; `loop learner warm-start` makes both")
        try:
            tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # noqa: BLE001 - the library raises plain Exception for a bad file
            raise UsageError(f"{file}: not a tokenizer: {' '.join(str(error).split())[:200]}") from None
        return cls.of(tokenizer, str(file), config)

    @classmethod
    def of(cls, tokenizer: Tokenizer, where: str = "tokenizer", config: PromptConfig | None = None) -> Prompt:
        """The prompt for a tokenizer at hand, which it takes over; `where` names it in errors.

        Raises UsageError when the tokenizer lacks ChatML's tokens, would let a text forge them, or is to think and
        lacks the tokens for it.
        """
        config = config or PromptConfig()
        start, stop = tokenizer.token_to_id(START), tokenizer.token_to_id(STOP)
        if start is None or stop is None:
            missing = START if start is None else STOP
            raise UsageError(f"{where}: has no token {missing}: prompts are ChatML, take a Qwen2.5 or Qwen3 tokenizer")
        if config.thinking == "on" and tokenizer.token_to_id(THOUGHT_END) is None:
            raise UsageError(f"{where}: has no token {THOUGHT_END}: only a Qwen3 thinks; set prompt.thinking: off")
        prompt = cls(tokenizer, stop, start, config)
        if {start, stop} & set(prompt._encode(START + STOP)):
            raise UsageError(f"{where}: {STOP} is not marked special, so a text could forge the end of a turn")
        return prompt

    def opening(self, instruction: str, supervisor: Supervisor) -> list[int]:
        """An episode's first tokens: the form's head, the task, the header of the first assistant turn."""
        return [*self._head, *self._turn("user", self._words.task(instruction, supervisor)), *self._reply_header]

    def observation(self, text: str, room: int, *, stopped: bool = True) -> list[int]:
        """What follows the policy's stop token: the observation as a user turn, the header of the next assistant turn.

        At most `room` tokens, of which the text takes at most the configured `observation_tokens`: a longer one is cut
        at a line end, with a note that says how much is missing. Empty when `room` is too small for anything: the
        episode has run out of context. `stopped=False` says that the turn did not end in the stop token
        (`has_stopped`), which then comes first.
        """
        text = text.rstrip("\n")
        before = [*([] if stopped else [self._stop]), *self._newline]
        most = min(room - self._framed - len(before), room if self._limit is None else self._limit)
        for shown in self._shorter_and_shorter(text, most):
            if self._limit is not None and len(self._encode(shown)) > self._limit:
                continue
            ids = [*before, *self._user_turn(shown)]
            if len(ids) <= room:
                return ids
        return []

    def stub(self, *, stopped: bool = True) -> list[int]:
        """What stands in the place of an observation that was taken out; `stopped` as with `observation`."""
        return [*([] if stopped else [self._stop]), *self._newline, *self._user_turn(STUB)]

    def reply(self, code: str, thought: str = "") -> list[int]:
        """A turn as the policy should sample it, the stop token with it. For demonstrations alone."""
        return [*self._encode(self._words.answer(code, thought)), self._stop]

    def code(self, sampled_ids: Sequence[int]) -> str | None:
        """What to execute of a turn, by the rules of code_of_turn.py; None when there is nothing."""
        return self._read(sampled_ids).code

    def told(self, sampled_ids: Sequence[int], output: str | None) -> str:
        """What the policy is told after a turn: `output`, what its code printed; None: that nothing was executed."""
        if output is None:
            return self._words.no_code
        return f"{SECOND_BLOCK}\n{output}" if self._read(sampled_ids).blocks > 1 else output

    def has_stopped(self, sampled_ids: Sequence[int]) -> bool:
        """Whether a turn ends in the stop token, rather than cut off or by another token that ends a text."""
        return bool(sampled_ids) and sampled_ids[-1] == self._stop

    def text(self, ids: Sequence[int]) -> str:
        """Tokens as a person reads them, the format's own tokens shown."""
        shown: str = self._tokenizer.decode(list(ids), skip_special_tokens=False)
        return shown

    def _read(self, sampled_ids: Sequence[int]) -> Reading:
        length = next((at for at, number in enumerate(sampled_ids) if number in self._special), len(sampled_ids))
        text: str = self._tokenizer.decode(list(sampled_ids[:length]), skip_special_tokens=True)
        return read(text, fence_needed=self._words.fence_needed)

    def _turn(self, role: str, text: str) -> list[int]:
        """A whole turn that the policy does not sample, the line end behind it too."""
        return [self._start, *self._encode(f"{role}\n{text}"), self._stop, *self._newline]

    def _user_turn(self, output: str) -> list[int]:
        """An observation's turn, and the header of the policy's next one."""
        return [*self._turn("user", self._words.observation(output)), *self._reply_header]

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _shorter_and_shorter(self, text: str, room: int) -> Iterator[str]:
        """Texts to try, longest first; the first that fits is shown. The last is empty."""
        ends: list[int] = []
        window = ""
        for characters in CHARACTERS_PER_TOKEN:  # a long text need not be encoded as a whole to be cut
            window = text[: max(room, 0) * characters]
            if window == text:
                yield text
            ends = [end for _, end in self._tokenizer.encode(window, add_special_tokens=False).offsets]
            if len(ends) >= room:
                break
        cut_before = _CUT_BEFORE.search(text[-100:])
        count = int(cut_before[1]) if cut_before else len(text)
        # the note costs tokens too: how many depends on the tokenizer, so shorter heads are tried until one fits
        for kept in (room - 8, room - 16, room - 32, room // 2, 0):
            head = window[: ends[min(kept, len(ends)) - 1]] if kept > 0 and ends else ""
            head = head[: head.rfind("\n") + 1] or (head + "\n" if head else "")
            yield head + CUT_NOTE.format(count=count - len(head))
        yield ""
