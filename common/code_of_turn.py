"""What counts as code in a turn of the policy. Text in, code out; pure. These rules are all there are:

1. A turn's text is what was sampled up to its first special token (`<|im_end|>`, or one that stands where it should
   not), decoded; bytes that are no UTF-8 become U+FFFD.
2. Thoughts do not count: neither what stands before the last `</think>`, nor what follows a `<think>` without an end.
3. A code block begins after a line that ends in three or more backticks, with nothing or `python`, `py` or `python3`
   behind them. It ends before the first line that begins with as many backticks, or with those that end a line; one
   without an end reaches to the end of the turn. Blocks of other languages are no code.
4. The first code block is executed. Text around it is not, nor a second block, nor an "Output:" that the policy made
   up: an observation is only what the world printed. Where there are more blocks the observation's first line says
   that they were not executed.
5. Without a code block: in the compact form the whole text is the code; in the react form there is none.
6. A turn without code, or with blank code, executes nothing, and the observation says so. A turn that was cut by its
   token limit is read as it stands.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

THOUGHT, THOUGHT_END = "<think>", "</think>"
PYTHON = ("", "python", "py", "python3")
_OPENING = re.compile(r"(?<!`)(`{3,})[ \t]*([\w+#.-]*)$")


@dataclass(frozen=True)
class Reading:
    """What a turn's text holds: the code to execute, if any, and how many code blocks there are."""

    code: str | None
    blocks: int


def read(text: str, *, fence_needed: bool) -> Reading:
    """The code of a turn's text. `fence_needed`: without a fence there is none (rule 5)."""
    answer = text.rpartition(THOUGHT_END)[2].partition(THOUGHT)[0]
    blocks = _code_blocks(answer)
    unfenced = "" if fence_needed else answer
    code = blocks[0] if blocks else unfenced
    return Reading(code.strip("\n") if code.strip() else None, len(blocks))


def _code_blocks(text: str) -> list[str]:
    """The contents of all blocks of Python, in order."""
    blocks: list[list[str]] = []
    fence = ""  # of the block that a line is in, and its lines
    inside: list[str] | None = None
    for whole in text.split("\n"):
        line = whole.rstrip()
        opening = _OPENING.search(line)
        if inside is not None:
            begins = line.lstrip().startswith(fence)
            if not begins and not line.endswith(fence):
                inside.append(whole)
                continue
            if not begins:
                inside.append(line.rstrip("`"))
            inside = None
            if not (begins and opening and opening[2]):  # with a language it opens the next block
                continue
        if opening:
            fence, inside = opening[1], []
            if opening[2].lower() in PYTHON:
                blocks.append(inside)
    return ["\n".join(lines) for lines in blocks]
