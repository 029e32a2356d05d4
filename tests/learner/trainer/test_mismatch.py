import numpy as np
import pytest

from learner.trainer.mismatch import drawn, part_figures


def test_the_draw_follows_from_the_seed_and_the_step_alone():
    draws = [drawn(40, 0.1, seed) for seed in ((1, 7), (1, 7), (1, 8), (2, 7))]
    assert draws[0] == draws[1]
    assert draws[0] != draws[2] != draws[3] != draws[0]


@pytest.mark.parametrize(("count", "share", "size"), [(40, 0.1, 4), (41, 0.1, 5), (3, 0.01, 1), (3, 1.0, 3)])
def test_the_share_is_rounded_up_and_nothing_is_drawn_twice(count, share, size):
    made = drawn(count, share, (1, 1))
    assert len(made) == len(set(made)) == size
    assert set(made) <= set(range(count))


def test_a_huge_log_ratio_has_a_finite_figure():
    made = part_figures(np.array([5000.0, -5000.0]))
    assert all(np.isfinite(value) for value in made.values())
    assert made["max"] == 5000.0
