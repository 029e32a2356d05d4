"""One episode's process that holds its databases: answers the API calls of its cell process and reports the changes.

Forked from the built world by the host. It forks the cell process, speaks with the client alone, and believes
nothing that the cell process says beyond "make this API call". Runs in AppWorld's virtualenv.

    client --code--> member --code--> cell process
                     member <--API call-- cell process        (as often as the cell wants)
                     member --response--> cell process
    client <--observation, changes-- member <--message-- cell process
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import struct
import sys
import traceback
from dataclasses import dataclass
from typing import Any

from actor.world import cell, explain, frames, sandbox
from actor.world.call import Answer, Call, answer_call
from actor.world.engine import Template

ANNOUNCEMENT = struct.Struct("=ii")  # episode number and pid of a cell process
CODE_LIMIT = 4 << 20  # bytes of one cell's code
CHANGES_LIMIT = 32 << 20  # bytes of an episode's database changes
PATH_LIMIT = 300  # characters of a call's path that are told to the grader
# The engine's main app also has routes that load other databases, write files and move the clock: not for episodes.
APP_PATH = re.compile(
    r"/(api_docs|supervisor|amazon|phone|file_system|spotify|venmo|gmail|splitwise|simple_note|todoist)/"
)


@dataclass(frozen=True)
class Terms:
    """What an episode's two processes may use, as the client said when it started the host."""

    characters: int  # of one observation
    limits: sandbox.Limits
    member_uid: int | None
    cell_uid: int | None
    folder: str
    number: int  # of the episode
    announce: int  # descriptor of the host's pipe for `ANNOUNCEMENT`s
    log_calls: bool  # whether the API calls of each turn are told beside its text


def run(template: Template, client: socket.socket, terms: Terms) -> None:
    """Serves one episode. Does not return."""
    try:
        template.adopt()
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            os.write(terms.announce, ANNOUNCEMENT.pack(terms.number, os.getpid()))
            _run_cell(template, theirs, terms)
        theirs.close()
        pidfds = [os.pidfd_open(os.getpid()), os.pidfd_open(pid)]
        keep = {2, client.fileno(), ours.fileno(), *pidfds}
        sandbox.confine(uid=terms.member_uid, limits=terms.limits, keep=keep, folder="/", passing=True)
        socket.send_fds(client, [frames.pack({"open": True})], pidfds)
        for descriptor in pidfds:
            os.close(descriptor)
        Member(template, client, ours, pid).serve()
    except (BrokenPipeError, ConnectionResetError):  # the client has gone: the episode is abandoned
        pass
    except BaseException:  # noqa: BLE001  # nothing may run in this process after its episode
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(0)


def run_fresh_cell(template: Template, client: socket.socket, shell: socket.socket, terms: Terms) -> None:
    """A cell process for an episode whose last one was killed, forked by the host itself. Does not return."""
    try:
        pidfd = os.pidfd_open(os.getpid())
        socket.send_fds(client, [frames.pack({"open": True})], [pidfd])
        _run_cell(template, shell, terms)
    except BaseException:  # noqa: BLE001  # as above
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(0)


def _run_cell(template: Template, shell: socket.socket, terms: Terms) -> None:
    template.adopt()
    os.environ.clear()
    sandbox.confine(uid=terms.cell_uid, limits=terms.limits, keep={shell.fileno()}, folder=terms.folder, passing=False)
    cell.run(template, shell, terms.characters, log_calls=terms.log_calls)


class Member:
    """The episode's loop: one cell at a time."""

    def __init__(self, template: Template, client: socket.socket, shell: socket.socket, pid: int) -> None:
        self.template, self.client, self.shell = template, client, shell
        self.pid: int | None = pid  # None: not a child of this process
        self.random = cell.RandomState()
        self.ended: str | None = None
        self.tampered: str | None = None  # what a cell tried that no honest one does
        self.calls: list[Any] = []  # of this turn, those that changed data: method, path, status, statements by app
        self.room = CHANGES_LIMIT

    def serve(self) -> None:
        while (frame := frames.receive(self.client, CODE_LIMIT)) is not None:
            if frame[0].get("shell"):
                self._take_shell()
                continue
            head, text = ({"failed": True}, b"") if self.ended else self._turn(frame[1])
            body = self._changes()
            calls = _within(head.get("calls"), len(text))
            sizes = {"text": len(text) - calls, "calls": calls}
            head |= {"ended": self.ended, "completed": self.template.completed(), **sizes}
            head |= {"tampered": self.tampered} if self.tampered else {}
            frames.send(self.client, head, text + body)

    def _take_shell(self) -> None:
        """A fresh cell process in the place of a killed one: it continues with the random numbers of this process."""
        _, descriptors, _, _ = socket.recv_fds(self.client, 1, 1)
        if not descriptors:
            raise ConnectionResetError("the client has gone")
        self.shell.close()
        self.shell, self.pid = socket.socket(fileno=descriptors[0]), None
        self.random.known = None
        if self.ended != "memory":  # what such a turn changed is in the databases but not in what is graded
            self.ended = None

    def _changes(self) -> bytes:
        """What this turn changed, for the grader. A turn that changed too much counts for nothing and is the last."""
        calls, self.calls = self.calls, []
        try:
            changes = self.template.new_changes()
            if changes is None or self.ended == "memory":
                return b""
            body = json.dumps(changes | {"calls": calls}, separators=(",", ":")).encode()
        except MemoryError:
            body = None
        if body is None or len(body) > self.room:
            self.ended = "memory"
            return b""
        self.room -= len(body)
        return body

    def _turn(self, code: bytes) -> tuple[dict[str, Any], bytes]:
        try:
            told, news = self.random.news()
            frames.send(self.shell, told, code + news)
            while (frame := frames.receive(self.shell, cell.ASK_LIMIT)) is not None:
                head, body = frame[0], self.random.take(*frame)
                if head.get("done"):
                    return {"failed": bool(head.get("failed")), "calls": head.get("calls")}, body
                answer, payload = self._answer(head, body)
                frames.send(self.shell, answer, payload)
        except OSError:  # it has ended
            pass
        except MemoryError:  # an episode must not end as an infrastructure failure because a cell wants it to
            self.ended = "memory"
            return {"failed": True}, b""
        except Exception:  # noqa: BLE001  # whatever the cell process sent, it was no frame of ours
            self.ended = "output"  # the client kills it: under another user id this process may not
            self.tampered = "it sent its member process what is no frame"
            return {"failed": True}, b""
        if self.pid is None:  # the host's own child: it alone knows more
            self.ended = "exited"
            return {"failed": True}, b""
        dead = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)  # the host buries it, once both are dead
        self.ended = _cause(dead) if dead else "exited"
        return {"failed": True}, b""

    def _answer(self, head: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        call = Call(
            method=str(head["method"]),
            scheme=str(head["scheme"]),
            path=str(head["path"]),
            raw_path=head["raw_path"].encode("latin-1"),
            query=head["query"].encode("latin-1"),
            headers=[(key.encode("latin-1"), value.encode("latin-1")) for key, value in head["headers"]],
            body=body,
        )
        if explain.private_route(call.path):
            self.tampered = f"it called the engine's own route {call.path[:80]}"
        before = self.template.statements()
        try:
            answer = answer_call(self.template.app, call) if APP_PATH.match(call.path) else _no_such_app(call.path)
            self._note(call, answer.status, before)
        except Exception as error:  # noqa: BLE001  # the engine's client raises what the app raises: so does the cell's
            self._note(call, 500, before)
            told, news = self.random.news()
            kind = type(error)
            return {"raised": [kind.__module__, kind.__qualname__, str(error)], **told}, news
        told, news = self.random.news()
        headers = [[key.decode("latin-1"), value.decode("latin-1")] for key, value in answer.headers]
        return {"status": answer.status, "headers": headers, **told}, answer.body + news

    def _note(self, call: Call, status: int, before: dict[str, int]) -> None:
        """Remembers a call that changed data: the grader counts every change against the calls."""
        now = self.template.statements()
        if now != before:
            changed = {app: count - before[app] for app, count in now.items() if count != before[app]}
            self.calls.append([call.method, call.path[:PATH_LIMIT], status, changed])


def _within(told: object, most: int) -> int:
    """A length that a cell process told, 0 when it cannot be."""
    return told if isinstance(told, int) and 0 <= told <= most else 0


def _no_such_app(path: str) -> Answer:
    name = path.lstrip("/").split("/")[0]
    body = json.dumps({"message": f"No app named '{name}' found."}).encode()
    return Answer(404, [(b"content-type", b"application/json")], body)


def _cause(dead: os.waitid_result) -> str:
    """Why a cell process ended, in one word."""
    if dead.si_code == os.CLD_EXITED:
        return "exited"
    return {int(signal.SIGXCPU): "cpu", int(signal.SIGKILL): "killed"}.get(dead.si_status, "crashed")
