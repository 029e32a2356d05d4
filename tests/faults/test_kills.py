"""Processes killed with SIGKILL at random instants: a run goes on by itself, and loses and repeats nothing."""

import random
import time

import pytest
from aftermath import assert_it_goes_on_and_ends_well
from fleet import Fleet

KILLS = [5, pytest.param(100, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]


def wait_for_instant(chance, fleet):
    """A drawn moment: amid the start of what was killed before, or some steps into the run that follows."""
    if chance.random() < 0.3:
        time.sleep(chance.uniform(0.0, 1.0))
        return
    fleet.until_steps(chance.choice([1, 1, 2]))
    time.sleep(chance.uniform(0.0, 0.2))


def kill_again_and_again(fleet, chance, choices, kills):
    for number in range(kills):
        wait_for_instant(chance, fleet)
        victims = chance.choice(choices)
        print(f"kill {number + 1}: {' '.join(victims)} at step {fleet.steps()}")
        fleet.kill(*victims)
        fleet.start(*victims)


@pytest.mark.parametrize("kills", KILLS)
@pytest.mark.parametrize(
    ("seed", "choices"),
    [
        (1, [("gateway",)]),
        (2, [("trainer",)]),
        (3, [("actor-0",), ("actor-1",), ("actor-0", "actor-1")]),
        (
            4,
            [("gateway", "trainer"), ("gateway", "actor-0"), ("trainer", "actor-1"), ("gateway", "trainer", "actor-0")],
        ),
    ],
    ids=["gateway", "trainer", "actors", "several-at-once"],
)
def test_a_run_goes_on_after_kills(tmp_path, seed, choices, kills):
    chance = random.Random(seed)
    print(f"seed {seed}")
    with Fleet(tmp_path, seed=seed) as fleet:
        fleet.start()
        kill_again_and_again(fleet, chance, choices, kills)
        assert_it_goes_on_and_ends_well(fleet)


@pytest.mark.parametrize("kills", KILLS)
def test_a_run_goes_on_when_its_whole_learner_is_killed(tmp_path, kills):
    """`loop learner`: its children notice and end by themselves, the next one waits for that and goes on."""
    chance = random.Random(5)
    print("seed 5")
    with Fleet(tmp_path, seed=5) as fleet:
        fleet.start("learner", *fleet.actors)
        kill_again_and_again(fleet, chance, [("learner",), ("learner", "actor-0")], kills)
        assert_it_goes_on_and_ends_well(fleet)


def test_a_learner_killed_while_its_children_start_leaves_none_of_them(tmp_path):
    """They look for their parent when they have begun to work; it is gone by then."""
    with Fleet(tmp_path, seed=6) as fleet:
        fleet.start("learner")
        fleet.until_logged("learner", "process_started", count=2)
        fleet.kill("learner")
        fleet.until_unlocked()
        fleet.start("learner", *fleet.actors)
        assert_it_goes_on_and_ends_well(fleet)
