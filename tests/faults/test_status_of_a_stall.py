"""An actor, or the trainer, is stopped with SIGSTOP: `loop status` names it within three heartbeat intervals."""

import asyncio
import json

import pytest
from fleet import Fleet

from common.config import LinkConfig
from common.keys import actor_keys
from common.status_link import StatusLink

INTERVAL, INTERVALS = 1.0, 3  # seconds; after which an actor counts as gone
SETTINGS = {
    "link": {"heartbeat_seconds": INTERVAL, "silence_intervals": INTERVALS},
    "rollout": {"groups_per_step": 2, "group_size": 2},
    "actor": {"episodes": 1},
    "light": {"episode_seconds": 1.0},
}
PARKED = 1.0  # seconds that the gateway may hold the trainer's question, and hears no beat of its


def pictures_until(fleet, condition):
    """Every picture until one of them is such; asked one after the other, through the real link."""
    where = json.loads((fleet.run / "gateway.json").read_text())
    found = []

    async def ask():
        link = StatusLink(LinkConfig(port=where["port"]), actor_keys(fleet.folder / "keys", "learner"))
        while not found or not condition(found[-1]):
            found.append(await link.ask(30.0))
            await asyncio.sleep(0.02)
        link.close()

    asyncio.run(asyncio.wait_for(ask(), 60))
    return found


def of_actor(status, name):
    return next(actor for actor in status.actors if actor.name == name)


@pytest.mark.slow
def test_a_stopped_actor_and_a_stopped_trainer_are_named_within_three_heartbeat_intervals(tmp_path):
    with Fleet(tmp_path, seed=6, **SETTINGS) as fleet:
        fleet.start()
        fleet.until_steps(1)
        pictures_until(fleet, lambda status: of_actor(status, "actor-0").leases)
        fleet.freeze("actor-0")
        named = "actor actor-0 has said nothing for "
        found = pictures_until(fleet, lambda status: of_actor(status, "actor-0").heard_seconds > INTERVALS * INTERVAL)
        for status in found:
            quiet = of_actor(status, "actor-0").heard_seconds
            assert any(line.startswith(named) for line in status.stalls) == (quiet > 2 * INTERVAL), (quiet, status)
        last = found[-1]
        held = of_actor(last, "actor-0").leases
        waiting = [group.task_id for group in last.oldest_groups if group.oldest_lease_actor == "actor-0"]
        assert held
        assert waiting
        assert any(f"{held} lease" in line and f"{waiting[0]}" in line for line in last.stalls), last.stalls
        fleet.thaw("actor-0")
        pictures_until(fleet, lambda status: not status.stalls)

        fleet.freeze("trainer")
        found = pictures_until(fleet, lambda status: status.trainer.heard_seconds > INTERVALS * INTERVAL + PARKED)
        for status in found:
            told = [line for line in status.stalls if line.startswith("the trainer has said nothing for ")]
            quiet = status.trainer.heard_seconds
            assert told or quiet <= 2 * INTERVAL + PARKED, (quiet, status.stalls)
        at = f"was in {found[-1].trainer.doing} of step {found[-1].trainer.step}"
        assert told[0].endswith(at)
        assert found[-1].waiting_for == told[0]
        fleet.thaw("trainer")
        pictures_until(fleet, lambda status: not status.stalls)
        fleet.finish()
