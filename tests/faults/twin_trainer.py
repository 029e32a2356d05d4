"""The trainer of the in-memory twin: real groups in, real versions out, a step lasts half a second of virtual time.

Its disk is what `steps` and their weights say: a step is saved before its version is published and told, and the
trainer may be killed between any two of these.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

from light_policy import PROBE, WEIGHTS, digest_after, log_probs, weights_of

from common.checkpoint import Manifest, Probe, folder_of, publish, published_versions, read_manifest
from common.messages import Message
from common.wire import decode_as, encode
from learner.gateway.trainer_port import (
    Groups,
    NextGroups,
    Noted,
    NotYet,
    Published,
    Resume,
    TrainerHello,
    TrainerMessage,
    TrainerWelcome,
)

WEIGHT_BYTES = 300


class TrainerSocket:
    """The trainer's unix socket: an answer for each question, unless the gateway dies meanwhile."""

    def __init__(self) -> None:
        self._asked: asyncio.Queue[list[bytes]] = asyncio.Queue()
        self._answers: dict[bytes, asyncio.Future[Message]] = {}

    async def ask(self, message: Message) -> Message:
        number = b"%d" % len(self._answers)
        self._answers[number] = asyncio.get_running_loop().create_future()
        self._asked.put_nowait([b"trainer", number, encode(message)])
        return await self._answers[number]

    async def recv_multipart(self):
        return await self._asked.get()

    async def send_multipart(self, frames):
        answer = self._answers[frames[1]]
        if not answer.done():
            answer.set_result(decode_as(TrainerMessage, frames[2]))


class TwinTrainer:
    """Trains as long as it lives; who keeps it starts it again from its disk."""

    def __init__(self, folder: Path, escaped: list[str]) -> None:
        self._folder, self._escaped = folder, escaped
        self.socket = TrainerSocket()  # of the present gateway
        self.steps: list[list[str]] = []  # on its disk: what each step trained on
        self._weights = ["0" * 64]
        self.unsaid = False  # a step was saved, but the gateway was not told
        self._restart = asyncio.Event()

    def kill(self) -> None:
        """Between two of its instructions."""
        self._restart.set()

    async def keep(self) -> None:
        while True:
            life = asyncio.create_task(self._train())
            await asyncio.wait(
                [life, waiting := asyncio.create_task(self._restart.wait())],
                return_when=asyncio.FIRST_COMPLETED,
            )
            self._restart.clear()
            waiting.cancel()
            if life.done():
                self._escaped.append(f"the trainer ended: {life.exception()!r}")
                return
            life.cancel()
            await asyncio.wait([life])
            await asyncio.sleep(0.5)

    async def _train(self) -> None:
        step = len(self.steps)
        resume = Resume(policy_version=step, step=step, consumed=tuple(self.steps[-1])) if step else None
        welcome = await self._ask(TrainerHello(resume=resume))
        assert isinstance(welcome, TrainerWelcome), welcome
        await self._publish(welcome.run_id)
        while True:
            answer = await self._ask(NextGroups(step=len(self.steps) + 1))
            if isinstance(answer, NotYet):
                continue
            assert isinstance(answer, Groups), answer
            ids = [lease_id for group in answer.groups for lease_id in group.trajectory_ids]
            await asyncio.sleep(0.4)
            self.steps.append(ids)
            self._weights.append(digest_after(self._weights[-1], ids))
            self.unsaid = True
            await asyncio.sleep(0.1)
            await self._publish(welcome.run_id)

    async def _publish(self, run_id: str) -> None:
        step, checkpoints = len(self.steps), self._folder / "checkpoints"
        if step in published_versions(checkpoints):
            digest = read_manifest(folder_of(checkpoints, step))[1]
        else:
            weights = weights_of(self._weights[-1], WEIGHT_BYTES)
            probe = Probe(tokens=PROBE, log_probs=tuple(log_probs(weights, PROBE)))
            manifest = Manifest(run_id=run_id, policy_version=step, kind="full", step=step, files={}, probe=probe)
            digest = publish(checkpoints, manifest, lambda folder: (folder / WEIGHTS).write_bytes(weights))
        consumed = tuple(self.steps[-1]) if self.steps else ()
        noted = await self._ask(
            Published(policy_version=step, manifest_digest=digest, step=step, consumed=consumed, dropped={})
        )
        assert isinstance(noted, Noted), noted
        self.unsaid = False

    async def _ask(self, message: Message) -> Message:
        """Asked again when no answer comes: the gateway may have died with it."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(1.5):
                    return await self.socket.ask(message)
