"""Confines itself as a host and its cell process do, without an engine, and says what it got past.

    PYTHON confined.py FOLDER root|ordinary namespaces|none        ordinary: gives up being root first

Prints the guards that hold, then how each of `escapes.CALLS` and each file went.
"""

import contextlib
import ctypes
import datetime as dt
import errno
import io
import json
import os
import posix
import struct
import sys
from pathlib import Path

import escapes

from actor.world import probe, sandbox, syscalls

USER = 61_000
FILES = ["/etc/passwd", "/proc/1/status", "/proc/self/environ", "/proc/self/status", "/proc/version", "SECRET"]


def refuse_namespaces():
    """What many machines' kernels do to ordinary users."""
    number = {"x86_64": 272, "aarch64": 97}[os.uname().machine]
    lines = [
        (syscalls.LOAD, 0, 0, syscalls.NUMBER),
        (syscalls.JUMP_EQUAL, 0, 1, number),
        (syscalls.RETURN, 0, 0, 0x50000 | errno.EPERM),
        (syscalls.RETURN, 0, 0, syscalls.ALLOW),
    ]
    program = syscalls._Program(len(lines), b"".join(struct.pack("=HBBI", *line) for line in lines))
    sandbox._prctl(sandbox.PR_SET_NO_NEW_PRIVS, 1)
    assert ctypes.CDLL(None).prctl(22, 2, ctypes.byref(program), 0, 0) == 0


def attacked(uid, limits, files):
    """What a confined child got past."""
    told, tell = os.pipe()
    if os.fork() == 0:
        out = io.StringIO()
        try:
            sandbox.confine(uid=uid, limits=limits, keep={tell}, folder="/", passing=False)
            with contextlib.redirect_stdout(out):
                for code in (escapes.TRY_ALL, escapes.reading(files)):
                    exec(code, {"datetime": dt})
        finally:
            os.write(tell, out.getvalue().encode())
            os._exit(0)
    os.close(tell)
    with os.fdopen(told) as stream:
        calls, found = stream.read().splitlines()
    os.wait()
    return json.loads(calls), json.loads(found)


def main():
    folder, user, namespaces = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    assert posix, "imported while it can be: the escapes look for it"
    secret = folder / "secret"
    if namespaces == "none":
        refuse_namespaces()
    if user == "ordinary" and os.geteuid() == 0:
        sandbox._become(USER)
        sandbox._prctl(sandbox.PR_SET_DUMPABLE, 1)  # as it is after a login, which execs
    dt.sys = sys
    limits = sandbox.Limits(sandbox.address_space() + (512 << 20), 100)
    outside = probe.Outside()
    guards = sandbox.enter([Path("/usr")], folder / "scratch")
    held = probe.held(guards, outside, "/", limits)
    uid = sandbox.FIRST_UID if "own-uid" in guards else None
    calls, files = attacked(uid, limits, [str(secret) if name == "SECRET" else name for name in FILES])
    print(json.dumps({"claimed": guards, "held": held, "calls": calls, "files": files}))


if __name__ == "__main__":
    main()
