"""The table of events, part one: what both sides log, of the link, keys, processes, and other packages' words."""

from __future__ import annotations

from common.event import Event

LEARNER = "the learner's address"
REASON = "why, in words"
SECONDS = "how long, seconds"

COMMON: dict[str, Event] = {
    # --- what it serves of itself
    "exporter_listens": Event(
        "info",
        "/metrics and /health are served",
        {"host": "bound address", "port": "of HTTP", "file": "where the address is written down"},
    ),
    "exporter_on_the_network": Event(
        "warning",
        "they are served to whoever reaches this machine",
        {"host": "bound address", "port": "of HTTP", "reason": REASON},
    ),
    "metrics_port_taken": Event(
        "warning",
        "the port asked for is another process's; a free one serves instead",
        {"host": "bound address", "port": "asked for", "instead": "the port taken", "reason": REASON},
    ),
    "no_metrics_served": Event(
        "warning",
        "nothing is served; the run goes on",
        {"host": "asked for", "port": "asked for", "reason": REASON, "remedy": "what to do"},
    ),
    "exporter_not_written_down": Event(
        "warning", "they are served, but nobody finds where", {"file": "that could not be written", "reason": REASON}
    ),
    "exporter_failed": Event(
        "warning", "an answer could not be made", {"reason": REASON, "told": "how it is said: once, then not again"}
    ),
    # --- the link
    "waiting_for_learner": Event("info", "no learner answers yet; tried again without end", {"at": "host:port"}),
    "welcomed": Event("info", "the learner took this actor in", {"learner": LEARNER}),
    "refused_for_now": Event(
        "warning",
        "a connection was refused that may try again later",
        {"learner": LEARNER, "reason": REASON, "times": "since it was last said, count"},
    ),
    "hello_again": Event(
        "info",
        "the learner does not know this connection any more: a new one says Hello",
        {"learner": LEARNER, "reason": REASON, "again_in": "until then, seconds"},
    ),
    "request_repeated": Event(
        "warning",
        "a message was not answered in time; it is sent again on a new connection",
        {"learner": LEARNER, "kind": "kind of message", "reason": REASON, "again_in": "until then, seconds"},
    ),
    "said_again": Event(
        "warning",
        "the other side could not read a message, which is said again",
        {"reason": "what it said", "bytes": "size of the message, bytes"},
    ),
    "chunk_repeated": Event(
        "warning",
        "a piece of a file was not answered; it is asked for again",
        {"at": LEARNER, "file": "its name in the version", "offset": "where in it, bytes", "reason": REASON},
    ),
    "unreadable_frame": Event(
        "warning", "what the learner sent is no message", {"reason": REASON, "bytes": "size, bytes"}
    ),
    "learner_sends_too_much": Event(
        "warning",
        "the learner sent what nobody asked for; the connection is cut and made anew",
        {"held_bytes": "unread, bytes", "allowed": "bound, bytes", "address": "its end"},
    ),
    "learner_silent": Event(
        "warning",
        "the learner has not been heard for too long; the actor goes on with what it holds",
        {"learner": LEARNER, "seconds": SECONDS},
    ),
    "learner_heard_again": Event("info", "the silence is over", {"learner": LEARNER, "seconds": SECONDS}),
    "actor_was_stopped": Event(
        "warning", "this process did not run for a while (suspended, or the machine was)", {"seconds": SECONDS}
    ),
    "insecure_link": Event(
        "warning",
        "the link has no encryption and no keys; said again and again",
        {"learner": LEARNER, "reason": REASON},
    ),
    # --- keys
    "handshake_failed": Event(
        "warning",
        "a connection ended before its first word: another key, or no CURVE",
        {
            "learner": LEARNER,
            "reason": REASON,
            "expected_fingerprint": "of the learner's public key as this actor has it",
            "port": "which of the gateway's: main or files",
            "address": "who came",
            "times": "since it was last said, count",
        },
    ),
    "key_refused": Event(
        "warning",
        "an actor's public key is not on the learner's list; said on both sides",
        {
            "learner": LEARNER,
            "actor_key": "the actor's name",
            "fingerprint": "of its public key",
            "reason": REASON,
            "address": "who came",
            "refused": "so far, count",
            "remedy": "what to do",
        },
    ),
    "key_accepted": Event("debug", "a connection showed a listed key", {"address": "who came"}),
    "key_list_unreadable": Event(
        "error", "the list of keys cannot be read; the last that could is used on", {"reason": REASON}
    ),
    "keys_unreadable": Event(
        "error", "this side's own keys cannot be read again; those of before are used on", {"reason": REASON}
    ),
    # --- trajectories and disks, on either side
    "trajectory_not_taken": Event(
        "warning",
        "the learner did not take a trajectory in; said on both sides",
        {"outcome": "rejected, duplicate, ... as `Ack.outcome`", "reason": REASON},
    ),
    "disk_full": Event(
        "error",
        "a disk takes no more: work waits until somebody makes room, nothing is lost",
        {"folder": "where", "reason": "the system's words", "told": "what is missing, and what to do"},
    ),
    # --- processes and locks
    "process_started": Event(
        "info", "a child process runs", {"name": "gateway, trainer, actor-0, ...", "pid": "its process id"}
    ),
    "process_killed": Event(
        "warning",
        "a child did not end when asked, and was killed",
        {"name": "which", "pid": "its process id", "after_seconds": "it was given, seconds"},
    ),
    "waiting_for_lock": Event(
        "info",
        "another process does what this one wants to do",
        {"purpose": "what", "held_by_process": "its process id", "lock": "file"},
    ),
    # --- the demo
    "actor_restarted": Event(
        "warning",
        "an actor of the demo ended and is started again",
        {"name": "which", "code": "exit code, negative: signal", "restarts": "so far, count"},
    ),
    "behaviour_unknown": Event("warning", "what the policy does cannot be told; the demo goes on", {"reason": REASON}),
    # --- other packages
    "library_warning": Event(
        "warning",
        "another package warns through Python's logging or warnings; `module` is its logger",
        {"source": "the package: vllm, torch, asyncio, python, ...", "text": "its words, 2000 characters at most"},
    ),
    "library_error": Event(
        "error",
        "the same, as an error",
        {"source": "the package: vllm, torch, asyncio, python, ...", "text": "its words, 2000 characters at most"},
    ),
}
