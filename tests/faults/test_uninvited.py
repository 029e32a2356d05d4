"""Whoever is not invited is not heard, is named in the log, and keeps nobody from work."""

import json
import time

import pytest
import zmq
from aftermath import assert_it_goes_on_and_ends_well
from fleet import Fleet
from hostile import GREETING, Hostile, listed

from common.keys import fingerprint
from common.messages import Goodbye
from common.wire import encode


@pytest.fixture
def fleet(tmp_path):
    with Fleet(tmp_path, actors=("actor-0",)) as made:
        made.start()
        made.until_steps(1)
        yield made


def where(fleet):
    return json.loads((fleet.run / "gateway.json").read_text())


def named(fleet):
    """All reasons of failed handshakes."""
    return " ".join(entry["reason"] for entry in fleet.events("gateway", "handshake_failed"))


@pytest.mark.parametrize("port", ["port", "files_port"])
def test_strangers_are_refused_and_named(fleet, port):
    keys = listed(fleet.folder / "keys")
    _, unlisted = zmq.curve_keypair()
    with Hostile(where(fleet)[port]) as hostile:
        strangers = [
            hostile.dealer(),
            hostile.dealer(plain=True),
            hostile.dealer(keys, own=unlisted),
            hostile.dealer(keys, server=zmq.curve_keypair()[0]),
        ]
        for stranger in strangers:
            stranger.send_multipart([b"1", encode(Goodbye(reason="stranger"))])
        mark = fingerprint(zmq.curve_public(unlisted))
        fleet.until_logged("gateway", "key_refused", fingerprint=mark)
        fleet.until(lambda: "copy the learner's again" in named(fleet), "word of another server's key")
        fleet.until(lambda: "CURVE" in named(fleet), "word of one that speaks no CURVE")
        fleet.until_steps(1)
        assert [stranger.poll(0) for stranger in strangers] == [0, 0, 0, 0], "a stranger was answered"
    assert fleet.events("gateway", "actor_left") == []
    assert_it_goes_on_and_ends_well(fleet, steps=1)


@pytest.mark.parametrize("half", [100, pytest.param(1500, marks=pytest.mark.slow)])
def test_half_open_connections_are_cut_and_actors_work_on(fleet, half):
    """One half never speaks, one stops in the midst of a greeting; garbage ends at once."""
    with Hostile(where(fleet)["port"]) as hostile:
        silent = [hostile.raw() for _ in range(half)] + [hostile.raw(GREETING) for _ in range(half)]
        garbage = [hostile.raw(b"GET / HTTP/1.1\r\n\r\n" * 100) for _ in range(50)]
        fleet.until_steps(2)
        for each in [*garbage, *silent]:
            each.settimeout(30)
            while _more(each):
                pass
    assert_it_goes_on_and_ends_well(fleet, steps=1)


def _more(connection):
    """Whether the other side says something more (its half of the greeting); False once it has ended."""
    try:
        return connection.recv(4096) != b""
    except ConnectionResetError:
        return False


def test_more_connections_than_the_limit_cost_strangers_and_no_actor(tmp_path):
    with Fleet(tmp_path, actors=("actor-0",), link={"connections": 16}) as fleet:
        fleet.start()
        fleet.until_steps(1)
        with Hostile(where(fleet)["port"]) as hostile:
            deadline = time.monotonic() + 3
            while time.monotonic() < deadline:
                hostile.raw(GREETING)
            cut = fleet.until_logged("gateway", "connection_cut")
            assert cut["reason"].startswith("16 connections are the limit: raise link.connections")
            fleet.until_steps(1)
        assert [entry for entry in fleet.events("gateway", "connection_cut") if entry["actor"]] == []
        assert_it_goes_on_and_ends_well(fleet, steps=1)


def test_a_run_without_keys_on_this_machine_works_and_both_sides_say_so_loudly(tmp_path):
    with Fleet(tmp_path, actors=("actor-0",), link={"insecure": True}) as fleet:
        fleet.start()
        fleet.until_steps(1)
        for name in ("gateway", "actor-0"):
            said = fleet.until_logged(name, "insecure_link")
            assert said["level"] == "warning"
            assert said["reason"].startswith("no encryption and no keys")
        assert_it_goes_on_and_ends_well(fleet, steps=1)
