"""Episodes of a stated length, and engines of a stated speed, on an event loop's clock (`virtual_time`).

An episode is a number of turns; a turn is tokens to sample, then a call of the world. What an episode is made of
follows from the seed and its lease alone, so every schedule rolls out the same work.

An engine that decodes n sequences at once gives each of them a token every `step_seconds + sequence_seconds * n`
seconds. Its throughput is n times that rate: it grows with n and levels off, as a memory-bound decoder's does.
"""

import asyncio
import heapq
import itertools
import math
import random
from bisect import bisect_right
from dataclasses import dataclass


@dataclass(frozen=True)
class Workload:
    """What episodes are made of. Log-normal by median and sigma of the logarithm.

    A task's turns are its own draw, an episode's vary around them: members of a group are alike in length.
    """

    seed: int = 1
    turns_median: float = 11.0
    turns_sigma_of_task: float = 0.5
    turns_sigma: float = 0.4
    most_turns: int = 40  # as the paper has it
    tokens_median: float = 120.0  # sampled in a turn
    tokens_sigma: float = 0.8
    most_tokens: int = 1500  # as the paper has it
    read_tokens: float = 20.0  # what reading a turn's observation costs, in sampled tokens
    world_median: float = 1.0  # seconds of a cell
    world_sigma: float = 1.2
    most_world: float = 100.0  # seconds: the cell is stopped

    def turns_of(self, lease):
        """Of an episode: sampled tokens and seconds in the world, turn by turn."""
        task = random.Random(f"{self.seed}:{lease.group_id}")
        own = random.Random(f"{self.seed}:{lease.lease_id}")
        middle = math.log(self.turns_median) + task.gauss(0.0, self.turns_sigma_of_task)
        count = min(self.most_turns, max(1, round(math.exp(middle + own.gauss(0.0, self.turns_sigma)))))
        return [
            (
                min(self.most_tokens, math.ceil(own.lognormvariate(math.log(self.tokens_median), self.tokens_sigma))),
                min(self.most_world, own.lognormvariate(math.log(self.world_median), self.world_sigma)),
            )
            for _ in range(count)
        ]

    def reward_of(self, lease):
        """Of an episode, 0 to 1."""
        return random.Random(f"{self.seed}:{lease.lease_id}:reward").random()


@dataclass(frozen=True)
class Speed:
    """How fast an engine decodes. The defaults: 32 billion parameters in bfloat16 on two H100.

    step_seconds: 64 GB of weights at 4 TB/s. sequence_seconds: the keys and values of 10,000 tokens, 2.6 GB, at the
    same 4 TB/s.
    """

    step_seconds: float = 0.016
    sequence_seconds: float = 0.00065
    slots: int = 16  # episodes at a time, decoding or in their worlds

    def tokens_per_second(self, sequences):
        """Of one of `sequences` that decode."""
        return 1.0 / (self.step_seconds + self.sequence_seconds * sequences)


class Engine:
    """Decodes the turns of its episodes; all that decode share it evenly.

    `_done` counts the tokens that every sequence has got since the beginning: a turn of w tokens is over when it has
    grown by w. A swap notes where it stood, so each token knows its version.
    """

    def __init__(self, speed, version):
        self._speed = speed
        self._loop = asyncio.get_running_loop()
        self._done, self._at = 0.0, self._loop.time()
        self._turns = []  # a heap: where it ends, order, where it began, reading, then
        self._order = itertools.count()
        self._timer = None
        self._paused = False
        self._swaps = [(-1.0, version)]
        self._sampled = 0.0  # by all

    @property
    def version(self):
        return self._swaps[-1][1]

    def sampled_by_now(self):
        """Tokens of all sequences, reading included."""
        self._advance()
        return self._sampled

    def decode(self, tokens, read, then):
        """`tokens` are sampled, after reading that costs as much as `read` of them; `then(tokens by version)`."""
        self._advance()
        heapq.heappush(self._turns, (self._done + read + tokens, next(self._order), self._done, read, then))
        self._set_timer()

    def forget(self, then):
        """An episode was cancelled."""
        self._advance()
        self._turns = [turn for turn in self._turns if turn[4] != then]
        heapq.heapify(self._turns)
        self._set_timer()

    async def swap(self, version, pause):
        """Sampling stops for `pause` seconds; then the same sequences go on with another version."""
        self._advance()
        self._paused = True
        self._set_timer()
        await asyncio.sleep(pause)
        self._advance()
        self._paused = False
        self._swaps.append((self._done, version))
        self._set_timer()

    def _rate(self):
        return 0.0 if self._paused or not self._turns else self._speed.tokens_per_second(len(self._turns))

    def _advance(self):
        now = self._loop.time()
        grown = (now - self._at) * self._rate()
        self._done += grown
        self._sampled += grown * len(self._turns)
        self._at = now

    def _set_timer(self):
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._turns and not self._paused:
            self._timer = self._loop.call_later((self._turns[0][0] - self._done) / self._rate(), self._finish)

    def _finish(self):
        """The turn at the head of the heap is over; the timer was set for it, so rounding cannot delay it."""
        self._timer = None
        self._advance()
        end, _, begun, read, then = heapq.heappop(self._turns)
        self._set_timer()
        then(self._versions(begun + read, end))

    def _versions(self, begun, end):
        """Tokens by version between two points of `_done`."""
        first = max(0, bisect_right(self._swaps, (begun, math.inf)) - 1)
        edges = [*self._swaps[first:], (end, -1)]
        return {
            version: max(0.0, min(end, later) - max(begun, since))
            for (since, version), (later, _) in itertools.pairwise(edges)
            if later > begun
        }


class Episode:
    """One lease on one engine: turns of sampling and world, then `finished(episode)`."""

    def __init__(self, lease, engine, workload, finished):
        self.lease, self.reward = lease, workload.reward_of(lease)
        self.versions = {}  # tokens by version
        self.tokens = 0  # sampled so far
        self._turns = iter(workload.turns_of(lease))
        self._engine, self._workload, self._finished = engine, workload, finished
        self._loop = asyncio.get_running_loop()
        self._world = None
        self._seconds = 0.0
        self._sampled = 0
        self._next()

    def cancel(self):
        """Wherever it is."""
        if self._world is not None:
            self._world.cancel()
        self._engine.forget(self._after_sampling)

    def _next(self):
        self._world = None
        turn = next(self._turns, None)
        if turn is None:
            self._finished(self)
            return
        self._sampled, self._seconds = turn
        self._engine.decode(self._sampled, self._workload.read_tokens, self._after_sampling)

    def _after_sampling(self, versions):
        for version, tokens in versions.items():
            self.versions[version] = self.versions.get(version, 0.0) + tokens
        self.tokens += self._sampled
        self._world = self._loop.call_later(self._seconds, self._next)
