"""An actor's process: the lock of its folder, its signals, and the worker that lives in it."""

from __future__ import annotations

import asyncio
import os
import signal

from actor.config import ActorConfig, WorldConfig
from actor.gauges import MEASURES
from actor.worker import Worker
from actor.world_protocol import provider_of
from common.config import LinkConfig, RunConfig
from common.exporter import exporting
from common.log import get_logger
from common.metrics_config import MetricsConfig
from common.notify import Notifier
from common.prompt_config import PromptConfig
from common.pulse import Pulse
from common.run_lock import only_one

log = get_logger(__name__)


async def run_actor(
    run: RunConfig,
    link: LinkConfig,
    world: WorldConfig,
    config: ActorConfig,
    prompt: PromptConfig,
    *,
    metrics: MetricsConfig,
) -> None:
    """Run an actor until its run is finished. SIGTERM or SIGINT: leave politely; again: end at once.

    Raises:
        UsageError: another actor works in its folder, or there is no such provider of worlds.
        UsageError, RunError: as `Worker.run`.
    """
    provider = provider_of(world.provider)
    worker = Worker(run, link, world, config, prompt, provider=provider, notifier=Notifier())
    signals = 0

    def on_signal(name: str) -> None:
        nonlocal signals
        signals += 1
        if signals > 1:
            log.warning("ended_at_once", signal=name, reason="a second signal")
            os._exit(1)
        log.info("signal_received", signal=name)
        worker.stop("signal")

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number.name)
    # a stopped process that wakes up beside its successor would write into the same spool
    with only_one(worker.folder / "actor.lock"):
        pulse = Pulse("actor")
        beating = asyncio.create_task(worker.gauges.beat(pulse))
        try:
            with exporting(metrics, run.folder, config.name, MEASURES, pulse):
                await worker.run()
        finally:
            beating.cancel()
