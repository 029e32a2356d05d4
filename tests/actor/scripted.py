"""Scripted stand-ins for policy, prompt and worlds: what they answer is given, what they were asked is kept."""

from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from actor.policy import Sampled
from actor.world.client import Observation, Verdict
from actor.world.root import TaskText
from common.messages import Lease, Sampling

STOP = 99
NO_CODE = "no code"
TASK = TaskText("pay_1", "Pay Ann.", "Bo", "Lee", "bo@x.org", "123", "2023-05-18T12:00:00")
HALF_RIGHT = Verdict(0.5, False, ("paid",), ("no collateral damage",))


def make_lease(
    lease_id="g1.0.0", *, task_id="pay_1", max_turns=5, max_turn_tokens=8, max_context_tokens=200, minimum_version=0
):
    return Lease(
        lease_id=lease_id,
        group_id="g1",
        member=0,
        epoch=0,
        task_id=task_id,
        purpose="train",
        minimum_version=minimum_version,
        sampling=Sampling(
            temperature=1.0,
            max_turns=max_turns,
            max_turn_tokens=max_turn_tokens,
            max_context_tokens=max_context_tokens,
        ),
        time_to_live=60.0,
    )


def turn(*ids, version=0, versions=None, finish="stop"):
    """A turn whose i-th token has log-prob -0.5 * (i + 1)."""
    return Sampled(
        ids=list(ids),
        log_probs=[-0.5 * (i + 1) for i in range(len(ids))],
        versions=versions or [version] * len(ids),
        finish=finish,
        seconds=0.25,
    )


@dataclass
class ScriptedPolicy:
    turns: list
    asked: list = field(default_factory=list)
    pinned: int | None = None

    @asynccontextmanager
    async def episode(self):
        yield self.pinned

    async def generate(self, ids, *, temperature, max_tokens, pinned=None, max_seconds=None):
        self.asked.append((list(ids), temperature, max_tokens, pinned))
        answer = self.turns.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@dataclass
class ScriptedWorlds:
    """One world; `observations` are texts, Observations or errors."""

    observations: list
    verdict: Verdict | Exception = HALF_RIGHT
    executed: list = field(default_factory=list)
    opened: int = 0
    closed: int = 0
    graded: int = 0
    task = TASK

    async def open(self, task_id):
        assert task_id == TASK.task_id
        self.opened += 1
        return self

    async def execute(self, code):
        self.executed.append(code)
        answer = self.observations.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return Observation(answer, failed=False, completed=False) if isinstance(answer, str) else answer

    async def grade(self):
        self.graded += 1
        if isinstance(self.verdict, Exception):
            raise self.verdict
        return self.verdict

    async def close(self):
        self.closed += 1


class CharacterPrompt:
    """A token is a character's code above 1000; `STOP` ends a turn; 7 and 8 frame an observation; 7, 9, 8 is a stub."""

    freed_share = None

    def opening(self, instruction, supervisor):
        return [1, 2, 3]

    def observation(self, text, room, *, stopped=True):
        ids = [*([] if stopped else [STOP]), 7, *(1000 + ord(letter) for letter in text), 8]
        return ids if len(ids) <= room else []

    def stub(self, *, stopped=True):
        return [*([] if stopped else [STOP]), 7, 9, 8]

    def told(self, sampled_ids, output):
        return NO_CODE if output is None else output

    def has_stopped(self, sampled_ids):
        return bool(sampled_ids) and sampled_ids[-1] == STOP

    def code(self, sampled_ids):
        return "".join(chr(i - 1000) for i in sampled_ids if i > 1000) or None


def letters(text):
    return [1000 + ord(letter) for letter in text]
