"""Plays several episodes of one task in forked worlds, side by side. Runs in AppWorld's virtualenv.

Flows in: an open `Template` and players, who decide an episode's cells as it goes. Flows out: per player its turns and
the database changes that it left.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from actor.world import engine, warm
from actor.world.share import in_child

FAILED = "Execution failed."  # how the observation of a cell that raised begins


class Player(Protocol):
    """Decides an episode's cells as it goes."""

    right: bool

    def next_cell(self, turn: int, seen: str) -> str | None:
        """The code of turn `turn`, or None at the end. `seen` is the last observation."""


def warm_engine(task_id: str) -> None:
    """Imports and patches the engine in this process, for playing, and builds what all worlds share."""
    engine.accelerate()
    warm.warm_up(task_id)
    engine.settle()


def play(template: engine.Template, players: Sequence[Player]) -> list[dict[str, Any]]:
    """Plays one episode per player: turns, and the database changes that each left.

    Episodes that begin alike are one process until they part, so a log-in that all share is run once.
    """

    def begin() -> dict[str, Any]:
        template.adopt()
        return _play_on(template, dict(enumerate(players)), [])

    records = in_child(begin)
    return [records[str(number)] for number in range(len(players))]


def _play_on(
    template: engine.Template, players: Mapping[int, Player], turns: list[dict[str, str]]
) -> dict[str, dict[str, Any]]:
    """From here on: the last of the ways that players take in this process, the others in forked ones."""
    records: dict[str, dict[str, Any]] = {}
    while players:
        seen = turns[-1]["observation"] if turns else ""
        parted: dict[str, dict[int, Player]] = {}
        ended: dict[int, Player] = {}
        for number, player in players.items():
            code = player.next_cell(len(turns), seen)
            (ended if code is None else parted.setdefault(code, {}))[number] = player
        if ended:
            left = {"turns": turns, "changes": in_child(partial(_changes, template)) if parted else _changes(template)}
            records |= {str(number): {**left, "right": player.right} for number, player in ended.items()}
        state, players = random.getstate(), {}
        for number, (code, group) in enumerate(parted.items(), start=1):
            if number < len(parted):
                records |= in_child(partial(_part, template, group, turns, code, state))
            else:
                players, turns = group, [*turns, _turn(template, code)]
    return records


def _changes(template: engine.Template) -> list[dict[str, Any]]:
    changes = template.new_changes()
    return [changes] if changes else []


def _part(
    template: engine.Template, players: Mapping[int, Player], turns: list[dict[str, str]], code: str, state: Any
) -> dict[str, dict[str, Any]]:
    random.setstate(state)  # a forked child is reseeded, which would break the engine's seed
    return _play_on(template, players, [*turns, _turn(template, code)])


def _turn(template: engine.Template, code: str) -> dict[str, str]:
    observation, _ = template.execute(code)
    return {"code": code, "observation": observation}
