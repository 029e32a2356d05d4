"""One trajectory as the viewer shows it: text by turn, sampled tokens as pieces of text with what is recorded of each.

Flows in: a Trajectory, the run's tokenizer. Flows out: a JSON object of short keys (report.js reads them):
    o   the opening, system message and task
    u   turns: p pieces of text [n], one a sampled token · l their behaviour log-probs [n], thousandths of a nat ·
        v the policy version of each [n], one number where they are all the same · r where it was computed, the
        log-ratio of a later version to the behaviour [n], thousandths of a nat · c begin and end of the executed code
        within the text, in UTF-16 units as the browser counts · s what the policy saw of it, null: the episode was over
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from common.messages import Trajectory
from common.prompt import Prompt
from common.rollouts import transcript

UNFINISHED = "\ufffd"  # how a decoder shows bytes that are no whole character
LONGEST_CHARACTER = 4  # tokens, of a byte each


class Reader:
    """Token ids to text, with the run's tokenizer; without one the ids themselves are shown."""

    def __init__(self, prompt: Prompt | None) -> None:
        self.prompt = prompt
        self._pieces: dict[int, str] = {}

    def text(self, ids: Sequence[int]) -> str:
        return " ".join(map(str, ids)) if self.prompt is None else self.prompt.text(ids)

    def code(self, sampled_ids: Sequence[int]) -> str | None:
        return None if self.prompt is None else self.prompt.code(sampled_ids)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """A piece of text for each token; of tokens that are a character together, the first has it, the others ""."""
        if self.prompt is None:
            return [f"{number} " for number in ids]
        found: list[str] = []
        while len(found) < len(ids):
            rest = ids[len(found) :]
            piece = self._piece(rest[0])
            joined = 1
            if UNFINISHED in piece:
                for count in range(2, min(LONGEST_CHARACTER, len(rest)) + 1):
                    together = self.prompt.text(rest[:count])
                    if UNFINISHED not in together:
                        piece, joined = together, count
                        break
            found += [piece, *[""] * (joined - 1)]
        return found

    def _piece(self, number: int) -> str:
        piece = self._pieces.get(number)
        if piece is None:
            assert self.prompt is not None
            piece = self._pieces[number] = self.prompt.text([number])
        return piece


def shown(trajectory: Trajectory, reader: Reader, ratios: npt.NDArray[np.float32] | None = None) -> dict[str, Any]:
    """The JSON object above. `ratios`: log-ratios by token [T], nats, nan where there is none."""
    places, bounds = transcript(
        np.arange(len(trajectory.sampled_bytes), dtype=np.int32), trajectory.turns, trajectory.repeats
    )
    tokens = trajectory.tokens[places]
    starts = [*(int(begin) for begin, _ in bounds[1:]), len(tokens)]
    turns = []
    for (begin, end), following in zip(bounds, starts, strict=True):
        where = places[begin:end]
        ids, seen = tokens[begin:end].tolist(), tokens[end:following].tolist()
        pieces = reader.pieces(ids)
        turn: dict[str, Any] = {
            "p": pieces,
            "l": _thousandths(trajectory.log_probs[where]),
            "v": _alike(trajectory.versions[where].tolist()),
            "s": reader.text(seen) if seen else None,
        }
        if ratios is not None and not np.isnan(ratios[where]).any():
            turn["r"] = _thousandths(ratios[where])
        code = reader.code(ids)
        if code is not None:
            turn["c"] = _span("".join(pieces), code)
        turns.append(turn)
    return {"o": reader.text(tokens[: bounds[0][0]].tolist()), "u": turns}


def _thousandths(values: npt.NDArray[np.float32]) -> list[int]:
    found: list[int] = np.rint(values.astype(np.float64) * 1000).astype(np.int64).tolist()
    return found


def _alike(values: list[int]) -> list[int] | int:
    return values[0] if len(set(values)) == 1 else values


def _span(text: str, code: str) -> list[int] | None:
    begin = text.find(code)
    if begin < 0:
        return None
    first = _units(text[:begin])
    return [first, first + _units(code)]


def _units(text: str) -> int:
    return len(text.encode("utf-16-le", "surrogatepass")) // 2
