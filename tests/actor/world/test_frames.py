"""Frames between the world's processes."""

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actor.world import frames

HEADERS = st.dictionaries(st.text(max_size=8), st.none() | st.booleans() | st.integers() | st.text(), max_size=4)


@given(st.lists(st.tuples(HEADERS, st.binary(max_size=300)), min_size=1, max_size=4))
def test_frames_come_out_as_they_went_in(sent):
    one, other = socket.socketpair()
    with one, other:
        for head, body in sent:
            frames.send(one, head, body)
        one.shutdown(socket.SHUT_WR)
        received = [frames.receive(other, 1 << 20) for _ in sent]
        assert received == sent
        assert frames.receive(other, 1 << 20) is None


def test_a_frame_cut_off_is_the_end():
    one, other = socket.socketpair()
    with one, other:
        one.sendall(frames.pack({"a": 1}, b"body")[:-1])
        one.shutdown(socket.SHUT_WR)
        assert frames.receive(other, 100) is None


def test_a_frame_above_the_limit_is_refused_before_it_is_read():
    one, other = socket.socketpair()
    with one, other:
        one.sendall(frames.LENGTHS.pack(50, 51))
        with pytest.raises(frames.BadFrame, match="101 bytes is above the limit of 100"):
            frames.receive(other, 100)


@pytest.mark.parametrize("raw", [b"", b"[]", b"1", b"{", b"\xff"])
def test_a_header_that_is_no_json_object_is_refused(raw):
    with pytest.raises(frames.BadFrame):
        frames.header(raw)
