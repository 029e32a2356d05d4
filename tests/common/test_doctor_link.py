"""Keys with their modes, and ports: what the doctor says of them as they are planted."""

from __future__ import annotations

import json
import os
import socket

import pytest

from common.config import LinkConfig
from common.doctor_link import key_folder, own_key, port
from common.keys import fingerprint, new_keys


def taken():
    """A listening socket, and its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    return listener, listener.getsockname()[1]


def free_port():
    listener, number = taken()
    listener.close()
    return number


def test_whole_keys_are_told_by_their_fingerprints(keys):
    link = LinkConfig(keys=keys)
    public = (keys / "learner.public").read_bytes().strip()
    for name in ("learner", "actor-0"):
        found = own_key(link, name, wanted=True)
        assert found.state == "ok"
        assert fingerprint(public) in found.text
    assert key_folder(link).state == "ok"


@pytest.mark.parametrize(("wanted", "state"), [(True, "error"), (False, "warning")])
@pytest.mark.parametrize("name", ["learner", "actor-7"])
def test_a_key_that_lacks_is_an_error_once_there_is_a_run(keys, name, wanted, state):
    (keys / "learner.secret").unlink()
    found = own_key(LinkConfig(keys=keys), name, wanted=wanted)
    assert found.state == state
    assert f"loop keys new {name}" in found.remedy


@pytest.mark.parametrize("mode", [0o640, 0o604])
@pytest.mark.parametrize("name", ["learner", "actor-0"])
def test_a_secret_that_others_may_read_is_an_error_with_the_command_that_mends_it(keys, name, mode):
    (keys / f"{name}.secret").chmod(mode)
    link = LinkConfig(keys=keys)
    assert own_key(link, name, wanted=False).state == "error"
    found = key_folder(link)
    assert (found.state, found.remedy) == ("error", f"chmod 600 {keys / name}.secret")


def test_a_broken_secret_is_an_error(keys):
    (keys / "actor-0.secret").write_text("no key")
    found = own_key(LinkConfig(keys=keys), "actor-0", wanted=False)
    assert found.state == "error"
    assert "holds no CURVE key" in found.text


def test_an_actor_without_the_learners_public_key_is_told_to_copy_it(keys):
    (keys / "learner.public").unlink()
    found = own_key(LinkConfig(keys=keys), "actor-0", wanted=True)
    assert (found.state, found.remedy) == ("error", "copy it from the learner's machine")


@pytest.mark.parametrize("folder", ["", "actors"])
def test_a_folder_where_others_may_list_keys_is_an_error(keys, folder):
    (keys / folder).chmod(0o775)
    found = key_folder(LinkConfig(keys=keys))
    assert (found.state, found.remedy) == ("error", f"chmod go-w {keys / folder}")


def test_a_learner_that_lists_nobody_is_warned(tmp_path):
    new_keys(tmp_path, "learner")
    assert own_key(LinkConfig(keys=tmp_path), "learner", wanted=True).state == "warning"


def test_a_list_with_one_key_twice_is_an_error(keys):
    (keys / "actors" / "actor-1.public").write_bytes((keys / "actors" / "actor-0.public").read_bytes())
    assert own_key(LinkConfig(keys=keys), "learner", wanted=True).state == "error"


def test_an_insecure_link_is_a_warning():
    assert own_key(LinkConfig(insecure=True), "learner", wanted=True).state == "warning"


def test_a_free_port_is_fine_and_so_is_one_that_the_learner_chooses(tmp_path):
    number = free_port()
    assert port(LinkConfig(port=number), number, "link.port", tmp_path).state == "ok"
    assert port(LinkConfig(port=0), 0, "link.port", tmp_path).state == "ok"


def test_a_port_in_use_is_an_error(tmp_path):
    listener, number = taken()
    with listener:
        found = port(LinkConfig(port=number), number, "link.port", tmp_path)
    assert (found.state, found.text) == ("error", f"127.0.0.1:{number}: another process listens there")
    assert "--link.port" in found.remedy


def test_a_port_that_this_runs_living_learner_listens_at_is_no_error(tmp_path):
    listener, number = taken()
    with listener:
        for pid, state in ((os.getpid(), "ok"), (2**22 + 1, "error")):  # above the kernel's largest
            (tmp_path / "gateway.json").write_text(json.dumps({"port": number, "files_port": 1, "pid": pid}))
            assert port(LinkConfig(port=number), number, "link.port", tmp_path).state == state


def test_an_address_of_another_machine_cannot_be_listened_at(tmp_path):
    found = port(LinkConfig(host="192.0.2.1", port=7777), 7777, "link.port", tmp_path)
    assert (found.state, found.text) == ("error", "192.0.2.1 is not an address of this machine")


def test_both_ports_cannot_be_one(tmp_path):
    assert port(LinkConfig(port=7777, files_port=7777), 7777, "link.port", tmp_path).state == "error"
