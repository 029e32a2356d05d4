from __future__ import annotations

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import messages, wire
from common.messages import Ack, Heartbeat, Lease, Sampling, Trajectory
from common.wire import decode, encode


def make_lease() -> Lease:
    return Lease(
        lease_id="g000001.0.0",
        group_id="g000001",
        member=0,
        epoch=0,
        task_id="a_1",
        purpose="train",
        minimum_version=2,
        sampling=Sampling(temperature=1.0, max_turns=7, max_turn_tokens=90, max_context_tokens=640),
        time_to_live=60.0,
    )


def make_arrays(**changes):
    """Six tokens: a prompt of two, one sampled turn of two, an observation of one, one sampled turn of one."""
    arrays = {
        "token_bytes": np.array([5, 6, 7, 8, 9, 10], "<i4"),
        "sampled_bytes": np.array([0, 0, 1, 1, 0, 1], "u1"),
        "log_prob_bytes": np.array([0, 0, -0.5, -1.5, 0, -0.1], "<f4"),
        "version_bytes": np.array([-1, -1, 2, 3, -1, 3], "<i4"),
        "turn_bytes": np.array([[2, 4], [5, 6]], "<i4"),
    }
    return {name: array.tobytes() for name, array in (arrays | changes).items()}


def make_trajectory(**changes) -> Trajectory:
    return Trajectory(
        trajectory_id="g000001.0.0",
        lease=make_lease(),
        actor="actor-0",
        **make_arrays(**changes),
        reward=0.5,
        success=False,
        started_at=1.7e9,
        seconds=1.0,
        engine_seconds=0.5,
        world_seconds=0.25,
    )


def every_kind() -> list[type[messages.Message]]:
    found = [kind for kind in vars(messages).values() if isinstance(kind, type) and issubclass(kind, messages.Message)]
    return [kind for kind in found if "kind" in kind.model_fields]


def example_of(kind: type[messages.Message]) -> messages.Message:
    """A message of each field's own example."""
    if kind is Trajectory:
        return make_trajectory()
    if kind is Lease:
        return make_lease()
    fields = {name: field for name, field in kind.model_fields.items() if name != "kind"}
    values = {name: field.examples[0] if field.examples else (make_lease(),) for name, field in fields.items()}
    return kind(**values)


@pytest.mark.parametrize("kind", every_kind())
def test_every_kind_comes_back_as_it_was_sent(kind):
    message = example_of(kind)
    assert decode(encode(message)) == message


def test_the_arrays_come_back_as_numbers():
    back = decode(encode(make_trajectory()))
    assert isinstance(back, Trajectory)
    assert back.tokens.tolist() == [5, 6, 7, 8, 9, 10]
    assert back.sampled.tolist() == [False, False, True, True, False, True]
    assert back.log_probs.tolist() == pytest.approx([0, 0, -0.5, -1.5, 0, -0.1])
    assert back.turns.tolist() == [[2, 4], [5, 6]]
    assert back.oldest_version == 2


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"sampled_bytes": np.zeros(0, "u1")}, "sampled_bytes"),
        ({"sampled_bytes": np.array([0, 0, 2, 1, 0, 1], "u1")}, "sampled_bytes"),
        ({"sampled_bytes": np.zeros(6, "u1"), "version_bytes": np.full(6, -1, "<i4")}, "sampled_bytes"),
        ({"token_bytes": np.arange(5, dtype="<i4")}, "token_bytes"),
        ({"token_bytes": np.array([5, 6, -7, 8, 9, 10], "<i4")}, "token_bytes"),
        ({"log_prob_bytes": np.array([0, 0, np.nan, -1.5, 0, -0.1], "<f4")}, "log_prob_bytes"),
        ({"log_prob_bytes": np.array([0, 0, -np.inf, -1.5, 0, -0.1], "<f4")}, "log_prob_bytes"),
        ({"log_prob_bytes": np.array([0, 0, 0.5, -1.5, 0, -0.1], "<f4")}, "log_prob_bytes"),
        ({"version_bytes": np.array([2, -1, 2, 3, -1, 3], "<i4")}, "version_bytes"),
        ({"version_bytes": np.array([-1, -1, -1, 3, -1, 3], "<i4")}, "version_bytes"),
        ({"turn_bytes": np.array([2, 4, 5], "<i4")}, "turn_bytes"),
        ({"turn_bytes": np.array([[2, 4]], "<i4")}, "turn_bytes"),
        ({"turn_bytes": np.array([[2, 4], [5, 7]], "<i4")}, "turn_bytes"),
        ({"turn_bytes": np.array([[5, 6], [2, 4]], "<i4")}, "turn_bytes"),
        ({"turn_bytes": np.array([[-1, 4], [5, 6]], "<i4")}, "turn_bytes"),
        ({"turn_bytes": np.array([[1, 4], [5, 6]], "<i4")}, "turn_bytes"),
        # differences that wrap to small positive numbers in int32, and would ask for gibibytes
        ({"turn_bytes": np.array([[2**31 - 1, -(2**31)], [-(2**31) + 1, 6]], "<i4")}, "turn_bytes"),
    ],
)
def test_arrays_that_do_not_agree_are_refused_by_name(changes, field):
    with pytest.raises(ValueError, match=rf"{field}: "):
        make_trajectory(**changes)


def test_contexts_after_the_first_begin_with_what_they_repeat():
    trajectory = make_trajectory(context_bytes=np.array([[4, 5]], "<i4"))
    assert decode(encode(trajectory)) == trajectory
    assert trajectory.contexts.tolist() == [[0, 4], [4, 6]]
    tokens, turns = trajectory.transcript
    assert (tokens.tolist(), turns.tolist()) == ([5, 6, 7, 8, 10], [[2, 4], [4, 5]])
    whole = make_trajectory()
    assert (whole.contexts.tolist(), whole.context_bytes) == ([[0, 6]], b"")
    assert whole.transcript[0].tolist() == whole.tokens.tolist()


@pytest.mark.parametrize(
    "bounds",
    [
        [4],
        [[0, 1]],
        [[4, 4]],
        [[5, 4]],
        [[4, 6]],
        [[-3, 5]],
        [[4, 7]],
        [[3, 5]],  # a token that was sampled is in what is repeated
        [[1, 2]],  # nothing was sampled in the first
        [[2, 3]],
        [[4, 5], [4, 5]],
        [[4, 5], [2**31 - 1, -(2**31)]],
    ],
)
def test_contexts_that_cannot_be_are_refused_by_name(bounds):
    with pytest.raises(ValueError, match="context_bytes: "):
        make_trajectory(context_bytes=np.array(bounds, "<i4"))


def test_what_differs_is_named():
    frame = msgpack.packb({"kind": "heartbeat", "policy_version": 1, "episodes": "many"})
    with pytest.raises(ValueError, match=r"^heartbeat\.episodes: "):
        decode(frame)


def test_an_unknown_field_is_refused():
    plain = example_of(Ack).model_dump()
    with pytest.raises(ValueError, match=r"^ack\.extra: "):
        decode(msgpack.packb({**plain, "extra": 1}))


def test_a_message_that_no_peer_would_take_is_not_sent(monkeypatch):
    monkeypatch.setattr(wire, "MAX_MESSAGE_BYTES", 10)
    with pytest.raises(ValueError, match="allowed are 10"):
        encode(example_of(Ack))
    with pytest.raises(ValueError, match="allowed are 10"):
        decode(b"x" * 11)


def raises_nothing_but_value_error(frame: bytes) -> None:
    reason = "none"
    try:
        decode(frame)
    except ValueError as error:
        reason = str(error)
    assert len(reason.splitlines()) == 1


@given(st.binary(max_size=300))
def test_no_frame_raises_anything_but_value_error(frame):
    raises_nothing_but_value_error(frame)


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


@given(st.sampled_from(every_kind()), st.data())
def test_no_message_with_another_field_value_raises_anything_but_value_error(kind, data):
    plain = example_of(kind).model_dump()
    plain[data.draw(st.sampled_from(sorted(plain)))] = data.draw(PLAIN)
    raises_nothing_but_value_error(msgpack.packb(plain))


@given(st.integers(0, 400), st.integers(0, 255))
def test_no_flipped_byte_raises_anything_but_value_error(place, value):
    frame = bytearray(encode(make_trajectory()))
    frame[place % len(frame)] = value
    raises_nothing_but_value_error(bytes(frame))


@pytest.mark.parametrize(
    "frame",
    [
        b"\xdd\xff\xff\xff\xff",  # an array that says it holds 4 billion
        b"\xdf\xff\xff\xff\xff",  # a map likewise
        b"\x91" * 100_000,  # nesting
        b"\xc7\x00\x05",  # an extension type
        b"\xd6\xff\x00\x00\x00\x00",  # a timestamp
        b"\x81\xa4kind\xa2\xff\xfe",  # text that is not UTF-8
        b"\x81\x01\x02",  # a key that is no text
        msgpack.packb(Heartbeat.model_fields["episodes"].examples),
    ],
)
def test_a_hostile_frame_is_a_value_error(frame):
    with pytest.raises(ValueError, match=": "):
        decode(frame)
