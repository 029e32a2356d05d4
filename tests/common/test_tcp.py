"""What the kernel counts of a connection, against what was sent through libzmq."""

import contextlib
import os
import socket

import pytest
import zmq

from common.tcp import Tap, wire_bytes

SIZES = (0, 1, 33, 100, 214, 222, 223, 253, 254, 255, 256, 1000, 8192, 65536, 1 << 20)
HANDSHAKE = 1000  # bytes of greeting and keys, at most


@contextlib.contextmanager
def both_ends(*, curve):
    """A ROUTER and a DEALER on loopback."""
    context = zmq.Context()
    server, client = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    if curve:
        public, secret = zmq.curve_keypair()
        server.curve_secretkey, server.curve_publickey, server.curve_server = secret, public, True
        client.curve_publickey, client.curve_secretkey = zmq.curve_keypair()
        client.curve_serverkey = public
    port = server.bind_to_random_port("tcp://127.0.0.1")
    client.connect(f"tcp://127.0.0.1:{port}")
    try:
        yield server, client
    finally:
        context.destroy(linger=0)


@pytest.mark.parametrize("curve", [True, False], ids=["curve", "insecure"])
def test_what_was_delivered_is_what_was_received_however_much_it_is(curve):
    with both_ends(curve=curve) as (server, client):
        delivered = said = 0
        for _ in range(20):
            frames = [os.urandom(size) for size in SIZES]
            client.send_multipart(frames)
            heard = server.recv_multipart(copy=False)
            delivered += sum(wire_bytes(len(frame), curve=curve) for frame in heard[1:])
            server.send_multipart([frame.bytes for frame in heard])
            said += sum(wire_bytes(len(frame), curve=curve) for frame in heard[1:])
            client.recv_multipart()
        tap = Tap(heard[-1].get(zmq.SRCFD))
        received, written = tap.passed()
        assert 0 < received - delivered < HANDSHAKE
        assert 0 < written - said < HANDSHAKE
        assert tap.unread() == 0
        tap.close()


def test_a_cut_ends_the_connection_for_the_other_side():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        accepted, address = server.accept()
        tap = Tap(accepted.fileno())
        assert tap.address == f"127.0.0.1:{address[1]}"
        client.sendall(b"five!")
        assert client.recv(0) == b""
        while tap.unread() < 5:
            pass
        assert tap.passed()[0] == 5
        tap.cut()
        assert client.recv(1) == b""
        tap.cut()  # ended already: nothing to do
        tap.close()
        accepted.close()


def test_a_descriptor_that_is_no_connection_is_refused(tmp_path):
    with (tmp_path / "file").open("wb") as stream, pytest.raises(OSError, match="is no TCP connection"):
        Tap(stream.fileno())
    with socket.create_server(("127.0.0.1", 0)) as listening, pytest.raises(OSError, match="is no TCP connection"):
        Tap(listening.fileno())
    before, after = socket.socketpair()
    with before, after, pytest.raises(OSError, match="is no TCP connection"):
        Tap(before.fileno())
