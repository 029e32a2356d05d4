"""Processes stopped with SIGSTOP and let go on: leases lapse or are extended as designed, and both sides say so."""

import time

from aftermath import assert_it_goes_on_and_ends_well, assert_the_promises_hold
from fleet import Fleet

LEASE_SECONDS = 1.5
SILENCE = 0.6  # seconds, three heartbeat intervals of the fleet's
STOPPED = 3.0  # seconds after which the gateway takes itself to have been stopped
# one episode at a time, most of them long enough to be met on their way
SETTINGS = {
    "rollout": {"lease_seconds": LEASE_SECONDS, "groups_per_step": 1, "group_size": 2},
    "actor": {"episodes": 1},
    "light": {"episode_seconds": 1.0},
}


def leased(fleet, actor):
    """Leases that an actor has out, as the ledger has them."""
    return {row[0] for row in fleet.rows(f"SELECT lease_id FROM leases WHERE state = 'leased' AND actor = '{actor}'")}


def freeze_amid_an_episode(fleet, actor):
    """The leases that the actor holds, now that it stands still with one that it has not spooled."""
    while True:
        fleet.until(lambda: leased(fleet, actor), f"{actor} to hold a lease")
        fleet.freeze(actor)
        held = leased(fleet, actor) - {entry["trajectory"] for entry in fleet.seen(actor, "spooled")}
        time.sleep(0.3)  # what it had sent just before arrives
        if held and held <= leased(fleet, actor):
            return held
        fleet.thaw(actor)


def lapsed(fleet, lease_ids):
    return {entry["lease"] for entry in fleet.events("gateway", "lease_lapsed")} & lease_ids


def story(fleet, lease_id):
    return [row[0] for row in fleet.rows(f"SELECT event FROM story WHERE lease_id = '{lease_id}' ORDER BY rowid")]


def test_leases_of_a_stopped_actor_lapse_and_its_late_results_are_fenced_when_others_have_its_place(tmp_path):
    with Fleet(tmp_path, seed=1, **SETTINGS) as fleet:
        fleet.start()
        fleet.until_steps(1)
        held = freeze_amid_an_episode(fleet, "actor-0")
        silent = fleet.until_logged("gateway", "actor_silent", actor="actor-0")
        fleet.until(lambda: lapsed(fleet, held) == held, "their lapse")
        again = {lease_id.rpartition(".")[0] for lease_id in held}
        fleet.until(
            lambda: (
                again <= {lease_id.rpartition(".")[0] for lease_id in leased(fleet, "actor-1")}
                or again <= {entry["trajectory"].rpartition(".")[0] for entry in fleet.seen("actor-1", "ack")}
            ),
            "their places with the other actor",
        )
        steps = fleet.steps()
        fleet.until(lambda: fleet.steps() > steps, "a step without the stopped actor")
        fleet.thaw("actor-0")
        back = fleet.until_logged("gateway", "actor_heard_again", actor="actor-0")
        assert silent["seconds"] >= SILENCE
        assert back["seconds"] > LEASE_SECONDS
        assert fleet.until_logged("actor-0", "actor_was_stopped")["seconds"] > LEASE_SECONDS
        assert fleet.events("actor-0", "learner_silent") == []
        assert_it_goes_on_and_ends_well(fleet)
        outcomes = {ack["outcome"] for ack in fleet.seen("actor-0", "ack") if ack["trajectory"] in held}
        assert outcomes <= {"fenced"}
        assert not any("received" in story(fleet, lease_id) for lease_id in held)


def test_late_results_of_a_stopped_actor_are_taken_when_nobody_else_has_its_place(tmp_path):
    with Fleet(tmp_path, seed=2, actors=("actor-0",), **SETTINGS) as fleet:
        fleet.start()
        fleet.until_steps(1)
        held = freeze_amid_an_episode(fleet, "actor-0")
        fleet.until(lambda: lapsed(fleet, held) == held, "their lapse")
        fleet.thaw("actor-0")
        assert_it_goes_on_and_ends_well(fleet)
        assert [story(fleet, lease_id)[:3] for lease_id in held] == [["leased", "dropped", "received"]] * len(held)


def test_leases_outlive_a_stopped_gateway_and_its_actors_find_it_again(tmp_path):
    with Fleet(tmp_path, seed=3, rollout={"lease_seconds": LEASE_SECONDS}) as fleet:
        fleet.start()
        fleet.until_steps(1)
        fleet.freeze("gateway")
        for actor in fleet.actors:
            silent = fleet.until_logged(actor, "learner_silent")
            assert silent["seconds"] >= SILENCE
        time.sleep(max(STOPPED, LEASE_SECONDS) + 1.0)
        fleet.thaw("gateway")
        assert fleet.until_logged("gateway", "gateway_was_stopped")["seconds"] > STOPPED
        for actor in fleet.actors:
            assert fleet.until_logged(actor, "learner_heard_again")["seconds"] > STOPPED
        assert_it_goes_on_and_ends_well(fleet)
        assert fleet.events("gateway", "lease_lapsed") == []


def test_a_stopped_trainer_stalls_neither_gateway_nor_actors(tmp_path):
    with Fleet(tmp_path, seed=4, rollout={"lease_seconds": LEASE_SECONDS}) as fleet:
        fleet.start()
        fleet.until_steps(1)
        fleet.freeze("trainer")
        # the staleness bound, not the trainer, ends the rollouts
        withheld = len(fleet.events("gateway", "leases_withheld"))
        fleet.until_logged("gateway", "leases_withheld", count=withheld + 1)
        time.sleep(2 * LEASE_SECONDS)
        fleet.thaw("trainer")
        assert_it_goes_on_and_ends_well(fleet)
        assert [fleet.events(actor, "learner_silent") for actor in fleet.actors] == [[], []]
        assert fleet.events("gateway", "actor_silent") == []


def test_a_run_that_ends_just_after_a_restart_waits_for_actors_that_have_yet_to_find_the_gateway_again(tmp_path):
    """They would wait for a learner that never comes back."""
    with Fleet(tmp_path, seed=5, **{**SETTINGS, "rollout": {"groups_per_step": 1, "group_size": 2}}) as fleet:
        fleet.start()
        fleet.until_steps(1)
        freeze_amid_an_episode(fleet, "actor-1")
        fleet.kill("gateway")
        fleet.start("gateway")
        fleet.until(lambda: fleet.is_welcomed("actor-0"), "actor-0 to be back")
        fleet.stop_training()
        fleet.until(lambda: fleet.has_ended("actor-0") and fleet.has_ended("trainer"), "both to leave")
        fleet.thaw("actor-1")
        fleet.finish()
        assert_the_promises_hold(fleet)
