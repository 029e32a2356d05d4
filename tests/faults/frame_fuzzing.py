"""Frames that no honest peer sends: seeded mutations of real ones, and bombs that are small until they are read."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

import msgpack
import zstandard
from gateway_builders import make_book, make_hello, make_trajectory

from common.messages import FileRequest, Goodbye, Heartbeat, LeaseGrant, LeaseRequest, LeaseReturn, ReloadReport
from common.wire import MAX_MESSAGE_BYTES, encode


def honest_frames() -> list[bytes]:
    """One of each thing that an actor says, and a grant."""
    leases, _ = make_book().grant("actor-0", 4, 0.0)
    held = tuple(lease.lease_id for lease in leases)
    trajectory = make_trajectory(leases[0], prompt=30, sampled=20)
    said = [
        make_hello(held=held),
        trajectory,
        LeaseRequest(count=4),
        LeaseReturn(lease_id=held[1], reason="world host died"),
        Heartbeat(policy_version=0, episodes=4, lease_ids=held, tokens_per_second=10.0, spooled=1),
        ReloadReport(policy_version=0, accepted=True, probe_difference=1e-6, seconds=0.1, pause_seconds=0.1),
        FileRequest(policy_version=0, name="manifest.json", offset=0, length=1024),
        LeaseGrant(leases=tuple(leases)),
        Goodbye(reason="done"),
    ]
    return [*map(encode, said), encode(trajectory, compress=True)]


def fuzzed_frames(seed: int, count: int) -> Iterator[bytes]:
    """`count` frames, the same for the same seed. Most are a real one with one to four things changed."""
    draw = random.Random(seed)
    honest = honest_frames()
    for _ in range(count):
        frame = bytearray(draw.choice(honest))
        for _ in range(draw.choice((0, 1, 1, 1, 2, 4))):
            _mutate(draw, frame, honest)
        yield zstandard.compress(bytes(frame)) if draw.random() < 0.05 else bytes(frame)


def _mutate(draw: random.Random, frame: bytearray, honest: list[bytes]) -> None:
    place = draw.randrange(len(frame) + 1)
    match draw.randrange(8):
        case 0:  # a bit flips
            if frame:
                frame[place % len(frame)] ^= 1 << draw.randrange(8)
        case 1:  # a byte becomes one that announces a length, a map, an array, an extension
            if frame:
                frame[place % len(frame)] = draw.choice(
                    b"\x80\x8f\x90\x9f\xc0\xc1\xc4\xc6\xc7\xd9\xdb\xdc\xdd\xde\xdf\xff"
                )
        case 2:  # cut
            del frame[place:]
        case 3:  # a piece is missing
            del frame[place : place + draw.randrange(1, 40)]
        case 4:  # a piece comes twice
            frame[place:place] = frame[place : place + draw.randrange(1, 40)]
        case 5:  # noise in between
            frame[place:place] = draw.randbytes(draw.randrange(1, 20))
        case 6:  # the head of another
            frame[:place] = draw.choice(honest)[:place]
        case 7:  # a length that is not there
            frame[place:place] = draw.choice((b"\xdd", b"\xdf", b"\xdb", b"\xc6")) + struct.pack(
                ">I", draw.choice((1, 1000, 1 << 20, (1 << 32) - 1))
            )


def bombs() -> dict[str, bytes]:
    """By name: frames of which a reader without limits would make gigabytes, or never return."""
    room = MAX_MESSAGE_BYTES - 64
    claim = b"\xdd" + struct.pack(">I", 60_000_000)
    huge = zstandard.compress(bytes(1 << 30))
    silent = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(100 << 20))

    def field(value: bytes) -> bytes:
        return b"\x81\xa4kind" + value

    return {
        "an array of 4 billion": field(b"\xdd\xff\xff\xff\xff"),
        "a map of 4 billion": b"\xdf\xff\xff\xff\xff",
        "a thousand arrays of 60 million, one in the other": field(claim * 1000),
        "the same as a key": b"\x81" + claim * 1000,
        "the same with nothing around it": claim * 1000,
        "arrays in arrays, 60 million deep": field(b"\x91" * (60 << 20)),
        "maps in maps": field(b"\x81\xa1a" * (20 << 20)),
        "64 MiB of empty maps": field(b"\xdd" + struct.pack(">I", room) + b"\x80" * room)[:MAX_MESSAGE_BYTES],
        "60 million empty maps, all there": field(b"\xdd" + struct.pack(">I", 60_000_000) + b"\x80" * 60_000_000),
        "60 million empty arrays, all there": field(b"\xdd" + struct.pack(">I", 60_000_000) + b"\x90" * 60_000_000),
        "60 million times nothing, all there": field(b"\xdd" + struct.pack(">I", 60_000_000) + b"\xc0" * 60_000_000),
        "four million maps within the limit of bytes": field(
            b"\xdd" + struct.pack(">I", 4_000_000) + b"\x80" * 4_000_000
        ),
        "fields without end": b"\xdf" + struct.pack(">I", 20_000_000) + b"\xa1a\xc0" * 20_000_000,
        "a text that is not there": field(b"\xdb\xff\xff\xff\xff"),
        "an extension of 4 billion": field(b"\xc9\xff\xff\xff\xff\x05"),
        "a zstd frame of a gibibyte": huge,
        "a zstd frame that hides its size": silent,
        "a zstd frame that states less than it holds": _restated(zstandard.compress(bytes(1 << 20)), 1000),
        "a zstd frame within a zstd frame": zstandard.compress(huge[: 1 << 20]),
        "a zstd frame of 64 MiB of empty maps": zstandard.compress(b"\x80" * room),
        "two zstd frames": zstandard.compress(msgpack.packb({"kind": "goodbye", "reason": "x"})) * 2,
        "more than a message may have": bytes(MAX_MESSAGE_BYTES + 1),
    }


def _restated(frame: bytes, size: int) -> bytes:
    """A zstd frame of between 64 KiB and 4 GiB whose header states another size."""
    assert zstandard.get_frame_parameters(frame).content_size == 1 << 20
    at = frame.index(struct.pack("<I", 1 << 20))
    return frame[:at] + struct.pack("<I", size) + frame[at + 4 :]
