"""vLLM's engine from its arguments to its process; besides actor/engine.py the only file that imports vLLM."""

from __future__ import annotations

import dataclasses
import threading
from typing import TYPE_CHECKING, Any

from actor.engine_load import OnLoad, listener
from actor.engine_process import Starting, check_names, forked_engine, import_vllm, one_line
from common.errors import RunError, UsageError

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM


def start_vllm(arguments: dict[str, Any], cpus: str, starting: Starting, on_load: OnLoad | None) -> AsyncLLM:
    """Blocks for seconds. `cpus` are the cores that its process is kept to; `on_load` is told each of its steps.

    Raises:
        UsageError: an argument that vLLM does not know or does not take, in its words; a folder that is no model.
        RunError: the engine does not start.
    """
    import_vllm()
    from vllm.engine.arg_utils import AsyncEngineArgs  # noqa: PLC0415 - `--help` and the tests of others do without
    from vllm.v1.engine.async_llm import AsyncLLM  # noqa: PLC0415
    from vllm.v1.executor import Executor  # noqa: PLC0415

    folder = arguments["model"]
    check_names(arguments, (field.name for field in dataclasses.fields(AsyncEngineArgs)))
    try:
        vllm_config = AsyncEngineArgs(**arguments).create_engine_config()
    except Exception as error:  # a wrong type may fail anywhere in there
        raise UsageError(f"vLLM refuses the engine's configuration for {folder}: {one_line(error)}") from error
    starting.check()
    try:
        with forked_engine(cpus):
            return AsyncLLM(
                vllm_config,
                Executor.get_class(vllm_config),
                log_stats=False,
                log_requests=False,
                stat_loggers=[listener(on_load)] if on_load is not None else None,
            )
    except Exception as error:
        raise RunError(f"vLLM's engine did not start on {folder}: {one_line(error)}; see the log") from error


def stop_vllm(vllm: AsyncLLM) -> None:
    """End the engine's process and what vLLM leaves open of it here. Blocks for up to a second."""
    vllm.shutdown(timeout=1.0)
    # its finalizer would do it again, in an interpreter that is half gone
    vllm.shutdown = lambda: None
    # a context ends when the event loop has closed its sockets, which may be after this call
    threading.Thread(target=vllm.engine_core.resources.ctx.term, name="zmq-term", daemon=True).start()
