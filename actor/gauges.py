"""An actor's figures as it stands now, for `common.exporter`; made in its event loop, where nothing changes meanwhile.

Standing, Tally ─► look ─► Figures, every second ─► Pulse ─► /metrics, /health
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from actor.standing import Standing
from actor.tally import Tally
from common.measures import Figures, Measure, Split, Value
from common.messages import PROTOCOL_VERSION
from common.pulse import Pulse

BEAT_SECONDS = 1.0
DISK_EVERY = 10  # beats
LABELS = ("run", "actor")  # that all of them have
MEASURES = (
    Measure("loop_actor_build_info", "gauge", "1; its labels say what runs here", ("version", "protocol")),
    Measure("loop_actor_waiting", "gauge", "1 while something is lacking; /health has it in words"),
    Measure("loop_actor_learner_silent_seconds", "gauge", "how long the learner was not heard; 0 while it is"),
    Measure("loop_actor_policy_version", "gauge", "the policy version that is sampled with, -1 before the first"),
    Measure("loop_actor_newest_version", "gauge", "the newest that the learner named, -1 before the first"),
    Measure("loop_actor_sampled_tokens_total", "counter", "tokens sampled for trajectories"),
    Measure("loop_actor_prompt_tokens_total", "counter", "tokens of prompts, in the prefix cache or not", ("source",)),
    Measure("loop_actor_episodes_total", "counter", "episodes that ended, by how", ("outcome",)),
    Measure("loop_actor_episode_successes_total", "counter", "episodes finished whose task was solved"),
    Measure("loop_actor_episode_turns_total", "counter", "turns of episodes finished"),
    Measure("loop_actor_episode_seconds_total", "counter", "seconds of episodes finished, by who took them", ("part",)),
    Measure("loop_actor_leases", "gauge", "leases held, not begun or being rolled out", ("state",)),
    Measure("loop_actor_episode_slots", "gauge", "episodes that may sample at a time; follows the KV cache"),
    Measure("loop_actor_episode_slots_taken", "gauge", "episodes that sample now"),
    Measure("loop_actor_requests", "gauge", "requests of the engine's last step, in it or waiting", ("state",)),
    Measure("loop_actor_kv_cache_usage_ratio", "gauge", "share of the KV cache that requests hold, 0 to 1"),
    Measure("loop_actor_preemptions_total", "counter", "requests that lost their keys and values to others"),
    Measure("loop_actor_engine_failures_total", "counter", "engines that died, were stuck or did not start again"),
    Measure("loop_actor_reloads_total", "counter", "new policy versions, by whether they came into use", ("outcome",)),
    Measure("loop_actor_reload_seconds_total", "counter", "seconds of reloads, fetch to use"),
    Measure("loop_actor_reload_pause_seconds_total", "counter", "of them, seconds with the engine paused"),
    Measure("loop_actor_probe_difference_nats", "gauge", "the last probe's largest difference from the learner's"),
    Measure("loop_actor_worlds_open", "gauge", "worlds that are open"),
    Measure("loop_actor_worlds_opened_total", "counter", "worlds opened"),
    Measure("loop_actor_spool_bytes", "gauge", "trajectories without an ack, bytes"),
    Measure("loop_actor_spooled_trajectories", "gauge", "trajectories without an ack, count"),
    Measure("loop_actor_disk_free_bytes", "gauge", "room left on the spool's disk"),
)


class Gauges:
    """Of one actor.

    Args:
        name: the actor's.
        folder: where its spool lies.
        silent_seconds: how long the learner was not heard, 0 while it is heard.
    """

    def __init__(
        self, name: str, folder: Path, standing: Standing, tally: Tally, silent_seconds: Callable[[], float]
    ) -> None:
        self.run_id = ""  # not known yet
        self.tally = tally
        self._name, self._folder, self._standing, self._silent_seconds = name, folder, standing, silent_seconds
        self._disk_free: float | None = None
        self._sampled_before = 0  # with engines that have ended
        self._policy: object = None
        self._sampled = 0
        self._build = Split({(version("loop-rl"), str(PROTOCOL_VERSION)): 1.0})

    async def beat(self, pulse: Pulse) -> None:
        """Until cancelled, every second; the disk is asked in a thread, since one that hangs hangs who asks."""
        beats = 0
        asking: asyncio.Task[None] | None = None
        while True:
            pulse.beat(self.look(), self._standing.waiting_for)
            if beats % DISK_EVERY == 0 and (asking is None or asking.done()):
                asking = asyncio.create_task(self._ask_disk())
            beats += 1
            await asyncio.sleep(BEAT_SECONDS)

    def look(self) -> Figures:
        """As it is now."""
        standing, tally, leases = self._standing, self.tally, self._standing.leases
        waiting_for = standing.waiting_for
        values: dict[str, Value] = {
            "loop_actor_build_info": self._build,
            "loop_actor_waiting": float(bool(waiting_for)),
            "loop_actor_learner_silent_seconds": self._silent_seconds(),
            "loop_actor_policy_version": standing.version,
            "loop_actor_newest_version": standing.versions.target if standing.versions is not None else -1,
            "loop_actor_sampled_tokens_total": self._sampled_tokens(),
            "loop_actor_prompt_tokens_total": Split({("cached",): tally.cached, ("computed",): tally.computed}),
            "loop_actor_episodes_total": _split(tally.episodes),
            "loop_actor_episode_successes_total": tally.succeeded,
            "loop_actor_episode_turns_total": tally.turns,
            "loop_actor_episode_seconds_total": _split(tally.episode_seconds),
            "loop_actor_leases": _split({"waiting": len(leases.ids) - leases.running, "running": leases.running}),
            "loop_actor_preemptions_total": tally.preempted,
            "loop_actor_engine_failures_total": tally.engine_failures,
            "loop_actor_reloads_total": _split(tally.reloads),
            "loop_actor_reload_seconds_total": tally.reload_seconds,
            "loop_actor_reload_pause_seconds_total": tally.pause_seconds,
            "loop_actor_probe_difference_nats": tally.probe_difference,
            "loop_actor_worlds_open": tally.worlds_open,
            "loop_actor_worlds_opened_total": tally.worlds_opened,
            "loop_actor_disk_free_bytes": self._disk_free,
        }
        if standing.slots is not None:
            values["loop_actor_episode_slots"] = standing.slots.limit
            values["loop_actor_episode_slots_taken"] = standing.slots.taken
        if tally.load is not None:
            values["loop_actor_requests"] = _split({"running": tally.load.running, "waiting": tally.load.waiting})
            values["loop_actor_kv_cache_usage_ratio"] = tally.load.usage
        if standing.outbox is not None:
            values["loop_actor_spool_bytes"] = standing.outbox.size
            values["loop_actor_spooled_trajectories"] = len(standing.outbox.ids)
        return Figures(values, dict(zip(LABELS, (self.run_id, self._name), strict=True)))

    def _sampled_tokens(self) -> int:
        """Of all engines together: each policy counts its own from 0."""
        policy = self._standing.policy
        if policy is not self._policy:
            self._sampled_before += self._sampled
            self._policy, self._sampled = policy, 0
        if policy is not None:
            self._sampled = policy.sampled_tokens
        return self._sampled_before + self._sampled

    async def _ask_disk(self) -> None:
        try:
            self._disk_free = float((await asyncio.to_thread(shutil.disk_usage, self._folder)).free)
        except OSError:  # not made yet, or gone
            self._disk_free = None


def _split(values: dict[str, int] | dict[str, float]) -> Split:
    return Split({(name,): float(value) for name, value in values.items()})
