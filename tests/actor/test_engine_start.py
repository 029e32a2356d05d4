"""What is left of an engine that was stopped."""

import threading
from types import SimpleNamespace

import zmq
import zmq.asyncio

from actor.engine_start import stop_vllm


def test_the_context_that_vllm_leaves_open_ends_with_its_last_socket():
    context = zmq.Context()
    socket = zmq.asyncio.Context(context).socket(zmq.PULL)  # as vLLM has them: a shadow of it for asyncio
    stops = []

    def shutdown(timeout):
        stops.append(timeout)

    vllm = SimpleNamespace(
        shutdown=shutdown,
        engine_core=SimpleNamespace(resources=SimpleNamespace(ctx=context)),
    )
    stop_vllm(vllm)
    (ending,) = [thread for thread in threading.enumerate() if thread.name == "zmq-term"]
    assert (stops, ending.is_alive(), context.closed) == ([1.0], True, False)
    socket.close(linger=0)
    ending.join(60)
    assert context.closed
    vllm.shutdown()  # what its finalizer calls does nothing
    assert stops == [1.0]
