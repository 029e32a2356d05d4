"""SIGTERM and SIGINT to real actor processes: a polite leave; a second one ends at once, amid the drain."""

import signal
import time

import pytest
from aftermath import assert_it_goes_on_and_ends_well
from fleet import Fleet

LONG = {"rollout": {"groups_per_step": 2, "group_size": 3}, "light": {"episode_seconds": 2.0}}


def amid_episodes(fleet):
    fleet.start()
    fleet.until_steps(1)
    fleet.until(lambda: fleet.seen("actor-0", "spooled"), "a finished episode")


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_is_followed_by_a_drain_and_goodbye_with_exit_code_0(tmp_path, number):
    with Fleet(tmp_path, seed=1, actor={"drain_seconds": 20.0}, **LONG) as fleet:
        amid_episodes(fleet)
        fleet._signal(number, "actor-0")
        assert fleet.ended("actor-0") == 0
        left = fleet.events("actor-0", "left")[-1]
        assert (left["spooled"], left["leases"]) == (0, 0)
        assert fleet.spool("actor-0") == set()
        fleet.start("actor-0")
        assert_it_goes_on_and_ends_well(fleet)


def test_a_second_signal_ends_the_process_at_once_amid_its_drain(tmp_path):
    with Fleet(tmp_path, seed=2, actor={"drain_seconds": 600.0}, light={"episode_seconds": 300.0}) as fleet:
        fleet.start()
        held = "SELECT lease_id FROM leases WHERE state = 'leased' AND actor = 'actor-0'"
        fleet.until(lambda: fleet.steps() == 0 and len(fleet.rows(held)) == 4, "all its leases")
        time.sleep(1.0)  # the grant arrives
        fleet._signal(signal.SIGTERM, "actor-0")
        fleet.until_logged("actor-0", "draining")
        fleet._signal(signal.SIGTERM, "actor-0")
        assert fleet.ended("actor-0") == 1
        assert fleet.events("actor-0", "ended_at_once")
        assert fleet.events("actor-0", "left") == []


def test_an_actor_whose_learner_is_away_finishes_what_it_holds_pauses_says_so_and_leaves_politely(tmp_path):
    with Fleet(tmp_path, seed=3, actors=("actor-0",)) as fleet:
        fleet.start()
        fleet.until_steps(1)
        fleet.kill("gateway")
        pause = fleet.until_logged("actor-0", "actor_pauses")
        spooled = fleet.spool("actor-0")
        assert "the learner, silent for" in pause["waiting_for"]
        assert f"{len(spooled)} trajectories in the spool" in pause["waiting_for"]
        fleet._signal(signal.SIGTERM, "actor-0")
        assert fleet.ended("actor-0") == 0
        assert fleet.spool("actor-0") == spooled
        assert len(fleet.events("actor-0", "actor_pauses")) == 1
        fleet.start("gateway", "actor-0")
        assert_it_goes_on_and_ends_well(fleet)
        assert spooled <= {ack["trajectory"] for ack in fleet.seen("actor-0", "ack")}
