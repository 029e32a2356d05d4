"""protocol.md says what the code does: its field tables, limits and digests are read and held against it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgpack
import pytest
from pydantic import TypeAdapter
from test_messages import every_kind, example_of

from common import channel, file_link, messages, sockets, status_messages, wire
from common.messages import AnyMessage, Message, Sampling
from common.prompt import form_digest
from common.wire import decode, encode, schema_digest
from learner.gateway import connections

TEXT = (Path(__file__).resolve().parents[2] / "common" / "docs" / "protocol.md").read_text(encoding="utf-8")
WITHIN_STATUS = (
    *(status_messages.TrainerStatus, status_messages.ActorStatus, status_messages.GroupStatus),
    *(status_messages.BooksStatus, status_messages.Tally, status_messages.LagTally, status_messages.LoggedError),
)
KINDS = [*every_kind(), Sampling, *WITHIN_STATUS]
DEFINITIONS = TypeAdapter(AnyMessage).json_schema()["$defs"]


def words_for(schema: dict[str, Any]) -> str:
    """A field's type on the wire, with its bounds."""
    match schema:
        case {"$ref": name}:
            words = f"map: {name.rpartition('/')[2]}"
        case {"allOf": [only]}:
            words = words_for(only)
        case {"anyOf": options}:
            words = " or ".join(words_for(option) for option in options)
        case {"const": value}:
            words = f'text "{value}"'
        case {"enum": values}:
            words = "text: " + ", ".join(values)
        case {"type": "array", "items": items}:
            most = f", at most {schema['maxItems']}" if "maxItems" in schema else ""
            words = f"array of {words_for(items)}{most}"
        case {"type": "string"}:
            words = _text(schema)
        case {"type": kind}:
            words = {"integer": "integer", "number": "float", "boolean": "boolean", "null": "nothing"}[kind] + _bounds(
                schema
            )
    return words


def _text(schema: dict[str, Any]) -> str:
    if schema.get("format") == "binary":
        return "bytes"
    pattern = {messages.Identifier.__metadata__[0].metadata[-1].pattern: "identifier", "^[0-9a-f]{64}$": "digest"}
    if schema.get("pattern") in pattern:
        return pattern[schema["pattern"]]
    low, high = schema.get("minLength", 0), schema.get("maxLength")
    return "text" + (f" of {low} to {high} characters" if high is not None else "")


def _bounds(schema: dict[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    above = f" above {schema['exclusiveMinimum']:g}" if "exclusiveMinimum" in schema else ""
    least = f" from {low:g}" if low is not None else ""
    most = f" to {high}" if high is not None else ""
    return above + least + most


def table_of(kind: type[Message]) -> str:
    """The lines that protocol.md must have for a kind."""
    schema = DEFINITIONS[kind.__name__]
    required = schema.get("required", [])
    lines = ["| field | type | may be left out | meaning |", "|---|---|---|---|"]
    for name, field in schema["properties"].items():
        left_out = "no" if name in required or name == "kind" else f"yes: {_shown(field['default'])}"
        meaning = "which message this is" if name == "kind" else field["description"]
        lines.append(f"| `{name}` | {words_for(field)} | {left_out} | {meaning} |")
    return "\n".join(lines)


def _shown(value: object) -> str:
    if value is None:
        return "nothing"
    return (
        {False: "false", True: "true"}.get(value, value) if isinstance(value, bool) else repr(value).replace("'", '"')
    )


@pytest.mark.parametrize("kind", KINDS)
def test_each_kinds_table_is_what_the_code_takes(kind):
    heading = f"### {kind.__name__}\n"
    assert heading in TEXT, f"protocol.md has no section {kind.__name__}; its table is\n{table_of(kind)}"
    section = TEXT.partition(heading)[2].partition("\n#")[0]
    found = "\n".join(line for line in section.splitlines() if line.startswith("|"))
    assert found == table_of(kind), f"the table of {kind.__name__} should read\n{table_of(kind)}"


def test_it_names_no_kind_that_is_none():
    named = re.findall(r"^### (\w+)$", TEXT.partition("## Messages")[2].partition("\n## ")[0], re.MULTILINE)
    assert sorted(named) == sorted(kind.__name__ for kind in KINDS)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("protocol version", messages.PROTOCOL_VERSION),
        ("bytes of a frame, and of what a zstd frame holds", wire.MAX_MESSAGE_BYTES),
        ("bytes of a message besides the byte strings of its outermost map", wire.MAX_STRUCTURE_BYTES),
        ("fields of the outermost map", wire.MAX_FIELDS),
        ("maps within a message", wire.MAX_MAPS),
        ("tokens of a trajectory", messages.MAX_TOKENS),
        ("task ids of one answer", messages.TASK_IDS_AT_ONCE),
        ("task ids of a run", messages.MOST_TASK_IDS),
        ("bytes of a question's number", sockets.LONGEST_NUMBER),
        ("bytes of a chunk that the gateway sends at once", wire.CHUNK_BYTES),
        ("bytes of a message to an actor", sockets.ANSWER_BYTES),
        ("seconds from connecting to the first message", int(connections.FIRST_WORD_SECONDS)),
        ("connections of a name to one port", connections.MOST_OF_A_NAME),
        (
            "seconds before a name that was cut for what it made the gateway hold may connect again",
            int(connections.RESTS_SECONDS),
        ),
        ("handshakes of a name in that time which no message followed", connections.MOST_UNHEARD),
        ("schema digest", schema_digest()),
        ("prompt digest", form_digest()),
    ],
)
def test_each_figure_is_the_codes(name, value):
    assert re.search(rf"^\| {re.escape(name)} \| `?{value}`? \|", TEXT, re.MULTILINE), f"| {name} | {value} |"


def test_the_client_in_the_text_speaks_what_the_text_says():
    """The example frames in it are those of the code, byte for byte."""
    for name, message in (
        ("Goodbye", example_of(messages.Goodbye)),
        ("LeaseRequest", example_of(messages.LeaseRequest)),
    ):
        shown = re.search(rf"`{name}` as bytes: `([0-9a-f ]+)`", TEXT)
        assert shown is not None, f"`{name}` as bytes: `{encode(message).hex(' ')}`"
        frame = bytes.fromhex(shown[1])
        assert decode(frame) == message
        assert msgpack.unpackb(frame) == message.model_dump()


def test_waits_are_those_of_the_code():
    waits = [wait for wait, _ in zip(channel.backoff(first=1, last=32), range(6), strict=False)]
    assert all(0.75 * 2**n <= wait <= 1.25 * 2**n for n, wait in enumerate(waits))
    assert "1, 2, 4, 8, 16 and then 32 seconds, each a quarter more or less" in TEXT
    assert f"{file_link.CHUNKS_IN_FLIGHT} in flight" in TEXT
