"""A long run with a reload at every step: probes, books, memory. An hour: `pytest -m slow tests/system/test_soak.py`.

SOAK_MINUTES sets another length, SOAK_SUMMARY a file for the figures of every minute (else `soak.json` in the run).
"""

import json
import os
from pathlib import Path

import pytest
from system.footprint import Series, grows
from system.soaking import Soak

MINUTES = float(os.environ.get("SOAK_MINUTES", "60"))
TOLERANCE = 1e-3  # nats, of actor.reload.probe_tolerance
LONGEST_PREPARATION = 1200  # seconds


def series_of(*values):
    made = Series()
    for minute, value in enumerate(values):
        made.add(minute, value)
    return made


def test_a_warm_up_and_noise_are_no_growth_but_a_slow_leak_is():
    assert not grows(series_of(100, 300, 500, *[600 + number % 7 for number in range(57)]))
    assert grows(series_of(100, 300, 500, *[600 + number for number in range(57)]))
    assert not grows(series_of(*[600] * 59, 6000))  # one look is no growth


def test_a_count_that_goes_back_to_what_it_was_is_no_growth():
    assert not grows(series_of(*[40, 60] * 30), slack=4)
    assert grows(series_of(*range(40, 70)), slack=4)


@pytest.mark.slow
@pytest.mark.timeout(MINUTES * 60 + LONGEST_PREPARATION)
def test_a_long_run_reloads_at_every_step_and_holds_no_more_at_its_end(tmp_path, world_root, small_policy):
    summary = Path(os.environ.get("SOAK_SUMMARY", tmp_path / "soak.json"))
    with Soak(tmp_path / "run", small_policy, world_root) as soak:
        soak.until_steps(1)
        soak.watch(MINUTES)
        # an hour's figures are not lost to an end that goes wrong
        summary.write_text(json.dumps(soak.summary(None), indent=1), encoding="utf-8")
        ending = soak.leave()
    found = soak.summary(ending)
    summary.write_text(json.dumps(found, indent=1), encoding="utf-8")
    print({name: value for name, value in found.items() if name not in ("by_minute", "books", "growth")}, summary)

    assert found["refused"] == 0
    assert found["largest_probe_difference"] < TOLERANCE
    # a version that is replaced while it is fetched is passed over
    assert found["reloads"] >= 0.95 * found["steps"] > 0
    assert found["books_balanced"] == found["books_read"] >= 10
    assert ending["exit_codes"] == {"actor": 0, "learner": 0}
    assert ending["books"]["balanced"] is True
    assert found["growing"] == []
