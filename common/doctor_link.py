"""For `loop doctor`: keys and their modes, and the ports of a learner."""

from __future__ import annotations

import errno
import json
import os
import socket
from pathlib import Path

from common.config import LinkConfig
from common.errors import UsageError
from common.finding import Check, Finding, error, lacking, ok, warning
from common.keys import LEARNER, actor_keys, fingerprint, learner_keys, listed

INSECURE = "no encryption, no keys: for trying out on one machine"


def key_checks(side: str, link: LinkConfig, name: str, *, wanted: bool) -> list[Check]:
    """Of one side; `name` is its key's."""
    return [
        Check(f"{side}'s key", lambda: own_key(link, name, wanted=wanted)),
        Check(f"{side}'s key folder", lambda: key_folder(link)),
    ]


def own_key(link: LinkConfig, name: str, *, wanted: bool) -> Finding:
    """A side's secret, and what it must know of the other side."""
    if link.insecure:
        return warning(f"link.insecure: {INSECURE}", "leave --insecure out and make keys with `loop keys new`")
    own = link.keys / f"{name}.secret"
    if not own.is_file():
        make = f"make it with `loop keys new {name} --folder {link.keys}`"
        where = make if name == LEARNER else f"{make} at the learner, and copy it here"
        return lacking(f"{own} is not there", where, wanted=wanted)
    try:
        if name != LEARNER:
            found = actor_keys(link.keys, name)
            theirs = fingerprint(found.learner_public)
            return ok(f"{own}, fingerprint {fingerprint(found.own.public)}; the learner's {theirs}")
        mine, actors = learner_keys(link.keys), listed(link.keys)
    except UsageError as problem:
        text, _, remedy = str(problem).partition("; ")
        return error(text, remedy or "see `loop keys --help`")
    if not actors:
        remedy = f"`loop keys new actor-0 --folder {link.keys}`, one for each actor"
        return warning(f"{own} is right, but no actor is listed", remedy)
    names = ", ".join(sorted(actors.values()))
    return ok(f"{own}, fingerprint {fingerprint(mine.public)}; actors listed: {names[:200]}")


def key_folder(link: LinkConfig) -> Finding:
    """Modes: a secret is its owner's alone, and nobody else may list a key."""
    if link.insecure or not link.keys.is_dir():
        return ok("no keys" if link.insecure else f"{link.keys} is not there")
    for secret in sorted(link.keys.glob("*.secret")):
        mode = secret.stat().st_mode & 0o777
        if mode & 0o077:
            return error(f"{secret}: mode {mode:04o} lets others read a secret key", f"chmod 600 {secret}")
    for folder in (link.keys, link.keys / "actors"):
        mode = folder.stat().st_mode & 0o7777 if folder.is_dir() else 0
        if mode & 0o022:
            return error(f"{folder}: mode {mode:04o} lets others put keys there", f"chmod go-w {folder}")
    return ok(f"{link.keys}: secrets and lists are their owner's alone")


def port_checks(link: LinkConfig, run: Path) -> list[Check]:
    """A learner's."""
    return [
        Check("port for actors", lambda: port(link, link.port, "link.port", run)),
        Check("port for files", lambda: port(link, link.files_port, "link.files_port", run)),
    ]


def port(link: LinkConfig, number: int, option: str, run: Path) -> Finding:
    """Whether the learner may listen there."""
    if number == 0:
        return ok("chosen when the learner starts; its gateway.json says which")
    if link.port == link.files_port:
        return error(f"link.port and link.files_port are both {number}", "give them different numbers")
    try:
        found = socket.getaddrinfo(link.host.strip("[]"), number, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, _, _, address = found[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except socket.gaierror as problem:
        return error(f"{link.host}: {problem.strerror}", "set link.host to an address of this machine")
    except OSError as problem:
        return _cannot_listen(link.host, number, option, problem, run)
    return ok(f"{link.host}:{number} is free")


def _cannot_listen(host: str, number: int, option: str, problem: OSError, run: Path) -> Finding:
    if problem.errno == errno.EADDRNOTAVAIL:
        return error(f"{host} is not an address of this machine", "set link.host to one that it has (`ip address`)")
    if problem.errno == errno.EADDRINUSE and (pid := _gateway_at(run, number)) is not None:
        return ok(f"{host}:{number}: this run's learner listens there (process {pid})")
    why = "another process listens there" if problem.errno == errno.EADDRINUSE else str(problem.strerror)
    return error(f"{host}:{number}: {why}", f"end it, or choose another with --{option}")


def _gateway_at(run: Path, number: int) -> int | None:
    """The living gateway of this run that says it has this port."""
    try:
        where = json.loads((run / "gateway.json").read_text(encoding="utf-8"))
        os.kill(int(where["pid"]), 0)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return int(where["pid"]) if number in (where.get("port"), where.get("files_port")) else None
