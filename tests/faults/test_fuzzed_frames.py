"""No frame, however made, raises anything but a ValueError of one line, or takes more memory than its limits allow."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from frame_fuzzing import bombs, fuzzed_frames, honest_frames
from gateway_builders import make_hello, make_reception, make_run, the_books

from common.messages import Ack, HeartbeatReply, LeaseGrant, Message, Refused, Unreadable, Welcome
from common.wire import MAX_MESSAGE_BYTES, decode, encode
from learner.gateway.ledger import Version

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def all_bombs():
    return bombs()


COUNTS = [10_000, pytest.param(1_000_000, marks=pytest.mark.slow)]


def read(frame: bytes) -> Message | None:
    reason = "none"
    try:
        return decode(frame)
    except ValueError as error:
        reason = str(error)
    assert len(reason.splitlines()) == 1
    assert len(reason) < 1000
    return None


@pytest.mark.parametrize("count", COUNTS)
def test_no_mutated_frame_is_more_than_a_message_or_a_value_error(count):
    understood = sum(read(frame) is not None for frame in fuzzed_frames(1, count))
    # both ways were gone: an unchanged frame is understood, nearly every changed one is not
    assert 0.1 * count < understood < 0.5 * count


def test_honest_frames_are_understood():
    assert None not in [read(frame) for frame in honest_frames()]


@pytest.mark.parametrize("count", [10_000, pytest.param(200_000, marks=pytest.mark.slow)])
def test_the_gateway_answers_each_of_them_and_its_books_balance(tmp_path, count):
    run = make_run(tmp_path, now=0.0)
    run.ledger._database.execute("PRAGMA synchronous=OFF")
    run.publish(Version(0, "00" * 32, 0))
    run.ledger.publish(Version(0, "00" * 32, 0), 0, 0)
    run.commit()
    reception = make_reception(run, is_connected=False)
    answers: dict[str, int] = {}
    reception.answer("actor-0", b"r1", encode(make_hello()))
    for number, frame in enumerate(fuzzed_frames(2, count)):
        answer = reception.answer("actor-0", b"r1", frame)
        assert isinstance(answer, Welcome | Refused | Ack | LeaseGrant | HeartbeatReply | Unreadable), frame.hex()
        answers[answer.kind] = answers.get(answer.kind, 0) + 1
        if number % 100 == 0:
            run.commit()
            reception.answer("actor-0", b"r1", encode(make_hello()))
    run.commit()
    found = the_books(tmp_path)
    assert found.balanced, found
    assert answers["unreadable"] <= reception.quarantine.count < count
    assert set(answers) >= {"welcome", "ack", "lease_grant", "heartbeat_reply", "unreadable"}
    run.close()


READER = """
import json, re, sys
from pathlib import Path
import msgpack
from common import wire
from common.messages import Goodbye
read = {"ours": wire.decode, "without limits": lambda frame: msgpack.unpackb(frame, strict_map_key=False)}[sys.argv[1]]
wire.decode(wire.encode(Goodbye(reason="all that is needed is loaded")))
def most_ever():  # of a process from its exec on; ru_maxrss knows its parent's too
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) << 10
before = most_ever()
reasons = {}
for file in sorted(Path(sys.argv[2]).iterdir()):
    try:
        read(file.read_bytes())
        reasons[file.name] = ""
    except ValueError as error:
        reasons[file.name] = str(error)
print(json.dumps({"grew": most_ever() - before, "reasons": reasons}))
"""


def read_in_a_process_of_its_own(reader: str, folder: Path, frames: dict[str, bytes]) -> dict:
    folder.mkdir()
    for name, frame in frames.items():
        (folder / name).write_bytes(frame)
    ended = subprocess.run(
        [sys.executable, "-c", READER, reader, str(folder)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def test_a_bomb_is_refused_in_one_line_and_costs_no_more_than_its_limits_say(tmp_path, all_bombs):
    told = read_in_a_process_of_its_own("ours", tmp_path / "ours", all_bombs)
    assert "" not in told["reasons"].values()
    assert {reason.count("\n") for reason in told["reasons"].values()} == {0}
    # the frame, a copy that is walked over, what a compressed one unfolds to, and the structure that is allowed
    assert told["grew"] < 4 * MAX_MESSAGE_BYTES
    control = {"four million maps": all_bombs["four million maps within the limit of bytes"]}
    assert read_in_a_process_of_its_own("without limits", tmp_path / "control", control)["grew"] > 4 * MAX_MESSAGE_BYTES


def test_what_a_bomb_says_is_what_was_wrong_with_it(all_bombs):
    told = {}
    for name, frame in all_bombs.items():
        with pytest.raises(ValueError) as refused:  # noqa: PT011 - what it says is looked at below
            decode(frame)
        told[name] = str(refused.value)
    assert told["a zstd frame of a gibibyte"] == "zstd frame: states 1073741824 bytes, allowed are 67108864"
    assert told["a zstd frame that hides its size"] == "zstd frame: states no size"
    assert told["fields without end"] == "not a msgpack message: 20000000 fields, allowed are 64"
    assert told["four million maps within the limit of bytes"].endswith("more than 20000 maps in a message")
    assert told["60 million empty maps, all there"].endswith("allowed are 4194304")
