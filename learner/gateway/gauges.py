"""The learner's figures for `common.exporter`: the picture that `loop status` shows, and what steps came to.

Status, every few seconds ─► figures_of ─► Pulse ─┐
metrics.jsonl ─► StepCounts, when it is asked for ─┴─► /metrics
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import get_args

from common.measures import Figures, Measure, Split, Value
from common.messages import PROTOCOL_VERSION
from common.status_messages import ActorState, ActorStatus, BooksStatus, Status, TrainerState
from learner.gateway.course import Phase
from learner.gateway.step_counts import MEASURES as OF_STEPS

OF_STATUS = (
    Measure("loop_learner_build_info", "gauge", "1; its labels say what runs here", ("version", "protocol")),
    Measure("loop_learner_phase", "gauge", "1 for the phase that the run is in, else 0", ("phase",)),
    Measure("loop_learner_stalls", "gauge", "what stands still that should not; `loop status` has it in words"),
    Measure("loop_learner_step", "gauge", "steps made"),
    Measure("loop_learner_steps_planned", "gauge", "steps that the run will make"),
    Measure("loop_learner_policy_version", "gauge", "the newest policy version, -1 before the first"),
    Measure("loop_learner_version_age_seconds", "gauge", "since the newest version was published"),
    Measure("loop_learner_trainer_state", "gauge", "1 for the state that the trainer is in, else 0", ("state",)),
    Measure("loop_learner_trainer_heard_seconds", "gauge", "since the trainer's last word"),
    Measure("loop_learner_trainer_doing_seconds", "gauge", "since the trainer began what it is at"),
    Measure("loop_learner_actors", "gauge", "actors that did not leave, by state", ("state",)),
    Measure("loop_learner_actors_live", "gauge", "actors heard within the silence limit"),
    Measure("loop_learner_actor_heard_seconds", "gauge", "since an actor's last message", ("actor",)),
    Measure("loop_learner_actor_lag_versions", "gauge", "versions that an actor is behind the newest", ("actor",)),
    Measure("loop_learner_actor_leases", "gauge", "leases that are out to an actor", ("actor",)),
    Measure("loop_learner_actor_tokens_per_second", "gauge", "sampled by an actor, as it says", ("actor",)),
    Measure("loop_learner_tokens_per_second", "gauge", "sampled by all live actors, as they say"),
    Measure("loop_learner_trajectories_taken_total", "counter", "trajectories taken, training's and evaluations'"),
    Measure("loop_learner_leases_out", "gauge", "leases that are out"),
    Measure("loop_learner_groups", "gauge", "groups of training; carried ones are open, too", ("state",)),
    Measure("loop_learner_oldest_group_seconds", "gauge", "since the first lease of the oldest incomplete group"),
    Measure("loop_learner_oldest_lease_seconds", "gauge", "since the oldest lease of incomplete groups was granted"),
    Measure("loop_learner_evaluations_left", "gauge", "tasks of evaluations that are not done"),
    Measure("loop_learner_spooled_trajectories", "gauge", "trajectories in live actors' spools"),
    Measure("loop_learner_spool_bytes", "gauge", "of them, on actors' disks"),
    Measure("loop_learner_disk_free_bytes", "gauge", "free on the run folder's disk"),
    Measure("loop_learner_disk_lacking", "gauge", "1 while nothing can be written for want of room"),
    Measure("loop_learner_run_bytes", "gauge", "used by the run folder, at most a minute old"),
    Measure("loop_learner_commit_seconds", "gauge", "that the last commit of the ledger took"),
    Measure("loop_learner_connections", "gauge", "connections that are open"),
    Measure("loop_learner_connections_cut_total", "counter", "connections cut"),
    Measure("loop_learner_unreadable_frames_total", "counter", "frames that were no message"),
    Measure("loop_learner_leases_issued_total", "counter", "the books: leases issued"),
    Measure(
        "loop_learner_book_leases",
        "gauge",
        "the books: leases by what became of them; detail is why they were dropped, or what is awaited",
        ("column", "detail"),
    ),
    Measure("loop_learner_books_balanced", "gauge", "1 while issued = trained + evaluated + dropped + pending"),
)
MEASURES = (*OF_STATUS, *OF_STEPS)
# whose value is the picture's own figure; -1 there is: not known
SAME = {
    "loop_learner_step": "step",
    "loop_learner_steps_planned": "steps",
    "loop_learner_version_age_seconds": "version_seconds",
    "loop_learner_actors_live": "actors_live",
    "loop_learner_tokens_per_second": "tokens_per_second",
    "loop_learner_trajectories_taken_total": "episodes_done",
    "loop_learner_leases_out": "leased",
    "loop_learner_evaluations_left": "evaluations_left",
    "loop_learner_spooled_trajectories": "spooled",
    "loop_learner_spool_bytes": "spooled_bytes",
    "loop_learner_disk_free_bytes": "disk_free_bytes",
    "loop_learner_run_bytes": "run_bytes",
    "loop_learner_commit_seconds": "commit_seconds",
    "loop_learner_connections": "connections",
    "loop_learner_connections_cut_total": "connections_cut",
    "loop_learner_unreadable_frames_total": "unreadable_frames",
}
PRESENT = tuple(state for state in get_args(ActorState) if state != "left")


def figures_of(status: Status) -> Figures:
    """A picture of the run as values of `OF_STATUS`."""
    groups = status.oldest_groups
    open_groups = {
        "open": status.groups_open,
        "ready": status.groups_ready,
        "handed": status.groups_handed,
        "carried": status.groups_carried,
    }
    values: dict[str, Value] = {
        "loop_learner_build_info": Split({(version("loop-rl"), str(PROTOCOL_VERSION)): 1.0}),
        "loop_learner_phase": _one_of(get_args(Phase), status.phase),
        "loop_learner_stalls": len(status.stalls),
        "loop_learner_policy_version": status.policy_version,
        "loop_learner_trainer_state": _one_of(get_args(TrainerState), status.trainer.state),
        "loop_learner_trainer_heard_seconds": _known(status.trainer.heard_seconds),
        "loop_learner_trainer_doing_seconds": status.trainer.doing_seconds,
        "loop_learner_groups": _split(open_groups),
        "loop_learner_oldest_group_seconds": max((0.0, *(group.open_seconds for group in groups))),
        "loop_learner_oldest_lease_seconds": max(
            (max(0.0, group.oldest_lease_seconds) for group in groups), default=0.0
        ),
        "loop_learner_disk_lacking": float(bool(status.disk_lacking)),
        **{measure: _known(getattr(status, name)) for measure, name in SAME.items()},
        **_of_actors([actor for actor in status.actors if actor.state != "left"]),
        **_of_books(status.books),
    }
    return Figures(values, {"run": status.run_id})


def _of_actors(actors: Sequence[ActorStatus]) -> dict[str, Value]:
    states = Counter(actor.state for actor in actors)
    lags = {actor.name: float(actor.lag) for actor in actors if actor.lag >= 0}
    return {
        "loop_learner_actors": _split({state: states[state] for state in PRESENT}),
        "loop_learner_actor_heard_seconds": _split({actor.name: actor.heard_seconds for actor in actors}),
        "loop_learner_actor_lag_versions": _split(lags),
        "loop_learner_actor_leases": _split({actor.name: actor.leases for actor in actors}),
        "loop_learner_actor_tokens_per_second": _split({actor.name: actor.tokens_per_second for actor in actors}),
    }


def _of_books(books: BooksStatus) -> dict[str, Value]:
    columns: dict[tuple[str, ...], float] = {
        ("trained", ""): float(books.trained),
        ("evaluated", ""): float(books.evaluated),
        **{("dropped", tally.name): float(tally.count) for tally in books.dropped},
        **{("pending", tally.name): float(tally.count) for tally in books.pending},
    }
    return {
        "loop_learner_leases_issued_total": books.issued,
        "loop_learner_book_leases": Split(columns),
        "loop_learner_books_balanced": float(books.balanced),
    }


def _known(value: float) -> float | None:
    return None if value < 0 else float(value)


def _one_of(names: Sequence[str], now: str) -> Split:
    return Split({(name,): float(name == now) for name in names})


def _split(values: Mapping[str, float]) -> Split:
    return Split({(name,): float(value) for name, value in values.items()})
