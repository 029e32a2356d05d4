"""What `loop doctor` finds: a line a check, and what to do about it. Standard library only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    state: State
    text: str
    remedy: str = ""  # what to do; empty where nothing is to be done

    def __post_init__(self) -> None:
        assert (self.state == "ok") == (not self.remedy), "what is not well has a remedy, and nothing else has"


@dataclass(frozen=True)
class Check:
    """One line of the doctor's: what it is about, and how to find out."""

    name: str
    run: Callable[[], Finding]
    waits: str = ""  # said before one that takes seconds


def ok(text: str) -> Finding:
    """All is well."""
    return Finding("ok", text)


def warning(text: str, remedy: str) -> Finding:
    """It will work, but worse than it could, or not yet."""
    return Finding("warning", text, remedy)


def error(text: str, remedy: str) -> Finding:
    """It will not work."""
    return Finding("error", text, remedy)


def lacking(text: str, remedy: str, *, wanted: bool) -> Finding:
    """What a run needs besides the machine is not there: an error once it is `wanted`."""
    return error(text, remedy) if wanted else warning(f"{text} (not needed before a run is set up)", remedy)
