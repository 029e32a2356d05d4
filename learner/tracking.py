"""TensorBoard and Weights & Biases: what is written to metrics.jsonl, passed on by a process of its own.

    gateway, trainer ─► metrics.jsonl ─► this process ─► tensorboard/ and wandb/ in the run's folder, W&B's servers

Started by the learner's parent where the configuration asks for one of them, and ended by it. Nothing of a run waits
for it or reads what it makes: a package that is missing, a network that is away, an error in either is one warning,
after which that one gets nothing more.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import secrets
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from common.config import Loaded, RunConfig, parse_command_line
from common.log import configure, get_logger
from common.metrics import MetricsReader
from common.metrics_config import MetricsConfig
from common.processes import parent_of_this
from learner.config import SECTIONS

log = get_logger("learner.tracking")  # __name__ is "__main__" in its process
LOOK_SECONDS = 1.0
REMEDY = "pip install 'loop-rl[tracking]'"
# events of metrics.jsonl that are passed on, the folder of their figures' names, and what a figure is drawn over
MODULES = {"tensorboard": "tensorboardX", "wandb": "wandb"}
PASSED_ON = {"step": "train", "evaluation": "evaluation", "rollouts": "rollouts", "draws": "draws", "reload": "reload"}
NO_FIGURES = ("time", "step", "by_scenario")


class Board(Protocol):
    """Who gets the figures. Whatever it raises switches it off."""

    name: str

    def write(self, figures: Mapping[str, float], step: int) -> None:
        """Figures by name at a step."""

    def close(self) -> None: ...


class Figures:
    """Lines of metrics.jsonl as figures by name and the step they are drawn over."""

    def __init__(self, step: int = 0) -> None:
        self.step = step  # the newest that was made: what is not of a step is drawn there

    def of(self, event: Mapping[str, Any]) -> tuple[dict[str, float], int] | None:
        """None for what has no figures."""
        folder = PASSED_ON.get(str(event.get("event")))
        if folder is None:
            return None
        if event["event"] == "step" and isinstance(event.get("step"), int):
            self.step = event["step"]
        step = self.step
        if event["event"] == "evaluation":
            folder = f"{folder}/{event.get('label', '')}"
            step = int(event.get("policy_version", step))
        figures = {f"{folder}/{name}": value for name, value in _numbers(event) if name not in NO_FIGURES}
        return figures, step


def _numbers(tree: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Numbers by their path, and a list's by their place (an interval's two ends)."""
    for name, value in tree.items():
        if name in NO_FIGURES:
            continue
        if isinstance(value, int | float):
            yield name, float(value)
        elif isinstance(value, Mapping):
            yield from ((f"{name}/{inner}", number) for inner, number in _numbers(value))
        elif isinstance(value, list) and len(value) == 2 and all(isinstance(end, int | float) for end in value):
            yield from zip((f"{name}/low", f"{name}/high"), map(float, value), strict=True)


def wanted(metrics: MetricsConfig) -> list[str]:
    """Names of those that the configuration asks for."""
    return ["tensorboard"] * metrics.tensorboard + ["wandb"] * bool(metrics.wandb)


def to_be_had(metrics: MetricsConfig) -> list[str]:
    """Of them, those whose package is there; of the others it is said what to do."""
    missing = [name for name in wanted(metrics) if importlib.util.find_spec(MODULES[name]) is None]
    for name in missing:
        log.warning("tracking_is_off", name=name, reason=f"there is no package {MODULES[name]}", remedy=REMEDY)
    return [name for name in wanted(metrics) if name not in missing]


class TensorBoard:
    """Event files in tensorboard/. Raises ImportError without tensorboardX."""

    name = "tensorboard"

    def __init__(self, run: Path) -> None:
        self._writer: Any = importlib.import_module("tensorboardX").SummaryWriter(str(run / "tensorboard"))

    def write(self, figures: Mapping[str, float], step: int) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run of W&B; the same again when the learner is started again. Raises ImportError without wandb.

    Without a key, or where its servers are not reached, what it gets lies in wandb/, and `wandb sync` sends it later.
    """

    name = "wandb"

    def __init__(self, run: Path, project: str, config: Mapping[str, Any]) -> None:
        wandb: Any = importlib.import_module("wandb")
        (run / "wandb").mkdir(parents=True, exist_ok=True)
        begin = {
            "project": project,
            "name": run.resolve().name,
            "id": _own_id(run / "wandb" / "id"),
            "resume": "allow",
            "dir": str(run),
            "config": dict(config),
        }
        mode = os.environ.get("WANDB_MODE") or ("online" if _has_key(wandb) else "offline")
        try:
            self._run: Any = wandb.init(mode=mode, **begin)
        except Exception as error:
            if mode == "offline":
                raise
            log.warning("wandb_goes_on_offline", reason=f"{type(error).__name__}: {error}"[:300])
            mode, self._run = "offline", wandb.init(mode="offline", **begin)
        log.info("wandb_began", mode=mode, project=project, folder=str(run / "wandb"))
        # figures come in the order of the file, not of steps: an evaluation's is its version
        self._run.define_metric("*", step_metric="step")

    def write(self, figures: Mapping[str, float], step: int) -> None:
        self._run.log({**figures, "step": step})

    def close(self) -> None:
        self._run.finish()


def _has_key(wandb: Any) -> bool:
    """Whether W&B would not have to ask a person, who is not there."""
    return bool(os.environ.get("WANDB_API_KEY") or getattr(getattr(wandb, "api", None), "api_key", None))


def _own_id(file: Path) -> str:
    if not file.exists():
        file.write_text(secrets.token_hex(8) + "\n", encoding="utf-8")
    return file.read_text(encoding="utf-8").strip()


def opened(run: Path, metrics: MetricsConfig, config: Mapping[str, Any]) -> list[Board]:
    """Those that the configuration asks for and that can be had; of each of the others it is said why not."""
    making: dict[str, Callable[[], Board]] = {
        "tensorboard": lambda: TensorBoard(run),
        "wandb": lambda: WeightsAndBiases(run, metrics.wandb, config),
    }
    boards: list[Board] = []
    for name in wanted(metrics):
        try:
            boards.append(making[name]())
        except Exception as error:  # noqa: BLE001 - whatever it is, the run goes on without
            _say_off(name, error)
    return boards


class Follower:
    """Passes metrics.jsonl on to one board, each line once: how far it got is kept in the run's folder."""

    def __init__(self, run: Path, board: Board) -> None:
        self.works = True
        self._board, self._kept = board, run / board.name / "passed_on.json"
        offset, step = self._so_far(run / "metrics.jsonl")
        self._figures = Figures(step)
        self._reader = MetricsReader(run / "metrics.jsonl", only=PASSED_ON, offset=offset)

    def look(self) -> None:
        """Pass on what is new. An error of the board's switches it off."""
        before = self._reader.offset
        try:
            for event in self._reader.new():
                found = self._figures.of(event)
                if found is not None:
                    self._board.write(*found)
            if self._reader.offset != before:
                self._kept.parent.mkdir(parents=True, exist_ok=True)
                self._kept.write_text(json.dumps({"offset": self._reader.offset, "step": self._figures.step}) + "\n")
        except Exception as error:  # noqa: BLE001 - as above
            self.works = False
            _say_off(self._board.name, error)

    def close(self) -> None:
        """Pass on the rest."""
        self.look()
        if self.works:
            try:
                self._board.close()
            except Exception as error:  # noqa: BLE001 - as above
                _say_off(self._board.name, error)

    def _so_far(self, file: Path) -> tuple[int, int]:
        try:
            kept = json.loads(self._kept.read_text(encoding="utf-8"))
            offset, step = int(kept["offset"]), int(kept["step"])
            return (offset, step) if offset <= file.stat().st_size else (0, 0)
        except (OSError, ValueError, KeyError, TypeError):
            return 0, 0


def _say_off(name: str, error: Exception) -> None:
    remedy = REMEDY if isinstance(error, ImportError) else "the run goes on without"
    log.warning("tracking_is_off", name=name, reason=f"{type(error).__name__}: {error}"[:300], remedy=remedy)


def _settings(loaded: Loaded) -> dict[str, Any]:
    """The configuration as W&B shows it: what is learned, and how; no addresses."""
    tree: dict[str, Any] = {name: section.model_dump(mode="json") for name, section in loaded.items()}
    return {name: tree[name] for name in ("prompt", "learner")}


def main(argv: Sequence[str]) -> int:
    """Pass figures on until a signal comes or whoever started this one is gone. Always 0: nothing depends on it."""
    loaded, flags = parse_command_line(
        SECTIONS,
        argv,
        usage="usage: python -m learner.tracking [--config FILE]",
        flags={"stop-with-parent": "stop when the process that started this one is gone"},
    )
    run, metrics = loaded.section("run", RunConfig), loaded.section("metrics", MetricsConfig)
    file = run.folder / "logs" / "tracking.jsonl"
    configure("learner.tracking", file=file, level=run.log_level)
    stop, parent = threading.Event(), parent_of_this()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    followers = [Follower(run.folder, board) for board in opened(run.folder, metrics, _settings(loaded))]
    while followers and not stop.wait(LOOK_SECONDS):
        for follower in followers:
            follower.look()
        followers = [follower for follower in followers if follower.works]
        if flags["stop-with-parent"] and os.getppid() != parent:
            break
    for follower in followers:
        follower.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
