"""The cable between learner and actor is pulled for a while: packets vanish, no connection is ever ended.

`pytest -m slow tests/faults/test_network_cut.py` pulls it for five minutes instead of ten seconds.
"""

from __future__ import annotations

import time

import pytest
from aftermath import assert_it_goes_on_and_ends_well
from fleet import Fleet
from namespaces import LEARNER_ADDRESS, two_machines

LEASE_SECONDS = 3.0
SILENCE = 1.5  # seconds: three heartbeat intervals


@pytest.fixture
def cable():
    with two_machines() as laid:
        yield laid


def fleet_on(cable, folder):
    """Learner and actor-1 on one machine, actor-0 on the other."""
    machines = {"gateway": cable.learner, "trainer": cable.learner, "actor-1": cable.learner, "actor-0": cable.actor}
    return Fleet(
        folder,
        link={"host": LEARNER_ADDRESS, "heartbeat_seconds": SILENCE / 3},
        rollout={"lease_seconds": LEASE_SECONDS},
        actor={"episodes": 2},
        light={"episode_seconds": 1.0},
        prefix={name: cable.on(machine) for name, machine in machines.items()},
    )


def spooled_without_an_ack(fleet, actor):
    answered = {ack["trajectory"] for ack in fleet.seen(actor, "ack")}
    return {entry["trajectory"] for entry in fleet.seen(actor, "spooled")} - answered


@pytest.mark.parametrize("seconds", [10, pytest.param(300, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_a_cut_is_noticed_by_both_sides_and_what_was_spooled_meanwhile_arrives(cable, tmp_path, seconds):
    with fleet_on(cable, tmp_path) as fleet:
        fleet.start()
        fleet.until(lambda: fleet.seen("actor-0", "ack"), "acknowledged trajectories of actor-0")
        cable.pull()
        pulled, steps = time.monotonic(), fleet.steps()
        assert fleet.until_logged("gateway", "actor_silent", actor="actor-0")["seconds"] >= SILENCE
        assert fleet.until_logged("actor-0", "learner_silent")["seconds"] >= SILENCE
        fleet.until_logged("gateway", "lease_lapsed", actor="actor-0")
        fleet.until(lambda: spooled_without_an_ack(fleet, "actor-0"), "trajectories in the spool")
        fleet.until(lambda: fleet.steps() > steps + 1, "steps without actor-0")
        time.sleep(max(0.0, pulled + seconds - time.monotonic()))
        waiting = spooled_without_an_ack(fleet, "actor-0")
        cable.plug_in()
        assert fleet.until_logged("gateway", "actor_heard_again", actor="actor-0")["seconds"] >= seconds - SILENCE
        assert fleet.until_logged("actor-0", "learner_heard_again")["seconds"] >= seconds - SILENCE
        fleet.until(lambda: not waiting & spooled_without_an_ack(fleet, "actor-0"), "acks of what was spooled")
        acks = len(fleet.seen("actor-0", "ack"))
        fleet.until(lambda: len(fleet.seen("actor-0", "ack")) > acks + 2, "new work of actor-0")
        assert waiting
        assert_it_goes_on_and_ends_well(fleet)
        assert fleet.events("gateway", "actor_silent")[0]["actor"] == "actor-0"
        assert len(fleet.events("actor-0", "closed")) == 1, "it was not started again"
