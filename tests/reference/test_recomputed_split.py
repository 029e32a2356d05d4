"""The split's fast figures against their slow twin."""

import numpy as np
import pytest
import recomputed_split as slow
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.trainer.mismatch import TokenSplit

finite = st.floats(-8, 0, width=32)
token = st.tuples(finite, st.none() | finite, finite, st.integers(0, 3), st.integers(0, 4))


def flat(figures, prefix=""):
    """Nested figures as one dict, which pytest.approx can compare."""
    made = {}
    for name, value in figures.items():
        made |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return made


def as_arrays(tokens):
    current, retained, behaviour, lag, trajectory = zip(*tokens, strict=True)
    known = [np.nan if value is None else value for value in retained]
    return TokenSplit(
        current=np.array(current, np.float32),
        retained=np.array(known, np.float32),
        behaviour=np.array(behaviour, np.float32),
        lag=np.array(lag),
        trajectory=np.array(trajectory),
    )


@settings(max_examples=100, deadline=None)
@given(st.lists(token, min_size=1, max_size=40))
def test_the_split_is_the_twins(tokens):
    made = flat(as_arrays(tokens).summary())
    assert made == pytest.approx(flat(slow.split(tokens)), rel=1e-9, abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.lists(token.filter(lambda one: one[1] is not None), min_size=1, max_size=40))
def test_both_parts_add_up_to_the_k1_of_policy_against_engine(tokens):
    made = as_arrays(tokens).summary()
    k1 = np.mean([log_mu - log_pi for log_pi, _, log_mu, _, _ in tokens])
    assert made["mismatch"]["k1"] + made["staleness"]["k1"] == pytest.approx(k1, abs=1e-12)


def test_two_tokens_by_hand():
    """Mismatch 0.5 and -0.25, staleness 0 and 1."""
    made = as_arrays([(-1.0, -1.0, -1.5, 0, 0), (-1.0, -2.0, -1.75, 2, 1)]).summary()
    assert made["mismatch"]["mean"] == 0.375
    assert made["mismatch"]["max"] == 0.5
    assert made["mismatch"]["k1"] == -0.125
    assert made["by_lag"]["0"]["staleness"] == {"mean": 0.0, "max": 0.0, "k1": 0.0, "k3": 0.0}
    assert made["by_lag"]["2"]["staleness"]["k3"] == pytest.approx(np.e - 2)
    assert (made["trajectories"], made["by_lag"]["2"]["trajectories"], made["unavailable"]) == (2, 1, 0)
