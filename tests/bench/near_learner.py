"""A learner in the actor's own process, for benchmarks: it grants leases while it is told to, and names versions.

All versions are one model folder, with a probe by transformers: each is loaded and probed as a real one is.
"""

import asyncio
import itertools
import sys
from pathlib import Path

import actor.worker
from common.checkpoint import Manifest, Probe
from common.messages import (
    Ack,
    HeartbeatReply,
    Lease,
    LeaseGrant,
    LeaseRequest,
    LeaseReturn,
    TaskIdsRequest,
    Trajectory,
    Welcome,
)
from common.task_ids import TaskList
from common.wire import decode

sys.path.insert(0, str(Path(__file__).parents[1] / "actor"))
from tiny_model import reference_log_probs

PROBE = [(7 * i + 3) % 1000 for i in range(120)]
GROUP = 6
CREDIT = 64 << 20


class NearLearner:
    """Leases of `tasks` in groups, as long as `granting` holds; `publish` announces one version more."""

    def __init__(self, model, tasks, sampling):
        self.model, self.sampling = model, sampling
        self.version, self.granting = 0, False
        self.granted, self.trajectories, self.returned = 0, [], []
        self.task_list = TaskList(sorted(tasks))
        self._leases = self._endless(sorted(tasks))
        self._probe = Probe(tokens=tuple(PROBE), log_probs=tuple(reference_log_probs(model, PROBE)))
        self._announced = asyncio.Queue()

    def _endless(self, tasks):
        for number, task in enumerate(itertools.cycle(tasks)):
            for member in range(GROUP):
                yield {"group_id": f"g{number}", "member": member, "lease_id": f"g{number}.{member}.0", "task_id": task}

    def digest(self):
        return f"{self.version:064x}"

    def publish(self):
        self.version += 1
        self._announced.put_nowait(self.said())

    def said(self):
        words = {"policy_version": self.version, "manifest_digest": self.digest(), "credit_bytes": CREDIT}
        return HeartbeatReply(**words)

    def welcome(self):
        said = self.said().model_dump(include={"policy_version", "manifest_digest", "credit_bytes"})
        return Welcome(run_id="bench", heartbeat_seconds=2.0, tasks_digest=self.task_list.digest, **said)

    def manifest(self, version):
        return Manifest(run_id="bench", policy_version=version, kind="full", step=version, files={}, probe=self._probe)

    def answer(self, message):
        if isinstance(message, TaskIdsRequest):
            return self.task_list.page(message.begin)
        if isinstance(message, LeaseRequest):
            count = message.count if self.granting else 0
            self.granted += count
            words = {"epoch": 0, "purpose": "train", "minimum_version": max(0, self.version - 2), "time_to_live": 600.0}
            some = itertools.islice(self._leases, count)
            leases = tuple(Lease(sampling=self.sampling, **one, **words) for one in some)
            return LeaseGrant(leases=leases, waiting_for="" if leases else "the next round")
        if isinstance(message, Trajectory | LeaseReturn):
            done = self.trajectories if isinstance(message, Trajectory) else self.returned
            done.append(message)
            name = message.trajectory_id if isinstance(message, Trajectory) else message.lease_id
            said = self.said().model_dump(include={"policy_version", "manifest_digest", "credit_bytes"})
            return Ack(trajectory_id=name, outcome="ok", **said)
        return self.said()

    def take_the_place_of_the_link(self):
        """From now on workers speak with this learner, and find its versions in the model's folder."""
        learner = self

        class Link:
            silent_seconds = 0.0

            def __init__(self, _config, _keys, hello):
                self.hello, self.welcome = hello, learner.welcome()

            async def connect(self):
                self.hello()
                return self.welcome

            async def request(self, message):
                await asyncio.sleep(0)
                return learner.answer(decode(message) if isinstance(message, bytes) else message)

            async def announcements(self):
                while True:
                    yield await learner._announced.get()

            async def close(self):
                pass

        class Files:
            def __init__(self, *_):
                pass

            async def close(self):
                pass

        async def fetch(versions, version, _digest=""):
            versions._digests[version] = f"{version:064x}"
            return learner.model, learner.manifest(version)

        actor.worker.ActorLink, actor.worker.FileLink = Link, Files
        actor.worker.Versions.fetch = fetch
