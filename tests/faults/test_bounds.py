"""A listed peer that means ill: the gateway stays within its bounds, names whom it cuts, and honest actors work on."""

import asyncio
import contextlib
import json
import os
import time
from pathlib import Path

import pytest
import zmq
from aftermath import assert_it_goes_on_and_ends_well
from fleet import Fleet
from gateway_builders import make_keys, make_run
from hostile import Hostile, listed, memory

from common.checkpoint import MANIFEST
from common.config import LinkConfig
from common.keys import actor_keys
from common.messages import FileRequest, LeaseRequest
from common.wire import encode
from learner.gateway.connections import IN_HAND
from learner.gateway.service import opened

PEER = MEMORY = 160 << 20


@pytest.fixture
def fleet(tmp_path):
    bounds = {"peer_megabytes": PEER >> 20, "memory_megabytes": MEMORY >> 20}
    with Fleet(tmp_path, actors=("actor-0",), link=bounds) as made:
        made.start()
        made.until_steps(1)
        yield made


def ports(fleet):
    where = json.loads((fleet.run / "gateway.json").read_text())
    return where["port"], where["files_port"]


def keep_sending(fleet, sockets, frames, *, until=lambda: False, seconds=60.0):
    """As fast as the sockets take it, until the gateway has said something, or for so long; how many were taken."""
    taken, deadline = 0, time.monotonic() + seconds
    while not until():
        if time.monotonic() > deadline:
            assert seconds < 60, fleet.tails()
            break
        for each in sockets:
            with contextlib.suppress(zmq.Again):
                each.send_multipart(frames, zmq.NOBLOCK, copy=False)
                taken += 1
        time.sleep(0.001)
    return taken


def was_cut(fleet, **fields):
    return any(fields.items() <= entry.items() for entry in fleet.events("gateway", "connection_cut"))


def figures(fleet):
    """The newest line `rollouts`."""
    lines = (fleet.run / "metrics.jsonl").read_text().splitlines(keepends=True)
    found = [json.loads(line) for line in lines if line.endswith("\n")]
    return next(entry for entry in reversed(found) if entry["event"] == "rollouts")


def assert_within_bounds(fleet, base):
    used = memory(fleet.pid("gateway"), "VmHWM") - base
    print(f"gateway's largest size above its own: {used >> 20} MiB")
    assert used < MEMORY + PEER + IN_HAND


@pytest.mark.parametrize(
    "frame_bytes",
    [1 << 20, pytest.param(64, marks=pytest.mark.slow), pytest.param(1, marks=pytest.mark.slow)],
    ids=["large-frames", "small-frames", "smallest-frames"],
)
def test_a_message_without_an_end_is_cut(fleet, frame_bytes):
    base = memory(fleet.pid("gateway"), "VmRSS")
    endless = [zmq.Frame(os.urandom(frame_bytes))] * ((400 << 20) // (frame_bytes + 100))
    with Hostile(ports(fleet)[0]) as hostile:
        mallory = hostile.dealer(listed(fleet.folder / "keys"))
        if frame_bytes < 1000:  # what takes long to make would be cut for silence
            mallory.send_multipart([b"1", b"a first word"])
        keep_sending(fleet, [mallory], [b"1", *endless], until=lambda: was_cut(fleet, port="actors"))
        fleet.until_steps(1)
        assert_within_bounds(fleet, base)
    cut = fleet.events("gateway", "connection_cut")[0]
    assert cut["actor"] == "mallory"
    assert "MiB wait here for it, allowed are 160" in cut["reason"]
    assert_it_goes_on_and_ends_well(fleet, steps=1)


def test_the_largest_messages_from_many_connections_stay_within_the_bounds(fleet):
    base = memory(fleet.pid("gateway"), "VmRSS")
    keys = listed(fleet.folder / "keys")
    body = zmq.Frame(os.urandom(60 << 20))
    with Hostile(ports(fleet)[0]) as hostile:
        sockets = [hostile.dealer(keys, reads=1) for _ in range(4)]
        keep_sending(fleet, sockets, [b"1", body], until=lambda: len(fleet.events("gateway", "frame_unreadable")) >= 3)
        fleet.until_steps(1)
        assert_within_bounds(fleet, base)
    assert fleet.events("gateway", "frame_unreadable")[0]["actor"] == "mallory"
    assert_it_goes_on_and_ends_well(fleet, steps=1)


def test_one_that_never_reads_its_answers_is_not_stored_for(fleet):
    base = memory(fleet.pid("gateway"), "VmRSS")
    keys = listed(fleet.folder / "keys")
    chunk = FileRequest(policy_version=fleet.steps(), name=MANIFEST, offset=0, length=512 << 10)
    with Hostile(ports(fleet)[0]) as at_actors, Hostile(ports(fleet)[1]) as at_files:
        for hostile, question in ((at_actors, LeaseRequest(count=1)), (at_files, chunk)):
            sockets = [hostile.dealer(keys, reads=1) for _ in range(4)]
            asked = 0
            while asked <= 100:  # who was cut rests before it is let in again
                asked += keep_sending(fleet, sockets, [b"n", encode(question)], seconds=3)
        fleet.until_steps(1)
        assert memory(fleet.pid("gateway"), "VmHWM") - base < PEER
    assert_it_goes_on_and_ends_well(fleet, steps=1)


def test_a_hundred_connections_of_one_name_leave_it_four(fleet):
    keys = listed(fleet.folder / "keys")
    with Hostile(ports(fleet)[0]) as hostile:
        sockets = [hostile.dealer(keys) for _ in range(100)]
        keep_sending(fleet, sockets, [b"1", b"no message"], until=lambda: was_cut(fleet, actor="mallory"))
        fleet.until_steps(1)
        fleet.until(lambda: figures(fleet)["connections_cut"] > 0, "cut connections in the figures")
        # its own four, handshakes that are refused at once, and those of the honest actor
        fleet.until(lambda: figures(fleet)["connections"] < 20, "few connections in the figures")
    cut = fleet.events("gateway", "connection_cut")[0]
    assert cut["reason"].startswith("4 connections to a port are an actor's limit")
    assert_it_goes_on_and_ends_well(fleet, steps=1)


def grown_while_flooded(sockets, frames, seconds):
    """How much larger this process becomes while the sockets send as fast as they can, bytes."""
    base = memory(os.getpid(), "VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM is counted anew
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for each in sockets:
            with contextlib.suppress(zmq.Again):
                each.send_multipart(frames, zmq.NOBLOCK, copy=False)
        time.sleep(0.001)
    return memory(os.getpid(), "VmHWM") - base


def test_a_gateway_that_waits_for_its_disk_is_not_filled_meanwhile(tmp_path):
    """Its event loop stands still for seconds, and one peer that is known sends over as many connections as it may."""
    keys = make_keys(tmp_path / "keys", "mallory")
    link = LinkConfig(port=0, files_port=0, keys=keys, peer_megabytes=PEER >> 20, memory_megabytes=MEMORY >> 20)
    sent = [zmq.Frame(b"1"), zmq.Frame(os.urandom(30 << 20))]

    async def check():
        async with opened(run, link) as gateway:
            serving = asyncio.create_task(gateway.serve())
            with Hostile(gateway._sockets.port) as hostile:
                sockets = [hostile.dealer(actor_keys(keys, "mallory")) for _ in range(4)]
                for each in sockets:
                    each.send_multipart([b"1", b"a first word"])
                while gateway.reception.quarantine.count < 4:  # noqa: ASYNC110 - nothing tells of it
                    await asyncio.sleep(0.01)
                most = grown_while_flooded(sockets, sent, 4.0)  # nothing is awaited: the event loop stands still
                assert gateway._guard.cuts > 0
                print(f"largest size above its own: {most >> 20} MiB")
                assert PEER / 2 < most < MEMORY + PEER + IN_HAND
            gateway.stop()
            await serving

    run = make_run(tmp_path)
    try:
        asyncio.run(asyncio.wait_for(check(), 60))
    finally:
        run.close()
