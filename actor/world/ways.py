"""The ways that a task is tried in when it is verified: its solution, doing nothing, doing wrong, doing damage beside.

Flows in: a task's folder with its ground truth. Flows out: `Way`s, each a player of one episode. Of our own tasks
solution.json holds the form of the solution with its wrong options, and the cells as they were played; of AppWorld's
own there may be a compiled_solution.py. Standard library only.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from actor.world import asides
from actor.world.scenarios.form import SEEN, Scenario

KINDS = ("solution", "no-op", "wrong", "collateral")  # the first must pass all tests, the others must not
COMPLETE = re.compile(r"^apis\.supervisor\.complete_task\([^\n]*\)\s*\Z", re.MULTILINE)  # a solution's last line
CALL = "$call"  # in what is played in place of that line: the line itself
NO_OP = "apis.supervisor.complete_task()"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A task to verify. `cells` of its solution are templates; none where nothing tells its solution."""

    task_id: str
    apps: tuple[str, ...]
    accounts: tuple[str, ...]
    cells: tuple[str, ...]
    options: Mapping[str, str]
    wrong: Mapping[str, tuple[str, ...]]
    values: Mapping[str, str]
    answer: Any
    candidates: tuple[str, ...]

    @property
    def scenario(self) -> str:
        return self.task_id.split("_")[0]


class Script:
    """Plays a solution: its cells, with these options, and `end` in place of the call that completes the task."""

    def __init__(self, subject: Subject, options: Mapping[str, str], end: str | None = None) -> None:
        self.subject, self.options, self.end = subject, options, end
        self.right = options == subject.options and end is None

    def next_cell(self, turn: int, seen: str) -> str | None:
        """The code of turn `turn`, or None at the end."""
        cells = self.subject.cells
        if turn == len(cells):
            return None
        code = fill(cells[turn], self.options, self.subject.values, seen)
        if self.end is None or turn < len(cells) - 1:
            return code
        call = COMPLETE.search(code)
        if call:
            return code[: call.start()] + self.end.replace(CALL, call[0])
        return self.end.replace(CALL, code)


class NoOp:
    """Says at once that the task is done."""

    right = False

    def next_cell(self, turn: int, seen: str) -> str | None:
        """The code of turn `turn`, or None at the end."""
        del seen
        return NO_OP if turn == 0 else None


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to try a task in. `kind` is one of KINDS, `what` says in a few words what is done."""

    kind: str
    what: str
    player: Script | NoOp


def fill(cell: str, options: Mapping[str, str], values: Mapping[str, str], seen: str) -> str:
    """A cell, filled in. `seen` is the observation before it, copied where the cell says `$seen`."""
    if not options and not values and f"${SEEN}" not in cell:
        return cell  # code as it stands, which may hold dollars of its own
    text = Template(cell).safe_substitute(options)
    return Template(text).safe_substitute({**values, SEEN: seen.strip().replace("'", "\\'")})


def store_form(task: Path, scenario: Scenario) -> None:
    """Beside the tests, where no episode sees it: how the task is solved, and in which ways it is not."""
    wrong = {name: [text for text, _ in choice.wrong] for name, choice in scenario.choices.items()}
    form = {"cells": scenario.cells, "options": scenario.right(), "wrong": wrong}
    (task / "ground_truth" / "solution.json").write_text(json.dumps({"cells": [], "form": form}))


def store_solution(task: Path, cells: Sequence[str]) -> None:
    """And the cells of the solution as they were played."""
    file = task / "ground_truth" / "solution.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "cells": list(cells)}))


def read_subject(task: Path, accounts: Sequence[str]) -> Subject:
    """The task in the folder `task`. OSError, ValueError, KeyError: its ground truth is broken."""
    truth = task / "ground_truth"
    metadata, private = _read(truth / "metadata.json"), _read(truth / "private_data.json")
    cells: Sequence[str] = ()
    form: dict[str, Any] = {"options": {}, "wrong": {}}
    values: dict[str, str] = {}
    if (truth / "solution.json").exists():
        told = _read(truth / "solution.json")
        form = {**form, **told.get("form", {})}
        cells = form.get("cells") or told["cells"]
        values = _read(truth / "public_data.json") if "cells" in form else {}
    elif (truth / "compiled_solution.py").exists():
        cells = [(truth / "compiled_solution.py").read_text(encoding="utf-8") + "\nsolution(apis, requester)"]
    apps = metadata.get("apps")
    if apps is None and (truth / "required_apps.json").exists():
        apps = _read(truth / "required_apps.json")
    return Subject(
        task_id=task.name,
        apps=tuple(apps or ()),
        accounts=tuple(accounts),
        cells=tuple(cells),
        options=form["options"],
        wrong={name: tuple(texts) for name, texts in form["wrong"].items()},
        values=values,
        answer=_read(truth / "answer.json"),
        candidates=tuple(str(one) for one in private.get("candidates", ())),
    )


def ways(subject: Subject, *, wrong: int | None, own: int, other: int) -> list[Way]:
    """What is tried with a task: its solution, nothing, `wrong` wrong ways (all: None), and damage beside it.

    `own` and `other` kinds of damage are drawn by the task's id, in the task's apps and in others.
    """
    rng = random.Random(subject.task_id)  # noqa: S311 - no secrets
    found = [Way(kind="no-op", what="completes the task at once", player=NoOp())]
    if not subject.cells:
        return found
    found.insert(0, Way(kind="solution", what="the reference solution", player=Script(subject, subject.options)))
    mistakes = list(_mistakes(subject, rng))
    found += mistakes if wrong is None else rng.sample(mistakes, min(wrong, len(mistakes)))
    for aside in asides.drawn(rng, subject.apps, subject.accounts, own, other):
        script = Script(subject, subject.options, f"{aside.code}{CALL}")
        found.append(Way(kind="collateral", what=f"{aside.app}: {aside.what}", player=script))
    return found


def _mistakes(subject: Subject, rng: random.Random) -> Iterator[Way]:
    for name, texts in subject.wrong.items():
        for text in texts:
            script = Script(subject, {**subject.options, name: text})
            yield Way(kind="wrong", what=f"{name}: {text or 'nothing'}", player=script)
    answer = _other_answer(subject, rng)
    call = f"apis.supervisor.complete_task(answer={answer!r})"
    what = "an answer that nobody asked for" if subject.answer is None else "another answer"
    yield Way(kind="wrong", what=f"{what}: {answer}", player=Script(subject, subject.options, call))


def _other_answer(subject: Subject, rng: random.Random) -> str:
    if subject.answer is None:
        return "done"
    right = str(subject.answer)
    others = [one for one in subject.candidates if one != right]
    if others:
        return rng.choice(others)
    return str(float(right) + 1) if re.fullmatch(r"-?\d+(\.\d+)?", right) else f"not {right}"


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
