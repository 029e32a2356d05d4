from __future__ import annotations

import datetime as dt

import structlog

from common.last_errors import KEPT, NewErrors, last_errors, remember
from common.log import configure, get_logger


def logged(event: str, level: str = "warning", **fields: object) -> None:
    remember(None, level, {"event": event, "level": level, "process": "trainer", **fields})


def test_warnings_and_errors_are_kept_with_their_fields_and_nothing_else():
    new = NewErrors()
    logged("went_well", level="info")
    logged("half_well", timestamp="2026-01-02T03:04:05.000001Z", lease="g1.0.0", text="two\nlines")
    logged("broke", level="error", exception="Traceback ...")
    first, second = new.take(5)
    moment = dt.datetime(2026, 1, 2, 3, 4, 5, 1, tzinfo=dt.UTC)
    assert (first.at, first.level, first.source, first.event) == (moment.timestamp(), "warning", "trainer", "half_well")
    assert first.told == "lease: g1.0.0, text: two lines"
    assert (second.event, second.told) == ("broke", "")
    assert new.take(5) == ()


def test_of_too_many_the_newest_are_told():
    new = NewErrors()
    for number in range(KEPT + 5):
        logged(f"event_{number}", text="x" * 1000)
    assert [error.event for error in new.take(2)] == [f"event_{KEPT + 3}", f"event_{KEPT + 4}"]
    assert len(last_errors()) == KEPT
    assert {len(error.told) for error in last_errors()} == {300}


def test_what_the_log_says_is_kept(tmp_path):
    before = structlog.get_config()
    try:
        configure("gateway", file=tmp_path / "gateway.jsonl")
        new = NewErrors()
        get_logger("there").warning("lease_lapsed", lease="g1.0.0", actor="gpu-2")
        get_logger("there").info("all_well")
        (told,) = new.take(5)
        assert (told.source, told.event, told.told) == ("gateway", "lease_lapsed", "lease: g1.0.0, actor: gpu-2")
    finally:
        structlog.configure(**before)
