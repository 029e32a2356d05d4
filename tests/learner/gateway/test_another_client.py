"""A client written from protocol.md alone: pyzmq, msgpack and struct, nothing of ours. It works with a real gateway."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from pathlib import Path

import msgpack
import pytest
import zmq
from gateway_builders import make_keys, the_books
from test_process import Process

from learner.gateway.trainer_port import TrainerPort

PROTOCOL = Path(__file__).resolve().parents[3] / "common" / "docs" / "protocol.md"


def figure(name: str) -> str:
    return re.search(rf"^\| {name} \| `?([^`|]+?)`? \|", PROTOCOL.read_text(encoding="utf-8"), re.MULTILINE)[1]


class Client:
    """One DEALER to one port."""

    def __init__(self, context: zmq.Context, keys: Path, port: int) -> None:
        self.socket = context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.rcvtimeo = 10_000
        self.socket.curve_secretkey = (keys / "actor-0.secret").read_bytes().strip()
        self.socket.curve_publickey = (keys / "actors" / "actor-0.public").read_bytes().strip()
        self.socket.curve_serverkey = (keys / "learner.public").read_bytes().strip()
        self.socket.connect(f"tcp://127.0.0.1:{port}")
        self.number = 0

    def ask(self, **message: object) -> dict:
        self.number += 1
        number = struct.pack(">Q", self.number)
        self.socket.send_multipart([number, msgpack.packb(message)])
        while True:
            answered, body = self.socket.recv_multipart()
            if answered == number:
                return msgpack.unpackb(body)


HELLO = {
    "kind": "hello",
    "protocol": int(figure("protocol version")),
    "actor": "actor-0",
    "instance": "written-from-the-text",
    "slots": 2,
    "schema_digest": figure("schema digest"),
    "prompt_digest": figure("prompt digest"),
}


def trajectory(lease: dict, version: int) -> dict:
    """A prompt of two tokens, a turn of two, an observation of one."""
    return {
        "kind": "trajectory",
        "trajectory_id": lease["lease_id"],
        "lease": lease,
        "actor": "actor-0",
        "token_bytes": struct.pack("<5i", 1, 2, 3, 4, 5),
        "sampled_bytes": bytes([0, 0, 1, 1, 0]),
        "log_prob_bytes": struct.pack("<5f", 0, 0, -0.5, -1.5, 0),
        "version_bytes": struct.pack("<5i", -1, -1, version, version, -1),
        "turn_bytes": struct.pack("<2i", 2, 4),
        "reward": 0.5,
        "success": False,
        "started_at": 1.7e9,
        "seconds": 1.0,
        "engine_seconds": 0.5,
        "world_seconds": 0.25,
    }


@pytest.fixture
def gateway(tmp_path: Path):
    make_keys(tmp_path / "keys", "actor-0")
    made = Process(tmp_path)
    made.start()
    yield made
    made.end()


def test_a_client_written_from_the_text_is_welcomed_leases_delivers_fetches_and_leaves(gateway):
    link = gateway.link()
    version = gateway.folder / "checkpoints" / "v000000"
    version.mkdir(parents=True)
    (version / "weights").write_bytes(b"w" * 1_000_000)
    files = {"weights": {"size": 1_000_000, "sha256": hashlib.sha256(b"w" * 1_000_000).hexdigest()}}
    probe = {"tokens": [1, 2], "log_probs": [-1.0]}
    manifest = {"run_id": "r", "policy_version": 0, "kind": "full", "step": 0, "files": files, "probe": probe}
    (version / "manifest.json").write_text(json.dumps(manifest))
    digest = hashlib.sha256((version / "manifest.json").read_bytes()).hexdigest()
    trainer = TrainerPort(gateway.folder)
    trainer.hello(None)
    trainer.published(0, digest, 0, [], {})
    trainer.close()

    context = zmq.Context()
    try:
        actor, fetcher = (Client(context, gateway.folder / "keys", port) for port in (link.port, link.files_port))
        early = actor.ask(kind="lease_request", count=1)
        assert (early["kind"], early["temporary"]) == ("refused", True)
        welcome = actor.ask(**HELLO)
        assert (welcome["kind"], welcome["policy_version"]) == ("welcome", 0)

        listed = actor.ask(kind="task_ids_request", begin=0)
        assert hashlib.sha256("\n".join(sorted(listed["task_ids"])).encode()).hexdigest() == welcome["tasks_digest"]

        granted = actor.ask(kind="lease_request", count=2)["leases"]
        assert {lease["task_id"] for lease in granted} <= set(listed["task_ids"])
        assert [lease["time_to_live"] > 0 for lease in granted] == [True, True]
        first = trajectory(granted[0], welcome["policy_version"])
        assert len(msgpack.packb(first)) <= welcome["credit_bytes"]
        assert [actor.ask(**first)["outcome"] for _ in range(2)] == ["ok", "duplicate"]
        returned = actor.ask(kind="lease_return", lease_id=granted[1]["lease_id"], reason="test", failure=False)
        assert (returned["kind"], returned["outcome"]) == ("ack", "ok")

        beat = actor.ask(kind="heartbeat", policy_version=0, episodes=0, tokens_per_second=0.0, spooled=0)
        assert (beat["kind"], beat["finished"], beat["manifest_digest"]) == ("heartbeat_reply", False, digest)

        wanted, data = {"kind": "file_request", "policy_version": 0, "length": 512 << 10}, b""
        fetched = fetcher.ask(**wanted, name="manifest.json", offset=0)
        assert hashlib.sha256(fetched["data"]).hexdigest() == digest
        while len(data) < files["weights"]["size"]:
            chunk = fetcher.ask(**wanted, name="weights", offset=len(data))
            assert 0 < len(chunk["data"]) <= 512 << 10
            data += chunk["data"]
        assert hashlib.sha256(data).hexdigest() == files["weights"]["sha256"]

        other = actor.ask(kind="heartbeat", episodes="many")
        assert (other["kind"], other["reason"][:9]) == ("unreadable", "heartbeat")
        assert actor.ask(kind="goodbye", reason="done")["kind"] == "heartbeat_reply"
    finally:
        context.destroy(linger=0)
    found = the_books(gateway.folder)
    assert found.balanced
    assert found.pending == {"received": 1}
