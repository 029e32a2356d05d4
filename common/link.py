"""The actor's end of the link (stage 4): requests that are answered or repeated, and announcements.

    request ──► socket ══ CURVE ══► gateway          no answer in time, or the connection broke:
    answer  ◄── by number ◄════════ gateway            a fresh socket, Hello, Welcome, and the request once more
    announcements ◄── number "" ◄══ gateway

Repeating is safe because the gateway knows trajectories, leases and returns by their ids. A learner that restarts is
found again without a word from the owner of the link. Times are seconds.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection

import zmq.asyncio

from common.channel import Channel, backoff
from common.config import LinkConfig
from common.errors import RunError
from common.keys import ActorKeys, fingerprint
from common.log import Reminder, about_nothing, get_logger
from common.messages import (
    Ack,
    Announcement,
    Cancellation,
    HeartbeatReply,
    Hello,
    Message,
    Refused,
    Unreadable,
    Welcome,
)
from common.silence import Silence
from common.sockets import INSECURE, SAY_INSECURE_EVERY, client_socket
from common.wire import encode

log = get_logger(__name__)

SLOWEST_BYTES_PER_SECOND = 1e6  # a large request gets that much longer before it counts as lost
SAY_WAITING_FIRST, SAY_WAITING_EVERY = 1.0, 5.0


class NotUnderstood(RunError):  # noqa: N818 - it names what happened
    """The gateway answered that it could not read a message; sent again, it would be no better."""


class ActorLink:
    """One actor's connection to the learner: `connect` first, then `request` from any number of tasks.

    Args:
        config: where the learner is, and its heartbeat interval.
        keys: this actor's key and the learner's, read anew for each connection; None: an insecure link.
        hello: makes the `Hello` of each connection (the leases held change); its `instance` is the process's.
    """

    def __init__(self, config: LinkConfig, keys: ActorKeys | None, hello: Callable[[], Hello]) -> None:
        self._config = config
        self._keys = keys
        self._hello = hello
        self._context = zmq.asyncio.Context()
        self._endpoint = f"tcp://{config.host}:{config.port}"
        self._channel: Channel | None = None
        self._greeting = asyncio.Lock()
        self._announced: deque[Announcement] = deque(maxlen=16)
        self._news = asyncio.Event()
        self._welcome: Welcome | None = None
        self._current = (-1, "")
        self._insecure = Reminder(time.monotonic, SAY_INSECURE_EVERY)
        self._silence = Silence(self._endpoint)
        self._watching: asyncio.Task[None] | None = None
        # told the newest word on how many bytes of trajectories may be under way, in the order of arrival
        self.on_credit: Callable[[int], None] = _ignore_credit
        # told which leases are wanted no longer, as soon as the gateway says so
        self.on_cancelled: Callable[[Collection[str]], None] = _ignore_cancelled

    @property
    def welcome(self) -> Welcome:
        """The last `Welcome`. Only after `connect`."""
        assert self._welcome is not None, "connect() comes first"
        return self._welcome

    @property
    def current(self) -> tuple[int, str]:
        """Policy version and manifest digest that the message which arrived last told; -1 before the first.

        Ask here rather than an answer in hand: a newer word may have arrived while the answer waited to be looked at.
        """
        return self._current

    @property
    def silent_seconds(self) -> float:
        """How long the learner has not been heard, once that is so many heartbeat intervals; 0 before."""
        return self._silence.seconds

    async def connect(self) -> Welcome:
        """Wait for the learner, saying so every few seconds, and be welcomed.

        Raises:
            RunError: refused: a key that is not listed, another protocol; by its reason.
        """
        await self._welcomed()
        return self.welcome

    async def request(self, message: Message | bytes) -> Message:
        """The gateway's answer to a message, or to a frame that is one. Waits through a learner's absence.

        Limit it from outside with `asyncio.timeout`. What is not answered in time is sent again from a fresh socket,
        after 1 to 32 seconds, longer each time; at once where another's time-out dropped the connection, or where it
        broke for the first time.

        Raises:
            RunError: the gateway refused this actor for good, or serves another run.
            NotUnderstood: it could not read the message.
            ValueError: the message is larger than the link carries.
        """
        body = message if isinstance(message, bytes) else encode(message)
        patience = self._config.heartbeat_seconds * self._config.silence_intervals
        patience += len(body) / SLOWEST_BYTES_PER_SECOND
        waits, at_once = backoff(), True
        while True:
            channel = await self._welcomed()
            try:
                answer = await channel.ask(body, patience)
            except TimeoutError as error:
                by_us, by_them = channel.dropped, channel.broken and at_once
                at_once, wait = False, 0.0 if by_us or by_them else next(waits)
                again = {"again_in": round(wait, 1), "reason": str(error)}
                log.warning("request_repeated", kind=_kind_of(message), learner=self._endpoint, **again)
                self._leave(channel)
                await asyncio.sleep(wait)
                continue
            if isinstance(answer, Refused) and answer.temporary:
                at_once, wait = False, 0.0 if at_once else next(waits)
                log.info("hello_again", learner=self._endpoint, reason=answer.reason, again_in=round(wait, 1))
                self._leave(channel)
                await asyncio.sleep(wait)
                continue
            if isinstance(answer, Refused):
                raise RunError(f"the learner at {self._endpoint} refused: {answer.reason}")
            if isinstance(answer, Unreadable):
                raise NotUnderstood(f"the learner at {self._endpoint} could not read a message: {answer.reason}")
            return answer

    async def announcements(self) -> AsyncIterator[Announcement]:
        """New versions in the order in which any message told of them, the newest 16 if nobody looked."""
        while True:
            while self._announced:
                yield self._announced.popleft()
            self._news.clear()
            await self._news.wait()

    async def close(self) -> None:
        """Drop the connection; say `Goodbye` by `request` before."""
        if self._watching is not None:
            self._watching.cancel()
        if self._channel is not None:
            self._leave(self._channel)
        self._context.destroy(linger=0)

    async def _welcomed(self) -> Channel:
        if self._keys is None and self._insecure.is_due():
            log.warning("insecure_link", learner=self._endpoint, reason=INSECURE)
        async with self._greeting:
            if self._channel is not None and self._channel.broken:
                self._leave(self._channel)
            if self._channel is None:
                waiting = asyncio.create_task(self._say_waiting())
                try:
                    self._channel = await self._greet()
                finally:
                    waiting.cancel()
            return self._channel

    async def _greet(self) -> Channel:
        for patience in backoff():
            self._keys = self._keys.again() if self._keys is not None else None
            channel = Channel(client_socket(self._context, self._keys, self._endpoint, 256), self._hear)
            try:
                answer = await channel.ask(encode(self._hello()), patience)
                if isinstance(answer, Welcome):
                    self._take(answer)
                    return channel
            except TimeoutError:
                broken = channel.broken
                channel.close()
                self._judge_failure(channel.failure, channel.failure_reason)
                # whoever lets everybody in and hangs up at once would keep this process busy without end
                await asyncio.sleep(patience if broken else 0.0)
                continue
            except BaseException:
                channel.close()
                raise
            channel.close()
            if not isinstance(answer, Refused) or not answer.temporary:
                reason = answer.reason if isinstance(answer, Refused | Unreadable) else f"answered {_kind_of(answer)}"
                raise RunError(f"the learner at {self._endpoint} refused {self._hello().actor}: {reason}")
            log.warning("refused_for_now", learner=self._endpoint, reason=answer.reason)
            await asyncio.sleep(min(patience, self._config.heartbeat_seconds))
        raise AssertionError("backoff() never ends")

    def _judge_failure(self, failure: str, reason: str) -> None:
        """Name what went wrong before the first word; by the time, an operator is looking for it."""
        if not failure:
            return
        own = self._keys.own if self._keys is not None else None
        if failure == "failed" or own is None:
            expected = fingerprint(self._keys.learner_public) if self._keys is not None else "none: insecure"
            log.warning("handshake_failed", learner=self._endpoint, reason=reason, expected_fingerprint=expected)
            return
        mark = fingerprint(own.public)
        reason = (
            f"the learner at {self._endpoint} does not list the key of {own.name} (fingerprint {mark}); "
            f"put {own.name}.public into keys/actors/ there"
        )
        log.warning("key_refused", learner=self._endpoint, actor_key=own.name, fingerprint=mark, reason=reason)
        if self._welcome is None:
            raise RunError(reason)

    def _take(self, welcome: Welcome) -> None:
        if self._welcome is not None and welcome.run_id != self._welcome.run_id:
            raise RunError(
                f"the learner at {self._endpoint} now serves run {welcome.run_id}, "
                f"this actor joined {self._welcome.run_id}; start it anew"
            )
        log.info("welcomed", learner=self._endpoint, run=welcome.run_id, policy_version=welcome.policy_version)
        self._welcome = welcome
        if self._watching is None:
            watching = self._silence.watch(welcome.heartbeat_seconds, self._config.silence_intervals)
            self._watching = asyncio.create_task(watching, context=about_nothing())

    def _hear(self, message: Message) -> None:
        """Whatever tells a version that was not the last one told is an announcement."""
        self._silence.heard()
        if isinstance(message, Cancellation):
            self.on_cancelled(message.lease_ids)
        if isinstance(message, Announcement | Ack | HeartbeatReply | Welcome):
            if not isinstance(message, Announcement):
                self.on_credit(message.credit_bytes)
            told = (message.policy_version, message.manifest_digest)
            if told != self._current and told[0] >= 0:
                self._current = told
                self._announced.append(Announcement(policy_version=told[0], manifest_digest=told[1]))
                self._news.set()

    def _leave(self, channel: Channel) -> None:
        channel.close()
        if self._channel is channel:
            self._channel = None

    async def _say_waiting(self) -> None:
        await asyncio.sleep(SAY_WAITING_FIRST)
        while True:
            log.info("waiting_for_learner", at=f"{self._config.host}:{self._config.port}")
            await asyncio.sleep(SAY_WAITING_EVERY)


def _kind_of(message: Message | bytes) -> str:
    return "frame" if isinstance(message, bytes) else str(getattr(message, "kind", type(message).__name__))


def _ignore_credit(_bytes: int) -> None:
    """For links that send no trajectories."""


def _ignore_cancelled(_lease_ids: Collection[str]) -> None:
    """Nobody listens."""
