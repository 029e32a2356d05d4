"""The gateway's figures kept up to date and served: /metrics of the whole learner, /health of the gateway's loop."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from common.exporter import exporting
from common.log import get_logger
from common.measures import Figures
from common.metrics_config import MetricsConfig
from common.pulse import Pulse
from common.status_messages import Status
from learner.gateway.gauges import MEASURES, figures_of
from learner.gateway.step_counts import StepCounts

log = get_logger(__name__)
BEAT_SECONDS = 1.0
PICTURE_SECONDS = 5.0  # between two pictures of the run


@contextlib.asynccontextmanager
async def exported(
    metrics: MetricsConfig, folder: Path, run_id: str, picture: Callable[[], Status]
) -> AsyncIterator[Pulse]:
    """Within this the loop that runs it beats, and what it has is served as `metrics` says.

    `picture` gives how the run stands; it is asked for every few seconds, and only where somebody may see it.
    """
    pulse = Pulse("learner.gateway", Figures(labels={"run": run_id}))
    counts = StepCounts(folder / "metrics.jsonl")
    beating = asyncio.create_task(_beat(pulse, picture if metrics.serve else None))
    try:
        with exporting(metrics, folder, "learner", MEASURES, pulse, more=counts.read):
            yield pulse
    finally:
        beating.cancel()


async def _beat(pulse: Pulse, picture: Callable[[], Status] | None) -> None:
    taken_at, waiting_for, failed = float("-inf"), "", False
    while True:
        now, figures = time.monotonic(), None
        if picture is not None and now - taken_at >= PICTURE_SECONDS:
            taken_at = now
            try:
                status = picture()
                figures, waiting_for = figures_of(status), status.waiting_for
            except Exception as error:
                if not failed:
                    log.error("figures_failed", reason=f"{type(error).__name__}: {error}"[:300], exc_info=error)
                failed = True
        pulse.beat(figures, waiting_for)
        await asyncio.sleep(BEAT_SECONDS)
