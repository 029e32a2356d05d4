"""`loop actor` without vLLM and AppWorld: `python light_actor.py --config FILE`, as the real command.

Worker, link, outbox, leases, reloader and versions are the real ones; policy, prompt and worlds are scripted: a turn
lasts a drawn moment, its tokens carry the versions in use when it began and when it ended. What the actor saw is kept
in `seen.jsonl`, a line each, whole however the process ends: what was spooled, and each ack.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import sys
from contextlib import asynccontextmanager
from pathlib import Path

from light_policy import log_probs, read_weights, settings

import actor.worker
import common.cli
from actor.outbox import Outbox
from actor.policy import Sampled
from actor.probe import Score
from actor.world.client import Observation
from actor.world.grader import Verdict
from actor.world.root import TaskText
from common.link import ActorLink
from common.messages import Ack, LeaseReturn

STOP = 99
TURNS = 2


class Seen:
    """The file of what an actor saw; one write a line, so a killed process leaves whole lines."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def note(self, what: str, trajectory_id: str, **more: object) -> None:
        line = json.dumps({"what": what, "trajectory": trajectory_id, **more}) + "\n"
        os.write(self._descriptor, line.encode())


def is_held_up() -> bool:
    """Whether the engine is not to start yet."""
    file = settings().get("engine_starts_after")
    return file is not None and not Path(file).exists()


class LightEngine:
    @staticmethod
    async def prepare(_config):
        pass


class LightPolicy:
    """Versions are read from their folders and probed as real ones are; a turn is a nap."""

    context_tokens = 1 << 20

    def __init__(self, folder: Path, version: int, seed: int) -> None:
        self.version, self.sampled_tokens = -1, 0
        self._chance = random.Random(seed)
        self._weights = {version: read_weights(folder)}
        self._tokens, self._slowest = settings()["turn_tokens"], settings()["episode_seconds"] / TURNS

    @classmethod
    async def start(cls, folder, version, _config, *, mode, slots, seed, stop_ids, on_load=None):
        while is_held_up():  # noqa: ASYNC110 - by a file that a test makes
            await asyncio.sleep(0.05)
        return cls(folder, version, seed)

    def stop(self):
        pass

    @asynccontextmanager
    async def episode(self):
        yield None

    @asynccontextmanager
    async def held(self):
        yield

    async def generate(self, ids, *, temperature, max_tokens, pinned=None, max_seconds=None):
        began = self.version
        seconds = self._chance.uniform(0.0, self._slowest)
        await asyncio.sleep(seconds)
        count = min(max_tokens, self._tokens)
        self.sampled_tokens += count
        return Sampled(
            ids=[*(1000 + (began + n) % 26 for n in range(count - 1)), STOP],
            log_probs=[-0.5] * count,
            versions=[began] * (count // 2) + [self.version] * (count - count // 2),
            finish="stop",
            seconds=seconds,
        )

    async def load_full(self, folder, version):
        self._weights = {version: await asyncio.to_thread(read_weights, folder)}
        return 0.0

    async def score(self, ids, version):
        return [Score(log_probs(self._weights[version], ids))]

    async def refuse(self):
        pass

    async def use(self, version):
        self.version = version

    def loaded(self):
        return set(self._weights)


class LightWorlds:
    """A world sees `TURNS` turns; its verdict follows from them."""

    waiting_for = ""  # nothing here could start again

    def __init__(self, _config):
        pass

    def check(self, _task_ids):
        pass

    async def start(self):
        pass

    async def open(self, task_id):
        return LightWorld(task_id)

    async def close(self):
        pass


class LightWorld:
    def __init__(self, task_id: str) -> None:
        self.task = TaskText(task_id, f"Do {task_id}.", "Bo", "Lee", "bo@x.org", "123", "2023-05-18T12:00:00")
        self._cells: list[str] = []

    async def execute(self, code):
        self._cells.append(code)
        return Observation("done", failed=False, completed=len(self._cells) == TURNS)

    async def grade(self):
        reward = hashlib.sha256(f"{self.task.task_id} {self._cells}".encode()).digest()[0] % 3 / 2
        return Verdict(reward, reward == 1.0, (), ())

    async def close(self):
        pass


class LightPrompt:
    """A token is a character's code above 1000."""

    stop_ids = (STOP,)
    freed_share = None

    @classmethod
    def load(cls, _folder, _config):
        return cls()

    def stub(self, *, stopped=True):
        return [7, 8]

    def opening(self, instruction, supervisor):
        return [1, 2, 3]

    def observation(self, text, room, *, stopped=True):
        return [7, 8] if room >= 2 else []

    def told(self, sampled_ids, output):
        return output or ""

    def has_stopped(self, sampled_ids):
        return sampled_ids[-1] == STOP

    def code(self, sampled_ids):
        return "".join(chr(i - 1000) for i in sampled_ids if i > 1000) or None


def light_parts(link: type[ActorLink], outbox: type[Outbox]) -> dict[str, object]:
    """What stands in a worker for vLLM, and the link and outbox that see what passes; by its names."""
    return {
        "ActorLink": link,
        "Outbox": outbox,
        "Engine": LightEngine,
        "Policy": LightPolicy,
        "Prompt": LightPrompt,
    }


def main() -> int:
    seen = Seen(Path(settings()["seen"]))

    class SeenLink(ActorLink):
        async def request(self, message):
            answer = await super().request(message)
            if isinstance(answer, Ack) and not isinstance(message, LeaseReturn):
                seen.note("ack", answer.trajectory_id, outcome=answer.outcome, reason=answer.reason)
            return answer

    class SeenOutbox(Outbox):
        async def add(self, trajectory):
            await super().add(trajectory)
            seen.note("spooled", trajectory.trajectory_id)

    for name, part in light_parts(SeenLink, SeenOutbox).items():
        assert hasattr(actor.worker, name), name
        setattr(actor.worker, name, part)
    return common.cli.main(["actor", *sys.argv[1:], "--world.provider", "light_actor:LightWorlds"])


if __name__ == "__main__":
    sys.exit(main())
