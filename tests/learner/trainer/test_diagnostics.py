import math

import numpy as np
import pytest

from learner.trainer.diagnostics import TokenRecord, effective_share


def make_record(log_ratio, lag, *, clipped=None, entropy=None):
    record = TokenRecord()
    record.log_ratio.append(np.asarray(log_ratio, np.float32))
    record.lag.append(np.asarray(lag))
    record.clipped.append(np.asarray(clipped if clipped is not None else [False] * len(log_ratio)))
    if entropy is not None:
        record.entropy.append(np.asarray(entropy, np.float32))
    return record


def test_figures_are_split_by_lag_and_in_total():
    log2 = math.log(2)
    made = make_record(
        [0.0, 0.0, log2, -log2], [0, 0, 3, 3], clipped=[False, False, True, False], entropy=[1, 2, 3, 4]
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


def test_nothing_recorded_gives_no_figures():
    assert TokenRecord().summary() == {}


def test_the_effective_share_of_equal_ratios_is_one_and_of_a_single_huge_one_a_token():
    assert effective_share(np.full(5, 300.0)) == pytest.approx(1.0)
    assert effective_share(np.array([900.0, 0.0, 0.0, 0.0])) == pytest.approx(0.25)
