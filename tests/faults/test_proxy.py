"""The two real ends with a proxy of ours between them: what it does to bytes, or to messages, costs time alone.

`pytest -m slow tests/faults/test_proxy.py` does a hundred of each instead of some.
"""

from __future__ import annotations

import json
from contextlib import ExitStack

import pytest
from aftermath import assert_it_goes_on_and_ends_well
from fleet import Fleet
from proxy import Meddler, TcpProxy

MANY = pytest.param(2, 100, marks=[pytest.mark.slow, pytest.mark.timeout(3600)], id="many")
LONG = 40.0  # seconds for a fault, its back-off of 32 s included
FAULTS = ("twice", "late", "short", "flip", "long")


def fleet_behind(proxies, running, folder, make, seed):
    """A fleet whose actor reaches each port of the gateway through a proxy that `make(port, seed)` gives."""
    connect = {"actor-0": {"host": "127.0.0.1"}}
    fleet = running.enter_context(
        Fleet(folder, actors=("actor-0",), seed=seed, rollout={"lease_seconds": 2.0}, connect=connect)
    )
    fleet.start("gateway", "trainer")
    fleet.until((fleet.run / "gateway.json").exists, "the gateway to listen")
    where = json.loads((fleet.run / "gateway.json").read_text())
    for name in ("port", "files_port"):
        proxies[name] = running.enter_context(make(where[name], seed))
        connect["actor-0"][name] = proxies[name].port
    fleet.start("actor-0")
    fleet.until_steps(1)
    return fleet


def quarantined(fleet):
    return sum(entry["so_far"] for entry in fleet.events("gateway", "frame_unreadable"))


@pytest.mark.parametrize(("seed", "times"), [pytest.param(1, 3, id="some"), MANY])
def test_bytes_that_come_late_or_never_or_changed_make_dead_connections_and_never_a_wrong_message(
    tmp_path, seed, times
):
    proxies = {}
    with ExitStack() as running:
        fleet = fleet_behind(proxies, running, tmp_path, TcpProxy, seed)
        for fault in ("late", "cut", "short", "flip"):
            for proxy in proxies.values():
                proxy.fault = fault
            messages = proxies["port"]
            enough = f"{times} times {fault}"
            fleet.until(lambda: messages.done[fault] >= times, enough, LONG * times)  # noqa: B023 - awaited here
            for proxy in proxies.values():
                proxy.fault = ""
            fleet.until_steps(1)
        files = proxies["files_port"]
        files.fault = "late"  # of the next version, whatever became of those before
        fleet.until(lambda: files.done["late"] > 0, "a version that comes late", LONG)
        files.fault = ""
        assert_it_goes_on_and_ends_well(fleet)
        assert fleet.events("gateway", "frame_unreadable") == []
        assert fleet.events("actor-0", "unreadable_frame") == []
        assert len(fleet.events("actor-0", "closed")) == 1, "it was never started again"


@pytest.mark.parametrize(("seed", "times"), [pytest.param(1, 3, id="some"), MANY])
def test_messages_that_come_twice_or_late_or_spoiled_are_known_again_or_said_again(tmp_path, seed, times):
    proxies = {}

    def make(port, seed):
        return Meddler(tmp_path / "keys", "actor-0", port, FAULTS, seed)

    with ExitStack() as running:
        fleet = fleet_behind(proxies, running, tmp_path, make, seed)
        for proxy in proxies.values():
            proxy.fault = "in turn"
        both = [f"{fault} {way}" for fault in FAULTS for way in ("up", "down")]
        done = proxies["port"].done
        fleet.until(lambda: all(done[fault] >= times for fault in both), f"{times} times each of {both}", LONG * times)
        fleet.until_steps(1)
        for proxy in proxies.values():
            proxy.fault = ""
        assert_it_goes_on_and_ends_well(fleet)
        assert fleet.events("gateway", "frame_unreadable")
        assert fleet.events("actor-0", "unreadable_frame")
        assert fleet.events("actor-0", "said_again")
        assert len(fleet.events("actor-0", "closed")) == 1, "it was never started again"


@pytest.mark.parametrize(("seed", "times"), [pytest.param(1, 2, id="some"), MANY])
def test_a_message_above_the_limit_ends_its_connection_and_nothing_else(tmp_path, seed, times):
    proxies = {}

    def make(port, seed):
        return Meddler(tmp_path / "keys", "actor-0", port, ["huge"], seed)

    with ExitStack() as running:
        fleet = fleet_behind(proxies, running, tmp_path, make, seed)
        proxies["port"].fault = "huge"
        done = proxies["port"].done
        enough = f"{times} huge messages each way"
        fleet.until(lambda: min(done["huge up"], done["huge down"]) >= times, enough, LONG * times)
        proxies["port"].fault = ""
        assert_it_goes_on_and_ends_well(fleet)
        assert fleet.events("actor-0", "request_repeated")
        assert len(fleet.events("actor-0", "closed")) == 1, "it was never started again"
