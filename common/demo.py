"""`loop demo`: from nothing to a policy that learned, on one machine, in real processes.

    world install ─► world build ─► demonstrate ─► warm-start ─► keys ─► learner ═ actor(s) ─► table, picture, JSON
                                                                         │
                                       metrics.jsonl ◄── evaluate before, train, evaluate after

Each arrow is a `loop` command that a user may run alone; what was made already is not made again, so `--resume RUN` is
the same way walked once more. This process only starts, watches and ends the others, and reads metrics.jsonl.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import Field

import common.log
from common.config import Loaded, RunConfig, Section, all_sections, dump, load, parse_command_line
from common.errors import RunError, UsageError
from common.evaluation import label_of
from common.figures import Event, Figures, collect
from common.metrics import MetricsFile, MetricsReader
from common.processes import Children, ending, last_line

if TYPE_CHECKING:
    from common.display import Display

TINY = Path(__file__).resolve().parent.parent / "configs" / "tiny.yaml"
USAGE = "usage: loop demo [--json] [--seed N] [--resume RUN] [--insecure] [--config FILE] [--section.key value ...]"
POLL_SECONDS = 0.5
ACTOR_STOP_SECONDS, LEARNER_STOP_SECONDS = 6.5, 3.0
ACTOR_RESTARTS = 3

log = common.log.get_logger(__name__)


class DemoConfig(Section):
    """What `loop demo` adds to a run."""

    actors: int = Field(default=1, ge=1, le=64, description="actor processes on this machine, count", examples=[1])
    demonstrations: int = Field(
        default=2000, ge=1, description="noisy demonstrations that the warm-start learns from, count", examples=[2000]
    )


def main(argv: Sequence[str]) -> int:
    """Run the demo. Exit code 1 when held-out success did not rise or a process failed."""
    argv, resumed = _resolve_shorthands(list(argv))
    default_config = [] if any(word.partition("=")[0] == "--config" for word in argv) else ["--config", str(TINY)]
    loaded, flags = parse_command_line(
        all_sections(),
        [*default_config, *argv],
        usage=USAGE,
        flags={"json": "one JSON object on standard output, nothing else"},
    )
    run = _run_folder(loaded, resumed)
    signal.signal(signal.SIGTERM, _interrupt)
    demo = Demo(loaded, run, resumed=resumed is not None)
    try:
        figures = demo.train()
    except KeyboardInterrupt:
        sys.stderr.write(f"\nstopped; go on with: loop demo --resume {run}\n")
        return 130
    return _tell(figures, demo, as_json=flags["json"])


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _resolve_shorthands(argv: list[str]) -> tuple[list[str], Path | None]:
    """`--seed N` is `--run.seed N`; `--resume RUN` takes the configuration that the run was started with."""
    words: list[str] = []
    resumed: Path | None = None
    rest = iter(argv)
    for word in rest:
        name, equals, value = word.partition("=")
        if name not in ("--seed", "--resume"):
            words.append(word)
            continue
        text = value if equals else next(rest, None)
        if text is None:
            raise UsageError(f"{name}: a value is missing; {USAGE}")
        if name == "--seed":
            words += ["--run.seed", text]
        else:
            resumed = Path(text)
    if resumed is not None:
        if not (resumed / "config.yaml").is_file():
            raise UsageError(f"{resumed}: not the folder of a run: it has no config.yaml")
        words = ["--config", str(resumed / "config.yaml"), *words]
    return words, resumed


def _run_folder(loaded: Loaded, resumed: Path | None) -> Path:
    if resumed is not None:
        return resumed.resolve()
    folder: Path = loaded["run"].folder
    if "folder" not in loaded["run"].model_fields_set:
        now = dt.datetime.now(tz=dt.UTC)
        folder = Path("runs") / f"demo-{now:%Y%m%d-%H%M%S}-seed{loaded['run'].seed}"
    if (folder / "config.yaml").exists():
        raise UsageError(
            f"{folder}: a run is there already; go on with --resume {folder}, or name another --run.folder"
        )
    return folder.resolve()


class Demo:
    """One run: its folder, its resolved configuration, and where the seconds went."""

    def __init__(self, loaded: Loaded, run: Path, *, resumed: bool) -> None:
        self.run = run
        self.begun = time.monotonic()
        self.preparation_seconds: dict[str, float] = {}
        self._loaded = loaded
        self._resumed = resumed
        self._children = Children()
        self._restarts = 0
        options = loaded.section("run", RunConfig).model_copy(update={"folder": run}).log("demo")
        common.log.configure("demo", **options, to="file", run=run.name)

    def train(self) -> Figures:
        """Walk the whole way; ends its processes whatever happens.

        Raises:
            RunError: a step or process failed; the message says which and what it said last.
        """
        from common.display import Display  # noqa: PLC0415 - brings rich; `--help` does without

        with Display() as display:
            try:
                self._prepare(display)
                self._start_learner(display)
                return self._watch(display)
            finally:
                # actors first: they give their leases back while there is still somebody to take them
                self._children.stop(ACTOR_STOP_SECONDS, self._actors())
                self._children.stop(LEARNER_STOP_SECONDS)

    def behaviour(self, labels: Sequence[str]) -> list[dict[str, Any]]:
        """What the policy did in its evaluations, as `loop behaviour` has it; nothing where it cannot be told."""
        words = [word for label in labels for word in ("--label", label)]
        try:
            sets: list[dict[str, Any]] = json.loads(self._loop("behaviour", "--json", *words, str(self.run)))["sets"]
        except (RunError, UsageError, ValueError) as error:
            log.warning("behaviour_unknown", reason=str(error))
            return []
        return sets

    def _prepare(self, display: Display) -> None:
        config = self.run / "config.yaml"
        with self._timed(display, "AppWorld"):
            self._loop("world", "install")
        with self._timed(display, "world"):
            given: Path | None = self._loaded["world"].root
            root = given or Path(json.loads(self._loop("world", "build", "--json"))["root"])
        if not config.exists():
            self._loaded = self._complete(root)
            config.write_text(dump(self._loaded), encoding="utf-8")
        model = self._loaded["learner"].model.path
        if not model.exists():
            with self._timed(display, "demonstrations"):
                self._demonstrate(root)
            with self._timed(display, "warm-start"):
                demonstrations = str(self.run / "demonstrations.jsonl")
                self._loop(
                    "learner",
                    "warm-start",
                    "--config",
                    str(config),
                    "--demonstrations",
                    demonstrations,
                    "--out",
                    str(model),
                )
        for name in ("learner", *self._actors()):
            if not (self.run / "keys" / f"{name}.secret").exists():
                self._loop("keys", "new", name, "--folder", str(self.run / "keys"))

    def _demonstrate(self, root: Path) -> None:
        options = {
            "--root": root,
            "--out": self.run / "demonstrations.jsonl",
            "--count": self._loaded["demo"].demonstrations,
            "--seed": self._loaded["run"].seed,
        }
        self._loop("world", "demonstrate", *(str(word) for option in options.items() for word in option))

    def _complete(self, root: Path) -> Loaded:
        """The configuration with what only this run knows: its folder, keys, model and tasks."""
        tree: dict[str, Any] = yaml.safe_load(dump(self._loaded))
        datasets = root / "full" / "data" / "datasets"
        tree["run"]["folder"] = str(self.run)
        tree["link"].update(keys=str(self.run / "keys"), port=0, files_port=0)
        tree["world"]["root"] = str(root)
        tree["learner"]["model"]["path"] = str(self.run / "model")
        tree["learner"]["rollout"]["train_tasks"] = str(datasets / "train.txt")
        tree["learner"]["evaluation"]["tasks"] = str(datasets / "test_normal.txt")
        challenge = datasets / "test_challenge.txt"
        tree["learner"]["evaluation"]["beside"] = [str(challenge)] if challenge.exists() else []
        self.run.mkdir(parents=True, exist_ok=True)
        draft = self.run / ".config.yaml"
        draft.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
        try:
            return load(all_sections(), draft, [])
        finally:
            draft.unlink()

    def _actors(self) -> list[str]:
        return [f"actor-{index}" for index in range(self._loaded["demo"].actors)]

    def _start_learner(self, display: Display) -> None:
        display.phase("starting")
        MetricsFile(self.run / "metrics.jsonl").write("session", resumed=self._resumed)
        address = self.run / "gateway.json"
        address.unlink(missing_ok=True)
        resume = ["--resume"] if self._resumed else []
        self._start("learner", "learner", *resume)
        while not address.exists():
            self._raise_if_ended()
            time.sleep(POLL_SECONDS / 5)
        ports = json.loads(address.read_text(encoding="utf-8"))
        self._ports = ("--link.port", str(ports["port"]), "--link.files_port", str(ports["files_port"]))
        for name in self._actors():
            self._start(name, "actor", "--actor.name", name, *self._ports)

    def _start(self, name: str, command: str, *options: str) -> None:
        arguments = ["common.cli", command, "--config", str(self.run / "config.yaml"), *options]
        self._children.start(name, arguments, output=self._output_of(name))

    def _output_of(self, name: str) -> Path:
        return self.run / "logs" / f"{name}.out"

    def _watch(self, display: Display) -> Figures:
        """Follow metrics.jsonl until the learner ends; an actor that is gone is started again."""
        reader = MetricsReader(self.run / "metrics.jsonl")
        events: list[Event] = []
        while True:
            ended = self._children.ended()
            events += reader.new()
            _show(display, collect(events), events, self._loaded)
            if "learner" in ended:
                self._children.forget("learner")
                if ended["learner"]:
                    raise RunError(self._why_ended("learner", ended["learner"]))
                return collect(events)
            self._restart_actors(display)
            time.sleep(POLL_SECONDS)

    def _restart_actors(self, display: Display) -> None:
        """An actor that died is started again: it takes up its spool, its leases lapse and are issued anew."""
        for name, code in self._children.ended().items():
            if code == 0:
                continue
            self._children.forget(name)
            self._restarts += 1
            if self._restarts > ACTOR_RESTARTS:
                raise RunError(self._why_ended(name, code))
            log.warning("actor_restarted", name=name, code=code, restarts=self._restarts)
            display.say(f"{self._why_ended(name, code)}; started again")
            self._start(name, "actor", "--actor.name", name, *self._ports)

    def _raise_if_ended(self) -> None:
        for name, code in self._children.ended().items():
            raise RunError(self._why_ended(name, code))

    def _why_ended(self, name: str, code: int) -> str:
        output = self._output_of(name)
        return f"{ending(name, code, output)}; see {output}"

    def _loop(self, *words: str) -> str:
        """Run a `loop` command to its end and return its standard output."""
        output = self._output_of("-".join(word for word in words[:2] if not word.startswith("-")))
        output.parent.mkdir(parents=True, exist_ok=True)
        with output.open("ab") as stream:
            done = subprocess.run(
                [sys.executable, "-m", "common.cli", *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stream,
                check=False,
            )
        if done.returncode:
            kind = UsageError if done.returncode == 2 else RunError
            raise kind(f"loop {' '.join(words[:2])} failed: {last_line(output)}; see {output}")
        return done.stdout.decode()

    @contextmanager
    def _timed(self, display: Display, name: str) -> Iterator[None]:
        display.phase(name)
        since = time.monotonic()
        yield
        self.preparation_seconds[name] = time.monotonic() - since


def _show(display: Display, figures: Figures, events: Sequence[Event], loaded: Loaded) -> None:
    """The newest phase on the display."""
    phase = next((str(event["name"]) for event in reversed(events) if event.get("event") == "phase"), "")
    state = figures.rollouts
    if phase == "train":
        display.phase("training")
        newest = figures.steps[-1] if figures.steps else None
        words = f"reward {newest['mean_reward']:.2f}  success {newest['success_share']:.2f}" if newest else ""
        display.update(
            len(figures.steps), loaded["learner"].rollout.steps, f"{words}  episodes {state.get('episodes_done', 0)}"
        )
    elif phase.startswith("evaluate"):
        evaluation = loaded["learner"].evaluation
        lists = [*(evaluation.tasks for _ in evaluation.temperatures), *evaluation.beside]
        total = sum(len(file.read_text(encoding="utf-8").split()) for file in lists)
        display.phase(phase.replace("_", " "))
        display.update(
            total - state.get("evaluations_left", total), total, f"{state.get('tokens_per_second', 0):.0f} tokens/s"
        )


def _tell(figures: Figures, demo: Demo, *, as_json: bool) -> int:
    """The result, for a person or for a program; 0 when held-out success rose."""
    from common import curve, table  # noqa: PLC0415 - drawing needs a heavy library, and only now

    curve.draw(figures, demo.run / "curve.png")
    before, after = figures.success("before.t0"), figures.success("after.t0")
    behaviour = demo.behaviour(["before.t0", "after.t0"]) if before is not None and after is not None else []
    wall = time.monotonic() - demo.begun
    result = {
        "success_before": before,
        "success_after": after,
        "beside": {
            name: {f"success_{when}": figures.success(label_of(when, 0, name)) for when in ("before", "after")}
            for name in figures.lists_beside
        },
        "rl_seconds": round(figures.phase_seconds.get("train", 0.0), 1),
        "wall_seconds": round(wall, 1),
        "versions": figures.versions,
        "trajectories": figures.trajectories,
        "lags": {lag: round(share, 4) for lag, share in figures.lags.items()},
        "behaviour": {
            one["label"]: {k: v for k, v in one.items() if k not in ("name", "run", "label")} for one in behaviour
        },
        "run": os.path.relpath(demo.run),
    }
    (demo.run / "result.json").write_text(json.dumps(result) + "\n", encoding="utf-8")
    if as_json:
        sys.stdout.write(json.dumps(result) + "\n")
    else:
        table.show(figures, {**demo.preparation_seconds, **figures.phase_seconds}, wall, demo.run, behaviour)
    return 0 if before is not None and after is not None and after > before else 1
