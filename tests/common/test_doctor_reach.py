"""Why a learner is not reached: nobody there, another program, another learner's key, a key that is not listed."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import threading

import pytest
from link_ends import learner, welcoming

from common import doctor_reach
from common.config import LinkConfig
from common.doctor_reach import reach
from common.keys import new_keys


def reached(keys, link_keys=None, *, name="actor-0", insecure=False):
    """What an actor's doctor finds at a learner with these keys, when it has those."""

    async def scenario():
        async with learner(keys, welcoming) as there:
            link = LinkConfig(port=there.port, keys=link_keys or keys, insecure=insecure)
            found = await asyncio.to_thread(reach, link, there.port, name, wanted=True)
            return found, there.heard

    return asyncio.run(asyncio.wait_for(scenario(), 30))


def test_a_learner_that_lists_this_key_is_reached_and_hears_nothing(keys):
    found, heard = reached(keys)
    assert (found.state, heard) == ("ok", [])
    assert found.text.endswith("answers, and takes the key of actor-0")


def test_a_key_that_is_not_listed_is_told_by_its_fingerprint(keys, tmp_path):
    shutil.copytree(keys, tmp_path / "there")
    new_keys(keys, "actor-9")
    found, _ = reached(tmp_path / "there", keys, name="actor-9")
    assert found.state == "error"
    assert "does not list this actor's key" in found.text


def test_another_learners_public_key_is_told_apart(keys, tmp_path):
    shutil.copytree(keys, tmp_path / "here")
    (tmp_path / "here" / "learner.public").write_bytes(new_keys(tmp_path / "other", "learner").public)
    found, _ = reached(keys, tmp_path / "here")
    assert found.state == "error"
    assert "a learner, but not that of" in found.text
    assert "learner.public" in found.remedy


def test_an_insecure_actor_at_a_learner_with_keys_is_told_so(keys):
    found, _ = reached(keys, insecure=True)
    assert (found.state, found.remedy) == ("error", "start both sides with --insecure, or neither")


def test_without_a_key_of_its_own_the_line_points_to_that(keys):
    found, _ = reached(keys, name="actor-5")
    assert found.state == "error"
    assert "actor-5's key" in found.remedy


@pytest.mark.parametrize(("wanted", "state"), [(True, "error"), (False, "warning")])
def test_nobody_there_is_told_with_what_to_start(keys, wanted, state):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number = listener.getsockname()[1]
    found = reach(LinkConfig(port=number, keys=keys), number, "actor-0", wanted=wanted)
    assert found.state == state
    assert found.text.startswith(f"nobody listens at 127.0.0.1:{number}")


@contextlib.contextmanager
def saying(words):
    """A server that says these words to whoever connects, and hangs up once it heard something."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        with contextlib.suppress(OSError):
            while True:
                there, _ = listener.accept()
                with there, contextlib.suppress(OSError):
                    there.sendall(words)
                    there.recv(64)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def test_another_program_at_that_port_is_no_learner(keys, monkeypatch):
    monkeypatch.setattr(doctor_reach, "REACH_SECONDS", 0.5)
    with saying(b"HTTP/1.1 400 Bad Request\r\n\r\n" + b" " * 64) as number:
        found = reach(LinkConfig(port=number, keys=keys), number, "actor-0", wanted=True)
    assert found.state == "error"
    assert "something listens there that is no learner" in found.text


def test_a_firewall_that_swallows_is_told_apart_from_nobody_there(keys, monkeypatch):
    def swallowed(*_):
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", swallowed)
    found = reach(LinkConfig(keys=keys), 7777, "actor-0", wanted=True)
    assert (found.state, "firewalls" in found.remedy) == ("error", True)


def test_a_name_that_nobody_knows_is_an_error(keys, monkeypatch):
    def unknown(*_):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "create_connection", unknown)
    found = reach(LinkConfig(host="learner.invalid", keys=keys), 7777, "actor-0", wanted=True)
    assert (found.state, found.text) == ("error", "learner.invalid: Name or service not known")


def test_an_actor_must_know_the_port(keys):
    assert reach(LinkConfig(keys=keys), 0, "actor-0", wanted=True).state == "error"
