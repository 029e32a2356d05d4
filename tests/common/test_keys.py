from __future__ import annotations

import json
import os
import struct

import pytest

from common import keys
from common.errors import UsageError
from common.keys import KeyList, NotReadNow, actor_keys, fingerprint, learner_keys, main, new_keys


def test_secrets_are_readable_by_their_owner_alone(tmp_path):
    new_keys(tmp_path, "learner")
    assert (tmp_path / "learner.secret").stat().st_mode & 0o777 == 0o600


def test_an_actor_needs_its_own_secret_and_the_learners_public_key(tmp_path):
    learner, actor = new_keys(tmp_path, "learner"), new_keys(tmp_path, "actor-0")
    (tmp_path / "learner.secret").unlink()
    (tmp_path / "actors" / "actor-0.public").unlink()
    keys = actor_keys(tmp_path, "actor-0")
    assert (keys.own.public, keys.own.secret) == (actor.public, actor.secret)
    assert keys.learner_public == learner.public


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_secret_that_others_may_read_is_refused(tmp_path, mode):
    new_keys(tmp_path, "learner")
    (tmp_path / "learner.secret").chmod(mode)
    with pytest.raises(UsageError, match=rf"learner\.secret: mode {mode:04o} lets others read"):
        learner_keys(tmp_path)


def test_a_missing_key_is_named_with_its_remedy(tmp_path):
    with pytest.raises(UsageError, match=r"actor-9\.secret: no key there .* `loop keys new actor-9 --folder"):
        actor_keys(tmp_path, "actor-9")


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 41, b"\xff" * 40])
def test_a_file_that_holds_no_key_is_named(tmp_path, content):
    new_keys(tmp_path, "learner")
    (tmp_path / "learner.secret").write_bytes(content)
    with pytest.raises(UsageError, match=r"learner\.secret: holds no CURVE key"):
        learner_keys(tmp_path)


def test_keys_are_not_overwritten(tmp_path):
    before = new_keys(tmp_path, "actor-0")
    with pytest.raises(UsageError, match=r"actor-0\.secret: exists already"):
        new_keys(tmp_path, "actor-0")
    assert (tmp_path / "actor-0.secret").read_bytes().strip() == before.secret


@pytest.mark.parametrize("name", ["", "../x", "a b", "x" * 65])
def test_a_name_that_cannot_be_a_file_is_refused(tmp_path, name):
    with pytest.raises(UsageError, match="cannot name a key"):
        new_keys(tmp_path, name)


def test_the_list_follows_the_folder_without_a_restart(tmp_path):
    seconds = [0.0]
    first = new_keys(tmp_path, "actor-0")
    names = KeyList(tmp_path, clock=lambda: seconds[0])
    later = new_keys(tmp_path, "actor-1")
    seconds[0] = 0.1
    assert names.name_of(later.public) == "actor-1"
    (tmp_path / "actors" / "actor-0.public").unlink()
    seconds[0] = 2.0
    assert names.name_of(first.public) is None


def test_a_key_that_came_right_after_the_list_was_read_is_known_at_its_first_word(tmp_path):
    """Who is refused once does not ask again."""
    first = new_keys(tmp_path, "actor-0")
    seconds = [0.0]
    names = KeyList(tmp_path, clock=lambda: seconds[0])
    for number in range(1, 4):
        seconds[0] += 1.0
        assert names.has("actor-0")
        assert names.name_of(first.public) == "actor-0"
        later = new_keys(tmp_path, f"actor-{number}")
        assert names.name_of(later.public) == f"actor-{number}"


def test_a_flood_of_unknown_keys_has_the_list_read_twenty_times_a_second_and_none_is_refused_unread(
    tmp_path, monkeypatch
):
    seconds, readings = [0.0], []
    unlisted = [new_keys(tmp_path / "elsewhere", f"actor-{number}").public for number in range(2)]
    names = KeyList(tmp_path, clock=lambda: seconds[0])
    before = keys._listed
    monkeypatch.setattr(keys, "_listed", lambda *given: readings.append(seconds[0]) or before(*given))
    assert names.name_of(unlisted[0]) is None
    for public in (*unlisted, new_keys(tmp_path, "actor-9").public):
        with pytest.raises(NotReadNow):
            names.name_of(public)
    seconds[0] = 0.06
    assert names.name_of(unlisted[1]) is None
    assert readings == [0.0, 0.06]
    assert names.has("actor-9")


def test_a_list_is_read_again_where_it_changed_and_nowhere_else(tmp_path, monkeypatch):
    seconds, read = [0.0], []
    for number in range(3):
        new_keys(tmp_path, f"actor-{number}")
    names = KeyList(tmp_path, clock=lambda: seconds[0])
    another = new_keys(tmp_path / "elsewhere", "another")
    monkeypatch.setattr(keys, "_read", lambda file, remedy: read.append(file.name) or file.read_bytes().strip())
    (tmp_path / "actors" / "actor-1.public").write_bytes(another.public + b"\n")
    seconds[0] = 2.0
    assert names.name_of(another.public) == "actor-1"
    seconds[0] = 8.0
    assert [names.has(name) for name in ("actor-0", "actor-1", "another")] == [True, True, False]
    assert read == ["actor-1.public"]


def test_a_key_that_was_overwritten_in_place_is_known_no_longer_after_five_seconds(tmp_path):
    seconds = [0.0]
    before = new_keys(tmp_path, "actor-0")
    names = KeyList(tmp_path, clock=lambda: seconds[0])
    (tmp_path / "actors" / "actor-0.public").write_bytes(new_keys(tmp_path / "elsewhere", "another").public)
    seconds[0] = 5.1
    assert names.name_of(before.public) is None


def test_a_broken_list_is_told_until_it_is_mended_and_read_once_a_second_meanwhile(tmp_path, monkeypatch):
    seconds, read = [0.0], []
    new_keys(tmp_path, "actor-0")
    names = KeyList(tmp_path, clock=lambda: seconds[0])
    broken = tmp_path / "actors" / "actor-1.public"
    broken.write_text("no key")
    before = keys._read
    monkeypatch.setattr(keys, "_read", lambda file, remedy: read.append(file.name) or before(file, remedy))
    seconds[0] = 2.0
    for _ in range(100):
        with pytest.raises(UsageError, match=r"actor-1\.public: holds no CURVE key"):
            names.has("actor-0")
    assert read == ["actor-1.public"]
    broken.unlink()
    seconds[0] = 4.0
    assert names.has("actor-0")


def test_one_key_under_two_names_is_refused(tmp_path):
    new_keys(tmp_path, "actor-0")
    actors = tmp_path / "actors"
    (actors / "actor-1.public").write_bytes((actors / "actor-0.public").read_bytes())
    with pytest.raises(UsageError, match=r"actor-1\.public: the same key as actor-0's"):
        KeyList(tmp_path)


def test_the_command_makes_lists_and_shows(tmp_path, capsys):
    folder = ["--folder", str(tmp_path), "--json"]
    assert main(["new", "actor-0", *folder]) == 0
    made = json.loads(capsys.readouterr().out)
    assert main(["show", "actor-0", *folder]) == 0
    assert json.loads(capsys.readouterr().out) == made
    assert main(["list", *folder]) == 0
    assert json.loads(capsys.readouterr().out) == {"actors": {"actor-0": fingerprint(made["public"].encode())}}


@pytest.fixture
def credentials(tmp_path, monkeypatch):
    """Where systemd lays what LoadCredential= names."""
    folder = tmp_path / "credentials"
    folder.mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    return folder


def moved(name, folder, credentials):
    """A key that systemd loaded: it is no more in the folder, and mode 0400."""
    file = credentials / name
    file.write_bytes((folder / name).read_bytes())
    file.chmod(0o400)
    (folder / name).unlink()
    return file


def test_a_key_that_systemd_loaded_comes_before_the_folder(tmp_path, credentials):
    folder = tmp_path / "keys"
    made = new_keys(folder, "learner")
    moved("learner.secret", folder, credentials)
    assert learner_keys(folder) == made
    own = new_keys(folder, "actor-0")
    moved("actor-0.secret", folder, credentials)
    moved("learner.public", folder, credentials)
    found = actor_keys(folder, "actor-0")
    assert (found.own, found.learner_public) == (own, made.public)


def test_what_systemd_did_not_load_is_the_folders(tmp_path, credentials):
    made = new_keys(tmp_path / "keys", "learner")
    assert learner_keys(tmp_path / "keys") == made


def test_a_key_that_systemd_did_not_find_is_missed_where_it_should_be(tmp_path, credentials):
    (credentials / "actor-0.secret").write_bytes(b"missing")
    with pytest.raises(UsageError, match=r"keys/actor-0\.secret: no key there .*loop keys new actor-0"):
        actor_keys(tmp_path / "keys", "actor-0")


def test_a_credential_that_others_may_read_is_refused(tmp_path, credentials):
    new_keys(tmp_path / "keys", "learner")
    moved("learner.secret", tmp_path / "keys", credentials).chmod(0o440)
    with pytest.raises(UsageError, match="mode 0440 lets others read a secret key"):
        learner_keys(tmp_path / "keys")


def access_list(*entries):
    """An access list as the kernel keeps it: version 2, then kind, rights and whose, each."""
    nobody = 0xFFFFFFFF
    body = b"".join(struct.pack("<HHI", kind, rights, nobody if who is None else who) for kind, rights, who in entries)
    return struct.pack("<I", 2) + body


OWNER, USER, GROUP, MASK, OTHERS = 0x01, 0x02, 0x04, 0x10, 0x20
MINE = (USER, 4, os.geteuid())


@pytest.mark.parametrize(
    ("entries", "fine"),
    [
        ([(OWNER, 4, None), MINE, (GROUP, 0, None), (MASK, 4, None), (OTHERS, 0, None)], True),
        ([(OWNER, 4, None), MINE, (GROUP, 4, None), (MASK, 4, None), (OTHERS, 0, None)], False),
        ([(OWNER, 4, None), MINE, (USER, 4, 61_000), (GROUP, 0, None), (MASK, 4, None), (OTHERS, 0, None)], False),
        ([(OWNER, 4, None), MINE, (GROUP, 0, None), (MASK, 4, None), (OTHERS, 4, None)], False),
    ],
    ids=["this user alone", "the group too", "another user too", "everybody"],
)
def test_a_credential_with_an_access_list_is_judged_by_who_is_on_it(tmp_path, credentials, entries, fine):
    """systemd gives root's credential to a service's user so; its mode then reads 0440."""
    made = new_keys(tmp_path / "keys", "learner")
    file = moved("learner.secret", tmp_path / "keys", credentials)
    try:
        os.setxattr(file, "system.posix_acl_access", access_list(*entries))
    except OSError as error:
        pytest.skip(f"this file system keeps no access lists: {error}")
    assert file.stat().st_mode & 0o070 == 0o040
    if fine:
        assert learner_keys(tmp_path / "keys") == made
        return
    with pytest.raises(UsageError, match="lets others read a secret key"):
        learner_keys(tmp_path / "keys")
