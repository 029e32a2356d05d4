"""The process that runs model-written code: cells come in, messages go out, API calls are asked for.

It is forked from the built world by its member process, holds no database that counts, and is trusted with nothing:
whatever it does to itself changes neither the world's state nor the grade. Runs in AppWorld's virtualenv.
"""

from __future__ import annotations

import array
import os
import random
import signal
import socket
import sys
import traceback
from typing import Any

from actor.world import frames
from actor.world.call import Answer, Call
from actor.world.engine import Template

ALARMS = (signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF, signal.SIGINT)
RANDOM_BYTES = 4 * 625  # CPython's generator: 624 words and an index
ASK_LIMIT = 16 << 20  # bytes of one API call, and of one cell's message
ANSWER_LIMIT = 64 << 20  # bytes of one API response; the member is trusted, so this only catches defects


class RandomState:
    """Keeps `random` alike in the two processes, which share one generator in the unmodified engine."""

    def __init__(self) -> None:
        self.known: Any = random.getstate()

    def news(self) -> tuple[dict[str, Any], bytes]:
        """Header fields and bytes that carry this process's state, empty when the other has it already."""
        state = random.getstate()
        if state == self.known:
            return {}, b""
        self.known = state
        return {"gauss": state[2], "random": True}, array.array("I", state[1]).tobytes()

    def take(self, head: dict[str, Any], body: bytes) -> bytes:
        """Adopts the state at the end of a frame, where there is one; the body without it. Raises ValueError."""
        if not head.get("random"):
            return body
        words = array.array("I", body[-RANDOM_BYTES:])
        random.setstate((3, tuple(words), head.get("gauss")))
        self.known = random.getstate()
        return body[:-RANDOM_BYTES]


def run(template: Template, sock: socket.socket, characters: int, *, log_calls: bool) -> None:
    """Serves cells until the member closes. Does not return."""
    try:
        state = RandomState()
        template.ask_through(lambda call: _ask(sock, state, call))
        template.hide_databases()
        while (frame := frames.receive(sock, ANSWER_LIMIT)) is not None:
            message, failed = template.execute(state.take(*frame).decode())
            calls = template.new_calls() if log_calls else b""
            head, news = state.news()
            text = cut(message, characters).encode("utf-8", errors="replace")
            frames.send(sock, {"done": True, "failed": failed, "calls": len(calls), **head}, text + calls + news)
    except BaseException:  # noqa: BLE001  # nothing may run in this process after its loop
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(0)


def cut(text: str, characters: int) -> str:
    """At most `characters` of the text, ended at a line's end where there is one, with a note of what is missing."""
    if len(text) <= characters:
        return text
    head = text[:characters]
    end = head.rfind("\n")
    if end > 0:
        head = head[:end]
    return f"{head}\n[Output cut: {len(head)} of {len(text)} characters are shown.]"


def _ask(sock: socket.socket, state: RandomState, call: Call) -> Answer:
    head, news = state.news()
    head |= {
        "method": call.method,
        "scheme": call.scheme,
        "path": call.path,
        "raw_path": call.raw_path.decode("latin-1"),
        "query": call.query.decode("latin-1"),
        "headers": [[key.decode("latin-1"), value.decode("latin-1")] for key, value in call.headers],
    }
    asked = frames.pack(head, call.body + news)
    if len(asked) > ASK_LIMIT:
        return Answer(413, [(b"content-type", b"application/json")], b'{"message": "The request is too large."}')
    # An alarm that raises amid a frame would leave the two sides out of step.
    masked = signal.pthread_sigmask(signal.SIG_BLOCK, ALARMS)
    try:
        sock.sendall(asked)
        frame = frames.receive(sock, ANSWER_LIMIT)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, masked)
    if frame is None:
        os._exit(0)
    head, body = frame
    body = state.take(head, body)
    if "raised" in head:
        raise _raised(*head["raised"])
    headers = [(key.encode("latin-1"), value.encode("latin-1")) for key, value in head["headers"]]
    return Answer(head["status"], headers, body)


def _raised(module: str, name: str, text: str) -> BaseException:
    """The exception of the app as it would look here: its type's name, its message, and caught by the same clauses."""
    base: Any = sys.modules.get(module)
    for part in name.split("."):
        base = getattr(base, part, None)
    if not (isinstance(base, type) and issubclass(base, Exception)):
        base = Exception
    fields = {"__module__": module, "__qualname__": name, "__init__": lambda _self: None, "__str__": lambda _self: text}
    error: BaseException = type(name.rsplit(".", 1)[-1], (base,), fields)()
    return error
