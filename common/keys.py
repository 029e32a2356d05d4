"""CURVE keys: who may speak on the link. `loop keys new|list|show`.

Each machine holds its own secrets and the public keys of those it trusts: the learner a list of actors, an actor the
learner. A key's name is the actor's name; the link takes it from the connection, never from a message.

    keys/learner.secret            mode 0600, on the learner's machine alone
    keys/learner.public            also on every actor's machine
    keys/actors/<name>.public      the list of those who may connect, on the learner's machine
    keys/<name>.secret             mode 0600, on that actor's machine alone

A service gets its own key from systemd (`LoadCredential=`): a file of the same name in $CREDENTIALS_DIRECTORY comes
before the one in the folder. The list of actors is always the folder's.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import struct
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import zmq
from zmq.utils import z85

from common.errors import UsageError
from common.log import get_logger

log = get_logger(__name__)

LEARNER = "learner"
CREDENTIALS = "CREDENTIALS_DIRECTORY"  # environment variable of systemd
MISSING = b"missing"  # in a credential: configs/systemd says so where the file lacks that it would have been
ACCESS_LIST = "system.posix_acl_access"  # attribute of a file
ENTRY_OF_A_USER, HARMLESS_ENTRIES = 0x02, (0x01, 0x10)  # kinds of its entries; those of the owner and the mask
REWRITTEN_SECONDS = 5.0  # between looks at every key file: a thousand take ten milliseconds
UNKNOWN_SECONDS = 0.05  # between readings for keys that are not in the list: a flood of them costs 20 a second
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True)
class KeyPair:
    """One side's own key. Keys are Z85 text, 40 bytes."""

    name: str
    public: bytes
    secret: bytes = field(repr=False)


@dataclass(frozen=True)
class ActorKeys:
    """What an actor needs: its own key and the learner's public one."""

    own: KeyPair
    learner_public: bytes
    folder: Path

    def again(self) -> ActorKeys:
        """As they are on the disk now, so that keys change without a restart; these while those are unusable."""
        try:
            return actor_keys(self.folder, self.own.name)
        except UsageError as error:
            log.error("keys_unreadable", reason=str(error))
            return self


def new_keys(folder: Path, name: str) -> KeyPair:
    """Make and store a key pair for `name`: the learner, or an actor, which is thereby listed.

    Raises:
        UsageError: a name that cannot be one, keys that exist already, a folder that cannot be written.
    """
    if not NAME.fullmatch(name):
        raise UsageError(f"'{name}' cannot name a key: use up to 64 letters, digits, '-' and '_'")
    secret_file, public_file = folder / f"{name}.secret", public_file_of(folder, name)
    for file in (secret_file, public_file):
        if file.exists():
            raise UsageError(f"{file}: exists already; remove it first if {name}'s key is to change")
    public, secret = zmq.curve_keypair()
    try:
        public_file.parent.mkdir(parents=True, exist_ok=True)
        _write(secret_file, secret, 0o600)
        _write(public_file, public, 0o644)
    except OSError as error:
        raise UsageError(f"{error.filename or folder}: cannot write keys: {error.strerror}") from None
    return KeyPair(name, public, secret)


def learner_keys(folder: Path) -> KeyPair:
    """The learner's own key. Raises UsageError: missing, broken, or readable by others."""
    return _own_keys(folder, LEARNER)


def actor_keys(folder: Path, name: str) -> ActorKeys:
    """An actor's own key and the learner's public one. Raises UsageError: missing, broken, or readable by others."""
    own = _own_keys(folder, name)
    public = _read(_own_file(folder, f"{LEARNER}.public"), "copy it from the learner's machine")
    return ActorKeys(own, public, folder)


def public_file_of(folder: Path, name: str) -> Path:
    """Where a public key lies: actors' in the list, the learner's beside it."""
    return folder / f"{LEARNER}.public" if name == LEARNER else folder / "actors" / f"{name}.public"


def fingerprint(public: bytes) -> str:
    """What a person compares: the first 16 hex digits of the key's sha256."""
    return hashlib.sha256(public).hexdigest()[:16]


def listed(folder: Path) -> dict[bytes, str]:
    """Names of the actors that may connect, by public key.

    Raises:
        UsageError: a listed file that holds no key, or the same key under two names.
    """
    return {key: name for name, (_, key) in _listed(folder, {}).items()}


Stamp = tuple[int, int, int, int]  # of a file: what changes when its content does


def _listed(folder: Path, before: Mapping[str, tuple[Stamp, bytes]]) -> dict[str, tuple[Stamp, bytes]]:
    """Key files by name; what has not changed since `before` is not read again."""
    found: dict[str, tuple[Stamp, bytes]] = {}
    names: dict[bytes, str] = {}
    try:
        files = sorted((entry for entry in os.scandir(folder / "actors") if entry.name.endswith(".public")), key=_name)
    except FileNotFoundError:
        return {}
    for file in files:
        name = file.name.removesuffix(".public")
        try:
            status = file.stat()
        except FileNotFoundError:
            continue  # removed while we looked
        stamp = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        known = before.get(name)
        if known is None or known[0] != stamp:
            known = (stamp, _read(Path(file.path), "remove it or make the key again"))
        if known[1] in names:
            raise UsageError(f"{file.path}: the same key as {names[known[1]]}'s; every actor needs a key of its own")
        found[name] = known
        names[known[1]] = name
    return found


def _name(entry: os.DirEntry[str]) -> str:
    return entry.name


class NotReadNow(Exception):  # noqa: N818 - it names what happened
    """Whether a key is listed cannot be said: ask again in `UNKNOWN_SECONDS`."""


class KeyList:
    """The list as it stands on disk, read again as it changes, so that keys come and go without a restart."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic, *, own: bytes | None = None) -> None:
        """`own` is the learner's public key: who holds its secret may ask how the run does, and is no actor."""
        self._folder = folder
        self._own = own
        self._clock = clock
        self._files = _listed(folder, {})
        self._names = {key: name for name, (_, key) in self._files.items()}
        self._wrong = ""  # with the list as it was read last
        self._changes = 0
        self._folder_changed = self._folder_stamp()
        self._looked_at = self._read_at = clock()
        self._unknown_at = -UNKNOWN_SECONDS + self._looked_at  # when it was read for a key that it does not have

    def name_of(self, public: bytes) -> str | None:
        """Who holds a key; None when it is not listed.

        A removed key is unknown after a second, one whose file was overwritten after five; a new one is known at once.

        Raises:
            NotReadNow: an unknown key, for which the list is not read: it was for another unknown one a moment ago.
            UsageError: the list on disk cannot be read whole.
        """
        if self.holder(public) is None:
            now = self._clock()
            if now - self._unknown_at < UNKNOWN_SECONDS:
                raise NotReadNow
            self._unknown_at = now
            self._read_if_older(0.0, whole=True)
        elif public != self._own:
            self._read_if_older(1.0)
        return self.holder(public)

    def holder(self, public: bytes) -> str | None:
        """Who holds a key in the list as it was read last."""
        return LEARNER if public == self._own else self._names.get(public)

    def has(self, name: str) -> bool:
        """Whether an actor's key is (still) listed, as of the last second."""
        self._read_if_older(1.0)
        return name in self._files

    def look(self) -> int:
        """How often the list has changed, as of the last second."""
        self._read_if_older(1.0)
        return self._changes

    def _read_if_older(self, seconds: float, *, whole: bool = False) -> None:
        """Look whether a file came or went, at most once in `seconds`; and now and then, or if `whole`, at every file.

        Raises UsageError as long as the list on disk cannot be read whole; the one before it holds.
        """
        now = self._clock()
        if now - self._looked_at >= seconds:
            self._looked_at, stamp = now, self._folder_stamp()
            if whole or self._wrong or stamp != self._folder_changed or now - self._read_at > REWRITTEN_SECONDS:
                self._folder_changed, self._read_at = stamp, now
                try:
                    self._files, self._wrong = _listed(self._folder, self._files), ""
                    names = {key: name for name, (_, key) in self._files.items()}
                    self._changes += names != self._names
                    self._names = names
                except UsageError as error:
                    self._wrong = str(error)
        if self._wrong:
            raise UsageError(self._wrong)

    def _folder_stamp(self) -> int:
        try:
            return (self._folder / "actors").stat().st_mtime_ns
        except FileNotFoundError:
            return 0


def _own_keys(folder: Path, name: str) -> KeyPair:
    file = _own_file(folder, f"{name}.secret")
    secret = _read(file, f"make one with `loop keys new {name} --folder {folder}`")
    mode = file.stat().st_mode & 0o777
    if mode & 0o077 and not _for_this_user_alone(file):
        raise UsageError(f"{file}: mode {mode:04o} lets others read a secret key; set it with `chmod 600 {file}`")
    try:
        return KeyPair(name, zmq.curve_public(secret), secret)
    except (ValueError, zmq.ZMQError):
        raise UsageError(f"{file}: holds no CURVE key; remove it and make one anew with `loop keys new`") from None


def _own_file(folder: Path, name: str) -> Path:
    """Where a key of this process's own lies: systemd's credential of that name, else in the folder."""
    given = os.environ.get(CREDENTIALS)
    credential = Path(given, name) if given else folder / name
    try:
        return folder / name if credential.read_bytes() == MISSING else credential
    except FileNotFoundError:
        return folder / name
    except OSError:
        return credential  # whoever reads it says what is wrong with it


def _for_this_user_alone(file: Path) -> bool:
    """Whether the mode's bits for the group are the mask of an access list that names this process's user alone.

    So systemd lets a service's user read a credential that belongs to root.
    """
    try:
        entries = struct.iter_unpack("<HHI", os.getxattr(file, ACCESS_LIST)[4:])  # kind, rights, whose
    except OSError:
        return False  # it has no such list
    mine = (ENTRY_OF_A_USER, os.geteuid())
    return not any(rights for kind, rights, whose in entries if kind not in HARMLESS_ENTRIES and (kind, whose) != mine)


def _read(file: Path, remedy: str) -> bytes:
    try:
        key = file.read_bytes().strip()
    except OSError as error:
        raise UsageError(f"{file}: no key there ({error.strerror}); {remedy}") from None
    try:
        whole = len(key) == 40 and len(z85.decode(key)) == 32
    except (KeyError, ValueError):
        whole = False
    if not whole:
        raise UsageError(f"{file}: holds no CURVE key (40 characters of Z85); {remedy}")
    return key


def _write(file: Path, key: bytes, mode: int) -> None:
    """Whole or not at all, for the list is read meanwhile. The mode is the file's from its beginning."""
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        os.write(descriptor, key + b"\n")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    draft.rename(file)


def main(argv: Sequence[str]) -> int:
    """`loop keys`: make keys, list who may connect, show one key."""
    parser = argparse.ArgumentParser(
        prog="loop keys", description="CURVE keys of learner and actors; the learner's name is 'learner'"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="new|list|show")
    for command, meaning in (
        ("new", "make the key pair of NAME; an actor is listed by it"),
        ("list", "who may connect"),
        ("show", "one public key and its fingerprint"),
    ):
        added = commands.add_parser(command, help=meaning, description=meaning)
        if command != "list":
            added.add_argument("name", metavar="NAME", help="'learner', or an actor's name")
        added.add_argument("--folder", type=Path, default=Path("keys"), help="folder of keys (default: keys)")
        added.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options = parser.parse_args(argv)
    if options.command == "list":
        if not options.folder.is_dir():
            raise UsageError(f"{options.folder}: no such folder of keys; name one with --folder")
        shown = {name: fingerprint(key) for key, name in listed(options.folder).items()}
        text = "\n".join(f"{name:<24} {mark}" for name, mark in shown.items()) or "no actor is listed"
        sys.stdout.write((json.dumps({"actors": shown}) if options.json else text) + "\n")
        return 0
    if options.command == "new":
        new_keys(options.folder, options.name)
    file = public_file_of(options.folder, options.name)
    public = _read(file, f"make one with `loop keys new {options.name}`")
    facts = {"name": options.name, "fingerprint": fingerprint(public), "public": public.decode(), "file": str(file)}
    text = "\n".join(f"{name:<12} {value}" for name, value in facts.items())
    sys.stdout.write((json.dumps(facts) if options.json else text) + "\n")
    return 0
