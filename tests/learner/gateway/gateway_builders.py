"""Builders for the gateway's tests: leases, trajectories, a run, a scripted actor; what matters is an argument."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np

from common.config import LinkConfig
from common.keys import actor_keys, new_keys
from common.link import ActorLink
from common.messages import PROTOCOL_VERSION, Ack, Hello, Lease, LeaseGrant, LeaseRequest, Trajectory
from common.prompt import PromptConfig, form_digest
from common.wire import encode, schema_digest
from learner.gateway import books
from learner.gateway.draw import RolloutConfig, TaskDraw
from learner.gateway.evaluation import EvaluationConfig, EvaluationLists
from learner.gateway.leases import LeaseBook
from learner.gateway.ledger import open_database
from learner.gateway.reception import Reception
from learner.gateway.run_state import RunState
from learner.gateway.trainer_desk import TrainerDesk
from learner.gateway.trainer_port import Noted, Published, TrainerHello

TASKS = ("a_1", "a_2", "b_1", "b_2")


def make_config(**changes: object) -> RolloutConfig:
    values = {"steps": 3, "groups_per_step": 2, "group_size": 2, "lease_seconds": 60.0, **changes}
    return RolloutConfig.model_validate(values)


def make_book(*, version: int = 0, tasks: Sequence[str] = TASKS, **changes: object) -> LeaseBook:
    config = make_config(**changes)
    book = LeaseBook(config, TaskDraw(tasks, 1, config))
    book.policy_version, book.training = version, True
    return book


def make_run(
    folder: Path,
    *,
    now: float = 0.0,
    evaluation: Sequence[str] = (),
    beside: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
    dev: Sequence[str] = (),
    dev_every: int | None = None,
    seed: int = 1,
    train_tasks: Sequence[str] = TASKS,
    prompt: PromptConfig | None = None,
    **changes: object,
) -> RunState:
    return RunState(
        folder,
        make_config(**changes),
        EvaluationConfig(temperatures=(0.0,), dev_tasks=Path("dev.txt") if dev else None, dev_every=dev_every),
        seed=seed,
        train_tasks=train_tasks,
        lists=EvaluationLists(tuple(evaluation), beside, tuple(dev)),
        now=now,
        prompt=prompt,
    )


def make_trajectory(
    lease: Lease,
    *,
    actor: str = "actor-0",
    version: int | None = None,
    reward: float = 0.5,
    prompt: int = 3,
    sampled: int = 2,
) -> Trajectory:
    """One turn of `sampled` tokens after a prompt, all of one version (the lease's minimum unless given)."""
    count = prompt + sampled
    mask = np.array([0] * prompt + [1] * sampled, "u1")
    of = lease.minimum_version if version is None else version
    return Trajectory(
        trajectory_id=lease.lease_id,
        lease=lease,
        actor=actor,
        token_bytes=np.arange(count, dtype="<i4").tobytes(),
        sampled_bytes=mask.tobytes(),
        log_prob_bytes=np.where(mask == 1, -0.5, 0.0).astype("<f4").tobytes(),
        version_bytes=np.where(mask == 1, of, -1).astype("<i4").tobytes(),
        turn_bytes=np.array([prompt, count], "<i4").tobytes(),
        reward=reward,
        success=reward == 1.0,
        started_at=1.7e9,
        seconds=1.0,
        engine_seconds=0.5,
        world_seconds=0.25,
    )


def arrive(run: RunState, count: int) -> list[str]:
    """So many leases granted and answered; their ids."""
    leases, _ = run.book.grant("actor-0", count, now=0.0)
    for lease in leases:
        trajectory = make_trajectory(lease)
        assert run.inbox.receive("actor-0", trajectory, encode(trajectory)).outcome == "ok"
    run.commit()
    return [lease.lease_id for lease in leases]


def make_hello(actor: str = "actor-0", *, held: Sequence[str] = (), **changes: object) -> Hello:
    values = {
        "protocol": PROTOCOL_VERSION,
        "actor": actor,
        "instance": "i0",
        "slots": 4,
        "schema_digest": schema_digest(),
        "prompt_digest": form_digest(),
        "prompt": str(PromptConfig()),
        "lease_ids": tuple(held),
        **changes,
    }
    return Hello(**values)


def make_keys(folder: Path, *actors: str) -> Path:
    for name in ("learner", *actors):
        new_keys(folder, name)
    return folder


@contextlib.asynccontextmanager
async def actor_link(
    link: LinkConfig, name: str = "actor-0", *, instance: str = "i0", keys: Path | None = None
) -> AsyncIterator[ActorLink]:
    """A link that says it holds nothing."""
    made = ActorLink(link, actor_keys(keys or link.keys, name), lambda: make_hello(name, instance=instance))
    try:
        yield made
    finally:
        await made.close()


async def roll_out(link: ActorLink, *, count: int, reward: float = 0.5, actor: str = "actor-0") -> list[Ack]:
    """Ask for leases once and fulfil them all at once."""
    grant = await link.request(LeaseRequest(count=count))
    assert isinstance(grant, LeaseGrant)
    answers = await asyncio.gather(
        *(link.request(make_trajectory(lease, reward=reward, actor=actor)) for lease in grant.leases)
    )
    return [answer for answer in answers if isinstance(answer, Ack)]


def the_books(folder: Path) -> books.Books:
    """The books of the run in `folder`, read beside whoever writes them."""
    database = open_database(folder / "ledger.sqlite", read_only=True)
    try:
        return books.books(database)
    finally:
        database.close()


def make_reception(run: RunState, *, is_connected: bool = True) -> Reception:
    """Of a run, on a clock that stands still; every name is listed."""
    return Reception(
        run,
        heartbeat_seconds=2.0,
        silence=6.0,
        is_connected=lambda _: is_connected,
        is_listed=lambda _: True,
        clock=lambda: 0.0,
    )


def tell_desk(run: RunState, message: object) -> object:
    """The desk's answer to the trainer, durable."""
    answer, _ = TrainerDesk(run).answer(message)
    run.commit()
    return answer


def publish_step(run: RunState, step: int, consumed: Sequence[str] = (), dropped: Sequence[str] = ()) -> None:
    """The trainer's word that a step is made; what it dropped was without signal."""
    digest, words = f"{step:064x}", dict.fromkeys(dropped, "no_signal")
    message = Published(policy_version=step, manifest_digest=digest, step=step, consumed=tuple(consumed), dropped=words)
    assert tell_desk(run, message) == Noted()


def begun_run(folder: Path, **changes: object) -> RunState:
    """A run whose first version is published; or the same, opened again."""
    run = make_run(folder, **changes)
    if run.policy_version < 0:
        tell_desk(run, TrainerHello(resume=None))
        publish_step(run, 0)
    return run
