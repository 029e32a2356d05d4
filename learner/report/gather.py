"""What lies in a run folder: metrics.jsonl, ledger and journal (read beside a running gateway), configuration.

Flows in: a run folder. Flows out: `Gathered`, plain data; of trajectories the facts and places, their text stays where
it is until it is wanted. What a run of an older version did not record is absent here, never made up.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from common.checkpoint import folder_of, published_versions, read_manifest
from common.errors import RunError, UsageError
from common.evaluation import Scored, parts_of, scenario_of, summarise
from common.figures import Event, Figures, collect
from common.journal import FramePlace, Journal
from common.metrics import MetricsReader
from common.run_folder import CONFIG
from common.wire import unpack
from learner.gateway.books import Books, books
from learner.gateway.ledger import open_database

METRICS, LEDGER, JOURNAL = "metrics.jsonl", "ledger.sqlite", "journal"
FATES = """
SELECT l.lease_id, l.state, l.reason, g.step, g.reason FROM leases l JOIN groups g USING (group_id)
"""
# what of the configuration is told: what shaped the learning, no place, no key
SHOWN = ("prompt", "learner.rollout", "learner.batch", "learner.objective", "learner.correction", "learner.optimizer")
PLACES = ("train_tasks",)


class Fate(NamedTuple):
    """What the ledger says became of a lease."""

    state: str
    reason: str
    step: int  # that its group was handed to, from 1; 0: none


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One journalled trajectory without its tokens."""

    trajectory_id: str
    group_id: str
    member: int
    task_id: str
    label: str  # of an evaluation; "": training
    temperature: float
    actor: str
    reward: float
    success: bool
    failures: tuple[str, ...]  # requirements that failed
    tags: tuple[str, ...]
    turns: int
    tokens: int
    sampled_tokens: int
    oldest_version: int
    newest_version: int
    started_at: float  # seconds since 1970
    seconds: float
    engine_seconds: float
    world_seconds: float
    fate: Fate | None  # None: there is no ledger, or it does not know it
    place: FramePlace

    @property
    def scenario(self) -> str:
        return scenario_of(self.task_id)


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """All that a report is made of."""

    run: Path
    events: list[Event]
    figures: Figures
    books: Books | None
    rollouts: list[Rollout]  # in the order of arrival
    config: dict[str, Any]  # the tree of config.yaml, {} without one
    difficulty: dict[str, int]  # by task, of the tasks whose world is on this machine
    damage: list[str] = field(default_factory=list)  # what could not be read, a line each

    @property
    def training(self) -> list[Rollout]:
        return [rollout for rollout in self.rollouts if not rollout.label]

    def of_label(self, label: str) -> list[Rollout]:
        return [rollout for rollout in self.rollouts if rollout.label == label]

    def of_kind(self, kind: str) -> list[Event]:
        """The lines of metrics.jsonl of one kind, in order."""
        return [event for event in self.events if event.get("event") == kind]

    @property
    def shown_config(self) -> dict[str, Any]:
        """The part of the configuration that is told, by section."""
        found = {name: _section(self.config, name) for name in SHOWN}
        return {
            name: {key: value for key, value in values.items() if key not in PLACES}
            for name, values in found.items()
            if values
        }

    def by_difficulty(self, label: str) -> dict[str, dict[str, Any]]:
        """An evaluation's figures by difficulty, with intervals; {} where no task's difficulty is known."""
        scored = [
            Scored(one.task_id, one.member, one.reward, one.success, one.oldest_version, one.newest_version, difficulty)
            for one in self.of_label(label)
            if (difficulty := self.difficulty.get(one.task_id)) is not None and _counts(one)
        ]
        found: dict[str, dict[str, Any]] = summarise(scored).get("by_difficulty", {})
        return found

    def pair(self, name: str = "") -> tuple[str, str] | None:
        """The labels of the evaluations of a list before and after, at the lowest temperature that has both."""
        parts = [found for label in self.figures.evaluations if (found := parts_of(label)) and found[2] == name]
        sides = Counter(temperature for _, temperature, _ in parts)
        both = sorted((temperature for temperature, count in sides.items() if count == 2), key=float)
        end = f".{name}" if name else ""
        return (f"before.t{both[0]}{end}", f"after.t{both[0]}{end}") if both else None


def gather(run: Path, progress: Callable[[int], None] = lambda _: None) -> Gathered:
    """Everything that the folder holds; `progress` is told how many trajectories were read so far.

    Raises:
        UsageError: it is no run folder.
        RunError: its ledger is of another version of this program, or cannot be read.
    """
    if not run.is_dir():
        raise UsageError(f"{run}: no such folder; name the folder of a run")
    if not any((run / name).exists() for name in (METRICS, LEDGER, JOURNAL)):
        raise UsageError(f"{run}: not a run's folder: it has neither {METRICS} nor {LEDGER} nor {JOURNAL}/")
    damage: list[str] = []
    config = _config(run / CONFIG, damage)
    found, fates = _ledger(run / LEDGER)
    rollouts = _rollouts(run, fates, damage, progress)
    events = list(MetricsReader(run / METRICS).new())
    tasks = {rollout.task_id for rollout in rollouts}
    try:
        figures = collect(events)
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"{run / METRICS}: a line of another version of this program: {error!r}; report it with that"
        ) from None
    return Gathered(
        run=run,
        events=events,
        figures=figures,
        books=found,
        rollouts=rollouts,
        config=config,
        difficulty=_difficulties(config, tasks),
        damage=damage,
    )


def newest_full(run: Path) -> tuple[int, Path, int] | None:
    """The newest version there whose weights are whole in themselves: number, folder, bytes of its weights."""
    for number in reversed(published_versions(run / "checkpoints")):
        folder = folder_of(run / "checkpoints", number)
        if read_manifest(folder)[0].kind == "full":
            return number, folder, sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return None


def _config(file: Path, damage: list[str]) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        damage.append(f"{file}: cannot be read: {' '.join(str(error).split())[:200]}")
        return {}
    return tree if isinstance(tree, dict) else {}


def _section(tree: Mapping[str, Any], name: str) -> dict[str, Any]:
    at: Any = tree
    for part in name.split("."):
        at = at.get(part) if isinstance(at, dict) else None
    return dict(at) if isinstance(at, dict) else {}


def _ledger(file: Path) -> tuple[Books | None, dict[str, Fate]]:
    """The books, and what became of each lease; nothing where there is no ledger, or one without a table yet."""
    if not file.is_file():
        return None, {}
    database = open_database(file, read_only=True)
    try:
        if not database.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]:
            return None, {}
        found = books(database)
        rows = database.execute(FATES)
        return found, {lease: Fate(state, reason or group, step) for lease, state, reason, step, group in rows}
    except sqlite3.Error as error:
        raise RunError(f"{file}: not a ledger that this version reads: {error}") from None
    finally:
        database.close()


def _rollouts(
    run: Path, fates: Mapping[str, Fate], damage: list[str], progress: Callable[[int], None]
) -> list[Rollout]:
    try:
        journal = Journal(run / JOURNAL)
    except UsageError:
        return []  # none has arrived yet
    found: dict[str, Rollout] = {}
    for place in journal.places():
        try:
            one = _rollout(unpack(place.read()), place, fates)
        except (ValueError, LookupError, TypeError) as error:
            told = f"{error!r}" if isinstance(error, LookupError) else str(error)
            journal.damage.append(f"{place.file}: the frame at byte {place.offset} cannot be read: {told}")
            continue
        found.setdefault(one.trajectory_id, one)
        progress(len(found))
    damage += journal.damage
    return list(found.values())


def _rollout(fields: Mapping[str, Any], place: FramePlace, fates: Mapping[str, Fate]) -> Rollout:
    """From a frame's fields. Raises LookupError and others: they are not those of a trajectory."""
    lease, versions = fields["lease"], np.frombuffer(fields["version_bytes"], "<i4")
    sampled = versions[versions >= 0]
    return Rollout(
        trajectory_id=str(fields["trajectory_id"]),
        group_id=str(lease["group_id"]),
        member=int(lease["member"]),
        task_id=str(lease["task_id"]),
        label=str(lease.get("label", "")),
        temperature=float(lease["sampling"]["temperature"]),
        actor=str(fields["actor"]),
        reward=float(fields["reward"]),
        success=bool(fields["success"]),
        failures=tuple(map(str, fields.get("failures", ()))),
        tags=tuple(map(str, fields.get("tags", ()))),
        turns=len(fields["turn_bytes"]) // 8,
        tokens=len(versions),
        sampled_tokens=len(sampled),
        oldest_version=int(sampled.min(initial=np.iinfo(np.int32).max)) if len(sampled) else -1,
        newest_version=int(sampled.max(initial=-1)),
        started_at=float(fields["started_at"]),
        seconds=float(fields["seconds"]),
        engine_seconds=float(fields["engine_seconds"]),
        world_seconds=float(fields["world_seconds"]),
        fate=fates.get(str(fields["trajectory_id"])),
        place=place,
    )


def _counts(rollout: Rollout) -> bool:
    """Whether an evaluation counts it."""
    return rollout.fate is None or rollout.fate.state == "evaluated"


def _difficulties(config: Mapping[str, Any], tasks: Iterable[str]) -> dict[str, int]:
    """Of the tasks whose metadata lie below the run's `world.root` here, their difficulty, 1 to 3."""
    root = _section(config, "world").get("root")
    if not isinstance(root, str):
        return {}
    found: dict[str, int] = {}
    for task in tasks:
        file = Path(root) / "full" / "data" / "tasks" / task / "ground_truth" / "metadata.json"
        try:
            found[task] = int(json.loads(file.read_text(encoding="utf-8"))["difficulty"])
        except (OSError, ValueError, LookupError, TypeError):
            continue
    return found
