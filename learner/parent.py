"""The learner's parent process: starts gateway and trainer, watches both, ends with the cause when one dies.

    loop learner ──► gateway   the only process on the network; ends when the run is over
              ├────► trainer   the only process with the model; ends after the last step (several ranks: --nproc)
              └────► tracking  for TensorBoard and W&B, where asked for; nothing depends on it

A signal to this process ends all. When this one is killed, they notice and end by themselves. Under systemd they tell
this one how they are, and it tells systemd (vigil.py).
"""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import log as logs
from common.checkpoint import sync
from common.config import Loaded, RunConfig, dump
from common.errors import RunError, UsageError
from common.log import get_logger
from common.metrics import MetricsReader
from common.metrics_config import MetricsConfig
from common.notify import Notifier
from common.processes import Children, ending, last_line
from common.run_lock import only_one
from learner import tracking
from learner.config import LearnerConfig
from learner.rank_processes import LOST_EXIT, environments, name_of, stem_of
from learner.vigil import Vigil

log = get_logger(__name__)

POLL_SECONDS = 0.2
GRACE_SECONDS = 5.0
CAUSE_SECONDS = 10.0  # a rank that lost another may end before it; the other's end is the cause
TRACKING_SECONDS = 15.0  # for TensorBoard and W&B to take the last figures, when all is over
FAREWELL_SECONDS = 60.0  # a trainer that has made its last step may still be letting go of its memory
RELAYED = ("phase", "step", "evaluation")  # of metrics.jsonl, shown as they come
SHOWN = ("name", "step", "policy_version", "mean_reward", "success_share", "loss", "label", "tgc", "sgc", "tasks")


def run(resolved: Loaded, passed_on: list[str], *, resumed: bool, ranks: int = 1) -> int:
    """Run the learner to its end or a signal; `passed_on` are the words of configuration that the children get too.

    The trainer runs in `ranks` processes.

    Raises:
        UsageError: a child refused its input, or another learner is at work in the folder.
        RunError: a child died.
    """
    where = resolved.section("run", RunConfig)
    logs.configure("learner", **where.log("learner"), to="output", run=where.folder.name)
    try:
        with only_one(where.folder / "learner.lock"):
            with only_one(where.folder / "gateway.lock"):
                pass  # the children of a learner that was killed have ended
            _keep_config(where.folder / "config.yaml", resolved)
            learner, metrics = resolved.section("learner", LearnerConfig), resolved.section("metrics", MetricsConfig)
            with _tracked(where, metrics, passed_on):
                return _watch(where, learner, passed_on, resumed=resumed, ranks=ranks)
    except (UsageError, RunError) as error:
        log.error("learner_failed", reason=str(error))
        raise


def _keep_config(file: Path, resolved: Loaded) -> None:
    """The configuration as resolved, unless whoever started this wrote it already (`loop demo` does)."""
    if not file.exists():
        draft = file.with_name(".config.yaml.draft")
        draft.write_text(dump(resolved), encoding="utf-8")
        sync(draft)
        draft.rename(file)


@contextlib.contextmanager
def _tracked(run: RunConfig, metrics: MetricsConfig, passed_on: list[str]) -> Iterator[None]:
    """TensorBoard and W&B beside, where they are asked for. Nothing waits for their process, and it may die."""
    children = Children()
    if tracking.to_be_had(metrics):
        words = ["learner.tracking", *passed_on, "--stop-with-parent"]
        children.start("tracking", words, output=_output_of(run, "tracking"))
    try:
        yield
    finally:
        for code in children.ended().values():
            log.warning("tracking_ended", code=code, output=str(_output_of(run, "tracking")))
        children.stop(TRACKING_SECONDS)


def _watch(run: RunConfig, learner: LearnerConfig, passed_on: list[str], *, resumed: bool, ranks: int) -> int:
    """Start the children and stay until the run is over, a signal comes, or one of them fails."""
    stopped_by: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda caught, _: stopped_by.append(caught))
    metrics = MetricsReader(run.folder / "metrics.jsonl")
    list(metrics.new())  # what an earlier session left is not news
    environment = {
        # two processes whose threads spin while they wait slow each other down manyfold on few cores
        "OMP_WAIT_POLICY": "PASSIVE",
        "OMP_NUM_THREADS": str(learner.model.threads),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }
    children, vigil = Children(), Vigil(Notifier())
    environment |= vigil.environment()
    words = [*passed_on, "--stop-with-parent"]
    trainer = ["learner.trainer.loop", *words, *(["--resume"] if resumed else [])]
    try:
        arguments = ["learner.gateway.service", *words]
        gateway = children.start("gateway", arguments, output=_output_of(run, "gateway"), environment=environment)
        vigil.watch("gateway", gateway.pid)
        for rank, own in enumerate(environments(ranks)):
            name = name_of(rank, ranks)
            one = children.start(name, trainer, output=_output_of(run, name), environment={**environment, **own})
            vigil.watch(name, one.pid)
        if not _wait_for_end(run, children, vigil, metrics, stopped_by):
            log.info("learner_stopped", signal=signal.Signals(stopped_by[0]).name)
            return 0
    finally:
        vigil.stopping()
        children.stop(GRACE_SECONDS)
        vigil.close()
    _relay(metrics)
    log.info("learner_done", folder=str(run.folder))
    return 0


def _wait_for_end(
    run: RunConfig, children: Children, vigil: Vigil, metrics: MetricsReader, stopped_by: list[int]
) -> bool:
    """Returns True when all children have ended well, False on a signal. Raises when one failed.

    The gateway ends when the run is over; the trainer may take longer to let go of its memory.
    """
    over = math.inf  # when the gateway ended
    lost: dict[str, float] = {}  # ranks that ended because another one had, and when
    while children.watched():
        if stopped_by:
            return False
        now = time.monotonic()
        for name, code in children.ended().items():
            if code == LOST_EXIT and now - lost.setdefault(name, now) < CAUSE_SECONDS:
                continue
            children.forget(name)
            vigil.forget(name)
            if code:
                raise _failure(run, name, code)
            over = now if name == "gateway" else over
            log.info("child_ended", name=name)
        if children.watched() and now - over > FAREWELL_SECONDS:
            raise _failure(run, "gateway", 0)
        _relay(metrics)
        vigil.look()
        time.sleep(POLL_SECONDS)
    return True


def _relay(metrics: MetricsReader) -> None:
    for event in metrics.new():
        if event.get("event") in RELAYED:
            told = {name: _short(event[name]) for name in SHOWN if name in event}
            log.info("run_goes_on", what=str(event["event"]), **told)


def _short(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value


def _output_of(run: RunConfig, name: str) -> Path:
    return run.folder / "logs" / f"{stem_of(name)}.out"


def _failure(run: RunConfig, name: str, code: int) -> RunError | UsageError:
    """The error that says which child ended, and why."""
    output = _output_of(run, name)
    if code == 2:
        return UsageError(last_line(output).removeprefix(f"{name}: "))
    go_on = f"see {output.with_suffix('.jsonl')}, and go on with --resume"
    return RunError(f"{ending(name, code, output)}; {go_on}")
