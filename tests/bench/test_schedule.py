"""The simulation of schedules: its books, its bound on lag, that it repeats itself, and how its engine is shared."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from simulated_engines import Engine, Speed, Workload
from simulated_schedule import Schedule, simulated
from virtual_time import virtual_time


def small(*, bound: int = 1, seed: int = 1, share: float = 0.9, engines: int = 3) -> Schedule:
    return Schedule(
        engines=engines,
        staleness_bound=bound,
        straggler_share=share,
        groups_per_step=6,
        group_size=6,
        train_seconds=40.0,
        steps=5,
        warm_up=2,
        speed=Speed(slots=6),
        workload=Workload(seed=seed, turns_median=5.0),
    )


def story(run):
    """All that a run is compared by, to the last bit."""
    return run.steps, run.ledger.states, run.ledger.lengths, run.ledger.cut


@pytest.mark.parametrize("bound", [0, 1, 3])
def test_no_lag_is_above_the_bound_and_every_lease_is_accounted_for(bound):
    run = simulated(small(bound=bound))
    oldest = sum((step.trajectories_by_lag for step in run.steps), Counter())
    assert max(oldest) == min(bound, 2), "a bound that is never reached shows nothing"
    assert max(sum((step.tokens_by_lag for step in run.steps), Counter())) <= bound
    states = Counter(state for state, _ in run.ledger.states.values())
    live = [record for group in run.book.groups for member in group.members for record in member.leases]
    assert states["trained"] == sum(step.trajectories for step in run.steps) == oldest.total()
    assert states["leased"] == run.book.leased() <= 3 * 6
    assert states["leased"] + states["received"] == sum(record.state in ("leased", "received") for record in live)
    assert states.total() == sum(states[one] for one in ("trained", "dropped", "leased", "received"))
    assert {reason for state, reason in run.ledger.states.values() if state == "dropped"} <= {"straggler", "stale"}


def test_a_seed_gives_the_same_run_to_the_last_bit_and_another_seed_another():
    first, again, other = (simulated(small(seed=seed)) for seed in (7, 7, 8))
    assert story(first) == story(again)
    assert story(first) != story(other)


def test_with_no_bound_on_what_is_out_the_slots_are_never_empty():
    run = simulated(small().engines_alone)
    begin, end = run.steps[0], run.steps[-1]
    assert end.slot_seconds - begin.slot_seconds == pytest.approx((end.at - begin.at) * 3 * 6, rel=0.01)


def test_a_synchronous_run_makes_its_steps_one_after_the_other_and_an_asynchronous_one_is_faster():
    synchronous, asynchronous = (simulated(small(bound=bound)) for bound in (0, 2))
    assert all(step.waited > 0 for step in synchronous.steps)
    assert asynchronous.steps[-1].at < synchronous.steps[-1].at


def test_an_engine_shares_its_speed_evenly_and_a_swap_splits_a_turn_by_version():
    speed = Speed(step_seconds=0.01, sequence_seconds=0.01)
    told = []
    with virtual_time() as loop:

        async def play():
            engine, began = Engine(speed, version=3), loop.time()
            for tokens in (100, 150):
                engine.decode(tokens, 0, lambda versions: told.append((loop.time() - began, versions)))
            await asyncio.sleep(1.5)  # 50 tokens each, at 0.03 s a token
            await engine.swap(4, pause=2.0)
            await asyncio.sleep(10.0)
            return engine.sampled_by_now()

        assert loop.run_until_complete(play()) == pytest.approx(250)
    (first, of_first), (second, of_second) = told
    assert (first, second) == (pytest.approx(1.5 + 2.0 + 1.5), pytest.approx(5.0 + 50 * 0.02))
    assert of_first == {3: pytest.approx(50), 4: pytest.approx(50)}
    assert of_second == {3: pytest.approx(50), 4: pytest.approx(100)}
