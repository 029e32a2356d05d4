"""Broken frames: all counted, the first kept, nothing that a flood could fill or slow."""

from __future__ import annotations

import json

from structlog.testing import capture_logs

from learner.gateway import quarantine
from learner.gateway.quarantine import Quarantine


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_broken_frame_is_kept_as_it_came_with_who_sent_it_and_what_was_wrong(tmp_path):
    kept = Quarantine(tmp_path / "quarantine", Clock())
    with capture_logs() as logs:
        kept.put("actor-0", b"\xc1 no message", "not a msgpack message")
    assert (tmp_path / "quarantine" / "000001-actor-0.frame").read_bytes() == b"\xc1 no message"
    facts = json.loads((tmp_path / "quarantine" / "000001-actor-0.json").read_text())
    assert {name: facts[name] for name in ("actor", "bytes", "reason")} == {
        "actor": "actor-0",
        "bytes": 12,
        "reason": "not a msgpack message",
    }
    assert [(entry["event"], entry["kept"]) for entry in logs] == [
        ("frame_unreadable", "quarantine/000001-actor-0.frame")
    ]


def test_of_a_flood_one_a_second_is_kept_and_all_are_counted(tmp_path):
    clock = Clock()
    kept = Quarantine(tmp_path / "quarantine", clock)
    for number in range(1000):
        clock.now = number / 250
        kept.put("actor-0", b"x", "bad")
    kept.put("actor-1", b"y", "bad")
    assert kept.by_actor == {"actor-0": 1000, "actor-1": 1}
    assert kept.count == 1001
    assert len(list((tmp_path / "quarantine").glob("*.frame"))) == 4 + 1


def test_what_is_kept_is_bounded_over_restarts_too(tmp_path, monkeypatch):
    monkeypatch.setattr(quarantine, "MOST_KEPT", 5)
    monkeypatch.setattr(quarantine, "MOST_BYTES", 10)
    for _ in range(3):
        again = Quarantine(tmp_path / "quarantine", Clock())
        for number in range(3):
            again.put(f"actor-{number}", b"x" * 100, "bad")
    files = sorted((tmp_path / "quarantine").glob("*.frame"))
    assert [file.name[:6] for file in files] == [f"{number:06d}" for number in range(1, 6)]
    assert {file.stat().st_size for file in files} == {10}


def test_a_folder_that_cannot_be_written_costs_the_copy_alone(tmp_path):
    (tmp_path / "quarantine").write_text("a file where the folder would be")
    kept = Quarantine(tmp_path / "quarantine", Clock())
    with capture_logs() as logs:
        kept.put("actor-0", b"x", "bad")
    assert kept.count == 1
    assert logs[0]["kept"].startswith("no: ")
