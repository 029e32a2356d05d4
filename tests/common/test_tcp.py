"""Which descriptors are TCP connections."""

import os
import socket
from pathlib import Path

import pytest

from common.tcp import Tap


@pytest.fixture
def pair():
    """A connection's two ends."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as one:
        two, _ = server.accept()
        with two:
            yield one, two


def test_a_connection_is_named_by_its_other_end(pair):
    one, two = pair
    tap = Tap(two.fileno())
    assert tap.address == "{}:{}".format(*one.getsockname())
    tap.close()


def test_a_number_that_has_come_to_mean_something_else_is_no_connection():
    """A gateway that was stopped hears late of connections, when their descriptors' numbers are others' by then."""
    one, two = socket.socketpair()
    with one, two, Path(os.devnull).open() as other:
        for descriptor in (one.fileno(), other.fileno()):
            before = len(list(Path("/proc/self/fd").iterdir()))
            with pytest.raises(OSError, match="no TCP connection"):
                Tap(descriptor)
            assert len(list(Path("/proc/self/fd").iterdir())) == before
