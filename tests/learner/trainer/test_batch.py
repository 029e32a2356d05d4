import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from trainer_building import make_trajectory, random_trajectory

from learner.trainer.advantage import Scored
from learner.trainer.batch import batches, make_batch, make_micro_batch, pack, used_tokens
from learner.trainer.config import BatchConfig


def make_scored(count, seed=0):
    rng = np.random.default_rng(seed)
    return [
        Scored(random_trajectory(rng, f"g1.{k}.0", length=int(rng.integers(5, 80)), version=k), float(k) - 1.5)
        for k in range(count)
    ]


def test_two_trajectories_lie_end_to_end_up_to_their_last_sampled_token():
    first = make_trajectory("g1.0.0", turns=((2, 4), (6, 7)), log_probs=(-0.1, -0.2, -0.3), version=[3, 3, 4])
    second = make_trajectory("g1.1.0", tokens=(11, 12, 13), turns=((1, 2),), log_probs=(-0.4,), version=5)
    micro = make_micro_batch([Scored(first, 0.5), Scored(second, -1.0)])
    assert micro.tokens.tolist() == [1, 2, 3, 4, 5, 6, 11]
    assert micro.positions.tolist() == [0, 1, 2, 3, 4, 5, 0]
    assert micro.lengths == (6, 1)
    assert micro.predicting.tolist() == [1, 2, 5, 6]
    assert micro.targets.tolist() == [3, 4, 7, 12]
    torch.testing.assert_close(micro.behaviour, torch.tensor([-0.1, -0.2, -0.3, -0.4]))
    assert micro.advantages.tolist() == [0.5, 0.5, 0.5, -1.0]
    assert micro.turns.tolist() == [0, 0, 1, 2]
    assert micro.trajectories.tolist() == [0, 0, 0, 1]
    assert micro.versions.tolist() == [3, 3, 4, 5]


def test_each_context_of_a_trajectory_is_a_sequence_of_its_own_and_all_are_one_trajectory():
    tokens = [1, 2, 3, 4, 5, 9, *(1, 2, 3, 9, 7, 8, 6, 5)]
    long = make_trajectory("g1.0.0", tokens=tokens, turns=((2, 4), (11, 13)), repeats=((6, 10),), version=[3, 3, 4, 4])
    short = make_trajectory("g1.1.0", tokens=(11, 12, 13), turns=((1, 3),), version=5)
    micro = make_micro_batch([Scored(long, 0.5), Scored(short, -1.0)])
    assert micro.lengths == (3, 6, 2)
    assert micro.tokens.tolist() == [1, 2, 3, 1, 2, 3, 9, 7, 8, 11, 12]
    assert micro.positions.tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 5, 0, 1]
    assert micro.targets.tolist() == [3, 4, 8, 6, 12, 13]
    assert micro.predicting.tolist() == [1, 2, 7, 8, 9, 10]
    assert micro.turns.tolist() == [0, 0, 1, 1, 2, 2]
    assert micro.trajectories.tolist() == [0, 0, 0, 0, 1, 1]
    assert micro.versions.tolist() == [3, 3, 4, 4, 5, 5]
    assert [used_tokens(Scored(one, 1.0)) for one in (long, short)] == [9, 2]
    assert make_batch([Scored(long, 0.5), Scored(short, -1.0)], 8).totals.trajectories == 2


def test_an_empty_turn_gets_no_number():
    micro = make_micro_batch([Scored(make_trajectory(turns=((2, 4), (4, 4), (6, 7))), 1.0)])
    assert micro.turns.tolist() == [0, 0, 1]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 60))
def test_packing_places_each_once_and_keeps_to_the_budget(lengths, budget):
    bins = pack(lengths, budget)
    assert sorted(index for own in bins for index in own) == list(range(len(lengths)))
    for own in bins:
        assert sum(lengths[i] for i in own) <= budget or len(own) == 1
    # first fit: no two bins could have been one
    sums = sorted(sum(lengths[i] for i in own) for own in bins)
    assert len(sums) < 2 or sums[0] + sums[1] > budget


@pytest.mark.parametrize("budget", [1, 64, 200, 10**6])
def test_totals_do_not_depend_on_the_budget(budget):
    scored = make_scored(9)
    batch = make_batch(scored, budget)
    assert batch.totals.trajectories == 9
    assert batch.totals.tokens == sum(int(one.trajectory.sampled.sum()) for one in scored)
    assert batch.totals.turns == sum(len(one.trajectory.turns) for one in scored)
    assert batch.forward_tokens == sum(int(np.flatnonzero(one.trajectory.sampled)[-1]) for one in scored)


def advantages_of(batch):
    return sorted({float(a) for micro in batch.micro_batches for a in micro.advantages})


def test_each_epoch_sees_each_trajectory_once_in_an_order_of_its_own():
    scored = make_scored(10)
    made = list(batches(scored, BatchConfig(epochs=2, minibatch=4), (1, 7)))
    assert [batch.totals.trajectories for batch in made] == [4, 4, 2, 4, 4, 2]
    epochs = [[a for batch in made[i : i + 3] for a in advantages_of(batch)] for i in (0, 3)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == [one.advantage for one in scored]
    assert epochs[0] != epochs[1]


def test_the_order_follows_from_the_seed_alone():
    config = BatchConfig(minibatch=3)
    orders = [[advantages_of(b) for b in batches(make_scored(10), config, seed)] for seed in ((1, 7), (1, 7), (1, 8))]
    assert orders[0] == orders[1] != orders[2]
