import math

import numpy as np
import pytest
import torch

from learner.trainer.diagnostics import TokenRecord, effective_share


def make_record(log_ratio, lag, *, clipped=None, **columns):
    record = TokenRecord()
    record.add(
        log_ratio=torch.tensor(log_ratio),
        lag=torch.tensor(lag),
        clipped=torch.tensor(clipped or [False] * len(log_ratio)),
        **{name: torch.tensor(values) for name, values in columns.items()},
    )
    return record


def test_figures_are_split_by_lag_and_in_total():
    log2 = math.log(2)
    made = make_record(
        [0.0, 0.0, log2, -log2], [0, 0, 3, 3], clipped=[False, False, True, False], entropy=[1.0, 2.0, 3.0, 4.0]
    ).summary()
    assert made["tokens"] == 4
    assert made["ratio_mean"] == pytest.approx(4.5 / 4)
    assert made["clip_share"] == 0.25
    assert made["entropy"] == 2.5
    assert set(made["by_lag"]) == {"0", "3"}
    on_policy = {"ratio_mean": 1.0, "ratio_max": 1.0, "clip_share": 0.0, "kl_k1": 0.0, "kl_k3": 0.0, "ess": 1.0}
    assert made["by_lag"]["0"] == {**on_policy, "tokens": 2, "entropy": 1.5}
    assert made["by_lag"]["3"]["kl_k3"] == pytest.approx((2 - 1 - log2 + 0.5 - 1 + log2) / 2)
    assert made["by_lag"]["3"]["ess"] == pytest.approx(2.5**2 / (2 * 4.25))


def test_weights_masks_and_the_distance_from_the_base_are_reported_where_they_are():
    log3 = math.log(3)
    made = make_record(
        [0.0] * 4,
        [0, 0, 1, 1],
        log_weight=[0.0, log3, 0.0, 0.0],
        rejected=[True, False, False, False],
        base_kl=[0.5] * 4,
    ).summary()
    assert (made["weight_mean"], made["weight_max"]) == pytest.approx((1.5, 3.0))
    assert (made["rejected_share"], made["base_kl"]) == (0.25, 0.5)
    assert made["by_lag"]["0"]["rejected_share"] == 0.5
    assert made["by_lag"]["1"]["weight_max"] == 1.0
    assert "weight_mean" not in make_record([0.0], [0]).summary()


def test_nothing_recorded_gives_no_figures():
    assert TokenRecord().summary() == {}


def test_the_effective_share_of_equal_ratios_is_one_and_of_a_single_huge_one_a_token():
    assert effective_share(np.full(5, 300.0)) == pytest.approx(1.0)
    assert effective_share(np.array([900.0, 0.0, 0.0, 0.0])) == pytest.approx(0.25)
