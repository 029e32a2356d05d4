"""What vLLM's engine tells of its load after each step, for whoever follows it (concurrency.py).

Knows vLLM's statistics by name, but imports it by name alone, for `actor.engine`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from actor.concurrency import Load

OnLoad = Callable[[Load], None]


def listener(on_load: OnLoad) -> Any:
    """A class for vLLM's `stat_loggers`. With copies of the model each step of each copy is told.

    It derives from the logger for Prometheus, since vLLM then leaves its own out, which nobody here reads.
    """
    base: Any = importlib.import_module("vllm.v1.metrics.loggers").PrometheusStatLogger

    class Listener(base):  # type: ignore[misc]  # known when vLLM is imported
        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        def record(self, scheduler_stats: Any, iteration_stats: Any, **_: Any) -> None:
            if scheduler_stats is not None:
                on_load(load_of(scheduler_stats, iteration_stats))

        def log_engine_initialized(self) -> None:
            pass

        def record_sleep_state(self, *_: Any, **__: Any) -> None:
            pass

    return Listener


def load_of(scheduler_stats: Any, iteration_stats: Any) -> Load:
    """Of one step; a step without outputs has no statistics of an iteration."""
    usage = scheduler_stats.kv_cache_usage
    waiting = scheduler_stats.num_waiting_reqs + scheduler_stats.num_skipped_waiting_reqs
    running = scheduler_stats.num_running_reqs
    if iteration_stats is None:
        return Load(usage, waiting, running=running)
    return Load(
        usage,
        waiting,
        preempted=iteration_stats.num_preempted_reqs,
        finished=len(iteration_stats.finished_requests),
        cached=iteration_stats.prompt_token_stats.cached_tokens,
        computed=iteration_stats.prompt_token_stats.computed,
        running=running,
    )
