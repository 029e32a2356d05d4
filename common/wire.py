"""Stage 4, the frame: a message as one msgpack map and back, within limits that are checked before anything is built.

A frame from outside may claim four billion elements, nest a million deep, or unfold to a gibibyte. So its stated sizes
come first: those of the zstd frame, when it is one, then of every element, walked over without building any. What does
not pass is a `ValueError` of one line.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from typing import Any

import msgpack
import zstandard
from pydantic import TypeAdapter, ValidationError

from common.messages import AnyMessage, Message

MAX_MESSAGE_BYTES = 64 << 20  # of a frame, and of what a compressed one unfolds to
MAX_STRUCTURE_BYTES = 4 << 20  # of it, without the byte strings of the outermost map: the arrays of a trajectory
MAX_FIELDS = 64  # of the outermost map
MAX_MAPS = 20_000  # within a message: an empty one takes one byte here and 64 in memory
CHUNK_BYTES = 512 << 10  # of a file of a version, at a time

_ANY: TypeAdapter[Any] = TypeAdapter(AnyMessage)
_BYTE_STRINGS = (0xC4, 0xC5, 0xC6)
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"  # as msgpack it would begin with the number 40, which is no message
_ZSTD_HEADER = 18  # bytes, at most
_ZSTD_LEVEL = 3


def encode(message: Message, *, compress: bool = False) -> bytes:
    """One frame, as a zstd frame if wished. Raises ValueError when it is larger than any peer would take."""
    frame: bytes = msgpack.packb(message.model_dump(), use_bin_type=True)
    if len(frame) > MAX_MESSAGE_BYTES:
        raise ValueError(f"message of {len(frame)} bytes, allowed are {MAX_MESSAGE_BYTES}")
    return zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(frame) if compress else frame


def decode(frame: bytes) -> Message:
    """The message in a frame. Raises ValueError with one line that names the field, for whatever is not one."""
    message: Message = decode_as(_ANY, frame)
    return message


def decode_as(kinds: TypeAdapter[Any], frame: bytes) -> Any:
    """As `decode`, for another set of messages (the trainer's port has its own)."""
    plain = unpack(frame)
    try:
        return kinds.validate_python(plain)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        # what came may be quoted in the reason, line ends and all
        raise ValueError(" ".join(f"{where}: {first['msg']}".split())) from None
    except RecursionError as error:
        raise ValueError(f"not a message: {error}") from None


def unpack(frame: bytes) -> dict[str, Any]:
    """The map in a frame, not validated yet. Raises ValueError with one line for what is none or above a limit."""
    if len(frame) > MAX_MESSAGE_BYTES:
        raise ValueError(f"frame: {len(frame)} bytes, allowed are {MAX_MESSAGE_BYTES}")
    if frame.startswith(_ZSTD_MAGIC):
        frame = _decompressed(frame)
    maps = 0

    def count(found: dict[Any, Any]) -> dict[Any, Any]:
        nonlocal maps
        maps += 1
        if maps > MAX_MAPS:
            raise ValueError(f"more than {MAX_MAPS} maps in a message")
        return found

    try:
        _walk(frame)
        # use_list=False: tuples are what frozen messages hold, and strict validation takes no list for them
        plain: dict[str, Any] = msgpack.unpackb(
            frame, raw=False, strict_map_key=True, use_list=False, object_hook=count
        )
    except (ValueError, TypeError, msgpack.exceptions.UnpackException, RecursionError) as error:
        told = str(error) or type(error).__name__
        raise ValueError(f"not a msgpack message: {' '.join(told.split())[:300]}") from None
    return plain


@cache
def schema_digest() -> str:
    """sha256 (hex) of what messages may hold: kinds, fields, types and bounds, not their descriptions."""
    return hashlib.sha256(json.dumps(_without_words(_ANY.json_schema()), sort_keys=True).encode()).hexdigest()


def _without_words(schema: Any) -> Any:
    if isinstance(schema, dict):
        kept = {name: value for name, value in schema.items() if name not in ("description", "examples", "title")}
        return {name: _without_words(value) for name, value in kept.items()}
    return [_without_words(value) for value in schema] if isinstance(schema, list) else schema


def first_frame(data: bytes) -> int | None:
    """How many bytes the first frame in `data` takes; None when `data` ends within it. For files of frames.

    Raises ValueError with one line: it begins with no frame, or one above a limit.
    """
    if data and _ZSTD_MAGIC.startswith(data[: len(_ZSTD_MAGIC)]):
        try:
            if len(data) < len(_ZSTD_MAGIC):
                return None
            _stated_size(data)
            reader = zstandard.ZstdDecompressor().decompressobj()
            reader.decompress(data)
        except zstandard.ZstdError as error:
            if len(data) < _ZSTD_HEADER:
                return None
            raise ValueError(f"zstd frame: {error}") from None
        return len(data) - len(reader.unused_data) if reader.eof else None
    if data and not (0x80 <= data[0] <= 0x8F or data[0] in (0xDE, 0xDF)):
        raise ValueError(f"not a msgpack message: it begins with byte {data[0]}")
    walker = msgpack.Unpacker(max_buffer_size=max(len(data), 1))
    walker.feed(data)
    try:
        walker.skip()
    except msgpack.OutOfData:
        return None
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise ValueError(f"not a msgpack message: {str(error) or type(error).__name__}") from None
    return int(walker.tell())


def _stated_size(frame: bytes) -> int:
    """What a zstd frame says that it unfolds to, bytes. Raises ValueError above the limit, or when it says nothing."""
    size = zstandard.frame_content_size(frame)
    if not 0 <= size <= MAX_MESSAGE_BYTES:
        stated = "states no size" if size < 0 else f"states {size} bytes, allowed are {MAX_MESSAGE_BYTES}"
        raise ValueError(f"zstd frame: {stated}")
    return size


def _decompressed(frame: bytes) -> bytes:
    """What a zstd frame holds: one frame that states its size, within the limit, and nothing behind it."""
    try:
        size = _stated_size(frame)
        # the library heeds no limit of ours once a frame states its size, so that was looked at first
        whole = zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise ValueError(f"zstd frame: {error}") from None
    if len(whole) != size:
        raise ValueError(f"zstd frame: holds {len(whole)} bytes, states {size}")
    return whole


def _walk(frame: bytes) -> None:
    """Go over a frame without building anything: it is one whole map, and its structure is within limits.

    What is claimed and not there ends in an error here, before memory is set aside for it.
    """
    walker = msgpack.Unpacker(max_buffer_size=max(len(frame), 1))
    walker.feed(frame)
    fields = walker.read_map_header()
    if fields > MAX_FIELDS:
        raise ValueError(f"{fields} fields, allowed are {MAX_FIELDS}")
    structure = len(frame)
    for _ in range(fields):
        walker.skip()
        begin = walker.tell()
        walker.skip()
        if frame[begin] in _BYTE_STRINGS:
            structure -= walker.tell() - begin
    if walker.tell() != len(frame):
        raise ValueError(f"{len(frame) - walker.tell()} bytes behind the message")
    if structure > MAX_STRUCTURE_BYTES:
        raise ValueError(f"{structure} bytes besides its byte strings, allowed are {MAX_STRUCTURE_BYTES}")
