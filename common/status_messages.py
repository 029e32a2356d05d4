"""What the gateway tells of its run when it is asked how it does: figures, and what is waited for in words.

Each figure has its unit in its name or its description; the learner's gauges are made out of the same.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from common.rollouts import Identifier, Message

MOST_ACTORS = 1000  # in one answer, those that lack something first
MOST_GROUPS = 20
MOST_ERRORS = 20
MOST_HEARTBEAT_ERRORS = 5
MOST_TOLD = 300  # characters of an error's fields
MOST_WORDS = 2000  # characters of what is waited for

ErrorLevel = Literal["warning", "error", "critical"]
ActorState = Literal["working", "waiting", "starting", "late", "silent", "left"]
TrainerState = Literal["working", "waiting", "late", "silent", "finished", "unheard"]


class LoggedError(Message):
    """A warning or an error that a process logged."""

    at: float = Field(description="when, seconds since 1970 on that machine's clock", examples=[1767225600.0])
    level: ErrorLevel = Field(description="how bad", examples=["warning"])
    source: str = Field(max_length=200, description="who: gateway, trainer, an actor's name", examples=["gpu-2"])
    event: str = Field(max_length=100, description="its name in the log", examples=["lease_lapsed"])
    told: str = Field(max_length=MOST_TOLD, description="its fields", examples=["lease: g000041.3.0"])


class Tally(Message):
    """How many there are of something."""

    name: str = Field(max_length=200, description="of what", examples=["stale"])
    count: int = Field(ge=0, description="how many, count", examples=[3])


class LagTally(Message):
    """How many trajectories were trained on at one lag."""

    lag: int = Field(description="of a trajectory's oldest token, policy versions", examples=[1])
    trajectories: int = Field(ge=0, description="count", examples=[12])


class ActorStatus(Message):
    """An actor as the gateway knows it."""

    name: Identifier = Field(description="its name", examples=["gpu-2"])
    state: ActorState = Field(
        description="working: it has episodes under way; waiting: it has none, and says for what; starting: it samples "
        "with no version yet; late: not heard for two heartbeat intervals; silent: not heard for so long that its "
        "leases will lapse; left: it said goodbye",
        examples=["working"],
    )
    heard_seconds: float = Field(ge=0, description="since its last message, seconds", examples=[0.4])
    policy_version: int = Field(ge=-1, description="that it samples with, -1 before the first", examples=[12])
    lag: int = Field(ge=-1, description="versions behind the newest; -1 where it has none", examples=[1])
    slots: int = Field(ge=0, description="leases that it may hold, count", examples=[36])
    leases: int = Field(ge=0, description="that are out to it, count", examples=[34])
    episodes: int = Field(ge=0, description="under way, count", examples=[32])
    tokens_per_second: float = Field(ge=0, description="sampled, as its last heartbeat said", examples=[900.0])
    episodes_per_minute: float = Field(
        ge=0, description="trajectories taken from it in the last minute, count", examples=[41.0]
    )
    spooled: int = Field(ge=0, description="trajectories not acknowledged yet, count", examples=[0])
    spooled_bytes: int = Field(ge=0, description="of them on its disk, bytes", examples=[0])
    waiting_for: str = Field(max_length=MOST_WORDS, description="what it says that it waits for", examples=["leases"])


class GroupStatus(Message):
    """A group that is not complete."""

    group_id: Identifier = Field(description="which", examples=["g000041"])
    task_id: Identifier = Field(description="AppWorld task", examples=["3a_1"])
    label: str = Field(max_length=100, description="of its evaluation; empty: it is training's", examples=[""])
    members: int = Field(ge=0, description="places, count", examples=[6])
    arrived: int = Field(ge=0, description="places whose trajectory is here, count", examples=[4])
    leased: int = Field(ge=0, description="places whose lease is out, count", examples=[2])
    lost: int = Field(ge=0, description="places that failed for good, count", examples=[0])
    carried: bool = Field(description="whether a step went without it, and keeps it for a later one", examples=[False])
    open_seconds: float = Field(ge=0, description="since its first lease, seconds", examples=[200.5])
    oldest_lease_seconds: float = Field(
        ge=-1, description="since the oldest lease that is out was granted, seconds; -1: none is out", examples=[192.0]
    )
    oldest_lease_actor: str = Field(max_length=200, description="who has it; empty: none is out", examples=["gpu-2"])
    oldest_lease_heard_seconds: float = Field(
        ge=-1, description="since that actor's last message, seconds; -1: none since the gateway began", examples=[0.4]
    )


class TrainerStatus(Message):
    """The trainer as the gateway knows it: it says so itself, beside its work."""

    state: TrainerState = Field(
        description="working; waiting: for groups; late: not heard for two heartbeat intervals; silent: for as many as "
        "make an actor silent; finished: it made its last step; unheard: not since the gateway began",
        examples=["working"],
    )
    heard_seconds: float = Field(ge=-1, description="since its last word, seconds; -1: none", examples=[0.7])
    doing: str = Field(max_length=100, description="what it is at", examples=["forward_backward"])
    step: int = Field(ge=0, description="of which step, from 1; 0: of none", examples=[41])
    doing_seconds: float = Field(ge=0, description="since it began that, seconds", examples=[12.5])
    took_seconds: float = Field(
        ge=-1, description="that the same took it the last time, seconds; -1: not known", examples=[11.0]
    )


class BooksStatus(Message):
    """The books: issued = trained + evaluated + dropped + pending."""

    issued: int = Field(ge=0, description="leases, count", examples=[260])
    trained: int = Field(ge=0, description="of them trained on, count", examples=[200])
    evaluated: int = Field(ge=0, description="of them evaluated, count", examples=[24])
    dropped: tuple[Tally, ...] = Field(
        max_length=1000, description="of them dropped, by reason", examples=[(Tally(name="stale", count=3),)]
    )
    pending: tuple[Tally, ...] = Field(
        max_length=100, description="of them pending, by state", examples=[(Tally(name="leased", count=33),)]
    )
    balanced: bool = Field(description="whether that adds up", examples=[True])


class StatusRequest(Message):
    """How does the run do? From any listed key, or the learner's own; without `Hello`. Answered with `Status`."""

    kind: Literal["status_request"] = "status_request"
    protocol: int = Field(description="protocol version", examples=[6])


class Status(Message):
    """A run as its gateway knows it. Nothing comes of asking."""

    kind: Literal["status"] = "status"
    run_id: Identifier = Field(description="the run", examples=["tiny-20260101-120000"])
    at: float = Field(description="when this was so, seconds since 1970", examples=[1767225600.0])
    up_seconds: float = Field(ge=0, description="since the gateway began, seconds", examples=[3600.0])
    heartbeat_seconds: float = Field(gt=0, description="how often heartbeats are expected, seconds", examples=[2.0])
    phase: Literal["evaluate_before", "train", "evaluate_after", "done"] = Field(
        description="where the run stands", examples=["train"]
    )
    waiting_for: str = Field(
        max_length=MOST_WORDS,
        description="what the run waits for or is at, in words",
        examples=["step 41 waits for 2 groups: task 3a_1 has 4 of 6, oldest lease 3m12s on actor gpu-2"],
    )
    stalls: tuple[str, ...] = Field(
        max_length=100,
        description="what stands still that should not, in words, the worst first",
        examples=[("the trainer has said nothing for 3m00s, was in forward_backward of step 41",)],
    )
    policy_version: int = Field(ge=-1, description="the newest, -1 before the first", examples=[40])
    version_seconds: float = Field(ge=-1, description="since it was published, seconds; -1: none", examples=[33.0])
    step: int = Field(ge=0, description="steps made, count", examples=[40])
    steps: int = Field(ge=0, description="steps that the run will make, count", examples=[100])
    trained_lags: tuple[LagTally, ...] = Field(
        max_length=1000,
        description="what the last step trained on, by lag",
        examples=[(LagTally(lag=1, trajectories=12),)],
    )
    trainer: TrainerStatus = Field(
        description="the trainer",
        examples=[
            TrainerStatus(
                state="working",
                heard_seconds=0.7,
                doing="forward_backward",
                step=41,
                doing_seconds=12.5,
                took_seconds=11.0,
            )
        ],
    )
    actors: tuple[ActorStatus, ...] = Field(
        max_length=MOST_ACTORS,
        description="by state and name, those that are silent first; of more, the rest is left out",
        examples=[()],
    )
    actors_known: int = Field(ge=0, description="actors that said hello and did not leave, count", examples=[3])
    actors_live: int = Field(ge=0, description="of them heard within the silence limit, count", examples=[2])
    tokens_per_second: float = Field(ge=0, description="sampled by all live actors", examples=[1800.0])
    episodes_per_minute: float = Field(ge=0, description="trajectories taken in the last minute", examples=[82.0])
    episodes_done: int = Field(ge=0, description="trajectories taken so far, count", examples=[230])
    leased: int = Field(ge=0, description="leases that are out, count", examples=[33])
    groups_open: int = Field(ge=0, description="groups of training that are not complete, count", examples=[5])
    groups_ready: int = Field(ge=0, description="groups that the trainer may have, count", examples=[2])
    groups_handed: int = Field(ge=0, description="groups that the trainer has, count", examples=[4])
    groups_lacking: int = Field(ge=0, description="groups that the next step still lacks, count", examples=[2])
    groups_carried: int = Field(ge=0, description="of the open, those that a step went without, count", examples=[0])
    evaluations_left: int = Field(ge=0, description="tasks of evaluations that are not done, count", examples=[0])
    oldest_groups: tuple[GroupStatus, ...] = Field(
        max_length=MOST_GROUPS, description="groups that are not complete, the oldest", examples=[()]
    )
    spooled: int = Field(ge=0, description="trajectories in live actors' spools, count", examples=[2])
    spooled_bytes: int = Field(ge=0, description="of them on disks, bytes", examples=[120_000])
    disk_free_bytes: int = Field(ge=0, description="free on the run folder's disk, bytes", examples=[50_000_000_000])
    run_bytes: int = Field(ge=0, description="used by the run folder, bytes, at most a minute old", examples=[1 << 30])
    disk_lacking: str = Field(
        max_length=MOST_WORDS,
        description="what is waited for before anything can be written; empty: nothing",
        examples=["room on the learner's disk: 10 bytes free, 1048576 needed"],
    )
    commit_seconds: float = Field(ge=0, description="that the last commit of the ledger took, seconds", examples=[0.01])
    connections: int = Field(ge=0, description="that are open, count", examples=[6])
    connections_cut: int = Field(ge=0, description="since the gateway began, count", examples=[0])
    unreadable_frames: int = Field(ge=0, description="since the gateway began, count", examples=[0])
    errors: tuple[LoggedError, ...] = Field(
        max_length=MOST_ERRORS, description="the last of gateway, trainer and actors, oldest first", examples=[()]
    )
    books: BooksStatus = Field(
        description="the books",
        examples=[BooksStatus(issued=0, trained=0, evaluated=0, dropped=(), pending=(), balanced=True)],
    )
