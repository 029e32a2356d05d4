"""How many episodes run at a time follows what the engine tells of its KV cache."""

from hypothesis import given
from hypothesis import strategies as st

from actor.concurrency import KEPT, Concurrency, Load

LOADS = st.builds(
    Load,
    usage=st.floats(0.0, 1.0),
    waiting=st.integers(0, 5),
    preempted=st.integers(0, 3),
    finished=st.integers(0, 50),
)
BOUNDS = st.integers(1, 40).flatmap(lambda least: st.tuples(st.just(least), st.integers(least, least + 60)))


@given(bounds=BOUNDS, steps=st.lists(st.tuples(LOADS, st.integers(0, 120))))
def test_the_bounds_are_never_left(bounds, steps):
    least, most = bounds
    concurrency = Concurrency(least, most, full=0.9)
    for load, running in steps:
        assert least <= concurrency.observe(load, running) <= most


@given(limit=st.integers(2, 100), steps=st.lists(LOADS, max_size=30))
def test_equal_bounds_fix_it(limit, steps):
    concurrency = Concurrency(limit, limit, full=0.9)
    assert {concurrency.observe(load, limit) for load in steps} <= {limit}


@given(most=st.integers(2, 500), load=st.sampled_from([Load(0.2, preempted=1), Load(0.96), Load(0.96, waiting=4)]))
def test_it_backs_off_on_a_preemption_and_on_a_full_cache(most, load):
    concurrency = Concurrency(1, most, full=0.95)
    assert concurrency.observe(load, running=most) == max(1, min(most - 1, int(most * KEPT)))


def test_it_backs_off_once_for_one_cause():
    """Until the episodes have come down to the limit, the decrease before has not taken effect."""
    concurrency = Concurrency(1, 100, full=0.95)
    assert concurrency.observe(Load(0.99, preempted=1), running=100) == 75
    assert [concurrency.observe(Load(0.99, preempted=1), running=count) for count in (100, 90, 76)] == [75, 75, 75]
    assert concurrency.observe(Load(0.99), running=75) == 56


@given(most=st.integers(2, 60))
def test_it_grows_by_one_for_as_many_turns_as_there_are_episodes(most):
    concurrency = Concurrency(1, most, full=0.95)
    while concurrency.limit > 1:
        concurrency.observe(Load(1.0), running=concurrency.limit)
    turns = 0
    while concurrency.limit < most:
        concurrency.observe(Load(0.5, finished=1), running=concurrency.limit)
        turns += 1
    assert turns == most * (most - 1) // 2  # 1 + 2 + ... + (most - 1)


def test_it_does_not_grow_where_episodes_are_what_is_missing():
    concurrency = Concurrency(1, 8, full=0.95)
    concurrency.observe(Load(1.0), running=8)
    assert concurrency.observe(Load(0.1, finished=1000), running=5) == 6
    assert concurrency.observe(Load(0.1, finished=1), running=6) == 7


def test_it_does_not_grow_while_requests_wait():
    concurrency = Concurrency(1, 8, full=0.95)
    concurrency.observe(Load(1.0), running=8)
    assert concurrency.observe(Load(0.5, waiting=2, finished=50), running=6) == 6


@given(capacity=st.integers(3, 40), most=st.integers(41, 80))
def test_it_settles_where_the_cache_is_just_not_too_full(capacity, most):
    """Of a cache that holds so many episodes, each a part of it: never far above, and not far below."""
    concurrency = Concurrency(1, most, full=0.95)
    found = []
    for _ in range(3000):
        running = concurrency.limit
        load = Load(min(1.0, running / capacity), preempted=int(running > capacity), finished=running)
        found.append(concurrency.observe(load, running))
    assert max(found[1000:]) <= capacity + 1
    assert sum(found[1000:]) / 2000 >= 0.6 * min(capacity, most) - 1
