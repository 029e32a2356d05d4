"""What a person sees while `loop demo` works: a bar and a few figures on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

LINE_EVERY_SECONDS = 30.0


class Display:
    """One bar a phase. Everything goes to standard error, so that standard output stays for the result."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self._progress = Progress(
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.description:<18}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[figures]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._bar: TaskID | None = None
        self._name = ""
        self._said = 0.0
        self._begun = time.monotonic()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def phase(self, name: str, total: int | None = None) -> None:
        """A new phase begins; the one before is done."""
        if name == self._name:
            return
        self.finish()
        self._name = name
        self._bar = self._progress.add_task(name, total=total, figures="")
        self._line(f"{name} ...")

    def update(self, done: int, total: int, figures: str) -> None:
        """How far the phase is, and figures in a few words."""
        if self._bar is not None:
            self._progress.update(self._bar, completed=done, total=total, figures=figures)
        if time.monotonic() - self._said > LINE_EVERY_SECONDS:
            self._line(f"{self._name}: {done} of {total} {figures}")

    def finish(self) -> None:
        """The phase is done."""
        if self._bar is None:
            return
        task = self._progress.tasks[self._bar]
        self._progress.update(self._bar, total=task.total or 1, completed=task.total or 1)
        self._progress.stop_task(self._bar)
        self._bar = None

    def say(self, text: str) -> None:
        """A line that stays."""
        self.console.print(text, highlight=False, markup=False)

    def _line(self, text: str) -> None:
        if not self.console.is_terminal:
            self._said = time.monotonic()
            self.say(f"[{self._said - self._begun:6.0f} s] {text}")
