"""Blocks of some hundred trajectories, gzip and base64, that the page unpacks when one of them is looked at.

Flows in: rollouts and what they show, whole groups at a time. Flows out: text for `<script>` elements that no browser
executes (base64 has no `<`), and an index of what is in them, by column.
"""

from __future__ import annotations

import base64
import gzip
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from learner.report.gather import Rollout

BLOCK_TRAJECTORIES = 200
BLOCK_BYTES = 2 << 20  # of JSON


def packed(value: Any) -> str:
    """JSON, gzip, base64; the same for the same value."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode("utf-8", "replace"), 9, mtime=0)).decode("ascii")


def drawn_groups(rollouts: Iterable[Rollout], seed: int) -> list[list[Rollout]]:
    """All groups, their members together and in order, the groups in an order drawn by `seed`.

    Any first part of it is a sample, so who takes from it until it is enough takes a fair one.
    """
    groups: dict[str, list[Rollout]] = {}
    for rollout in rollouts:
        groups.setdefault(rollout.group_id, []).append(rollout)
    found = [sorted(members, key=lambda one: (one.member, one.trajectory_id)) for members in groups.values()]
    random.Random(seed).shuffle(found)  # noqa: S311 - a sample, no secret
    return found


@dataclass
class Blocks:
    """Gathers trajectories into blocks, at most `most_bytes` of text in all."""

    most_bytes: int
    texts: list[str] = field(default_factory=list)
    kept: list[tuple[Rollout, int, int, bool]] = field(default_factory=list)  # block, place in it, whether with ratios
    size: int = 0  # bytes of the finished blocks
    full: bool = False  # the last block went over the bound, and was left out
    _openings: dict[str, int] = field(default_factory=dict)
    _trajectories: list[dict[str, Any]] = field(default_factory=list)
    _waiting: list[tuple[Rollout, bool]] = field(default_factory=list)
    _bytes: int = 0

    def add(self, members: Sequence[tuple[Rollout, dict[str, Any]]]) -> None:
        """A group's trajectories, which stay in one block."""
        for rollout, shown in members:
            opening = self._openings.setdefault(shown["o"], len(self._openings))
            self._trajectories.append({**shown, "o": opening})
            self._waiting.append((rollout, any("r" in turn for turn in shown["u"])))
            self._bytes += sum(len(turn["s"] or "") + 12 * len(turn["p"]) for turn in shown["u"])
        if len(self._trajectories) >= BLOCK_TRAJECTORIES or self._bytes >= BLOCK_BYTES:
            self.finish()

    def finish(self) -> None:
        """Close the block that is being gathered."""
        if not self._trajectories or self.full:
            return
        text = packed({"openings": list(self._openings), "trajectories": self._trajectories})
        self.full = self.size + len(text) > self.most_bytes
        if not self.full:
            block = len(self.texts)
            self.kept += [(one, block, place, ratio) for place, (one, ratio) in enumerate(self._waiting)]
            self.texts.append(text)
            self.size += len(text)
        self._openings, self._trajectories, self._waiting, self._bytes = {}, [], [], 0


def index(
    kept: Sequence[tuple[Rollout, int, int, bool]], difficulty: Mapping[str, int], versions: Mapping[int, int]
) -> dict[str, Any]:
    """What the viewer knows of the kept trajectories before it unpacks a block, by column, in the order of arrival.

    `versions`: by step, the policy version that it published.
    """
    in_order = sorted(kept, key=lambda one: (one[0].started_at + one[0].seconds, one[0].trajectory_id))
    rows = [_row(rollout, difficulty, versions) for rollout, *_ in in_order]
    columns: dict[str, Any] = {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}
    coded = ("group", "task", "scenario", "set", "actor", "state", "tags", "failures")
    return {
        "count": len(rows),
        "columns": {name: _coded(values) if name in coded else values for name, values in columns.items()},
        "block": [block for _, block, _, _ in in_order],
        "place": [place for _, _, place, _ in in_order],
        "ratio": [int(ratio) for _, _, _, ratio in in_order],
    }


def _row(rollout: Rollout, difficulty: Mapping[str, int], versions: Mapping[int, int]) -> dict[str, Any]:
    fate = rollout.fate
    trained = fate is not None and fate.state == "trained" and fate.step in versions
    return {
        "id": rollout.trajectory_id,
        "group": rollout.group_id,
        "member": rollout.member,
        "task": rollout.task_id,
        "scenario": rollout.scenario,
        "difficulty": difficulty.get(rollout.task_id, 0),
        "set": rollout.label or "train",
        "temperature": rollout.temperature,
        "actor": rollout.actor,
        "state": "not in the ledger" if fate is None else f"{fate.state}: {fate.reason}" if fate.reason else fate.state,
        "step": 0 if fate is None else fate.step,
        "reward": round(rollout.reward, 4),
        "success": int(rollout.success),
        "turns": rollout.turns,
        "sampled": rollout.sampled_tokens,
        "oldest": rollout.oldest_version,
        "newest": rollout.newest_version,
        # of its oldest token, when it was trained on
        "lag": versions[fate.step] - 1 - rollout.oldest_version if trained and fate is not None else -1,
        "started": round(rollout.started_at, 1),
        "seconds": round(rollout.seconds, 2),
        "engine": round(rollout.engine_seconds, 2),
        "world": round(rollout.world_seconds, 2),
        "tags": "\n".join(rollout.tags),
        "failures": "\n".join(line.replace("\n", " ") for line in rollout.failures),
    }


def _coded(values: Sequence[str]) -> dict[str, Any]:
    """Each text once, and which of them a row has."""
    numbers: dict[str, int] = {}
    rows = [numbers.setdefault(value, len(numbers)) for value in values]
    return {"values": list(numbers), "rows": rows}
