"""A run of real processes for fault tests: a gateway, a light trainer, light actors; any of them killed or stopped.

    folder/keys       the keys of all
    folder/learner    the run folder: config.yaml, ledger, checkpoints, state, logs; `enough` ends the run
    folder/NAME       an actor's machine: spool and versions in `actor`, what it saw in `seen.jsonl`, its logs
    folder/out        what each process printed

Sockets, spool, ledger, files and gateway are real, and so is the wiring of the actor; a scripted policy in scripted
worlds and a trainer without torch stand for what takes long to start (light_actor.py, light_trainer.py).
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

import yaml

from common.errors import RunError
from common.keys import new_keys
from learner.gateway.ledger import open_database

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TASKS = tuple(f"{letter}_{number}" for letter in "abcdefgh" for number in (1, 2, 3))
MODULES = {"gateway": ["-m", "learner.gateway.service"], "trainer": [str(HERE / "light_trainer.py")]}
LEARNER = [str(HERE / "light_learner.py")]
PATIENCE = 90.0  # seconds that anything may take on a busy machine


class Fleet:
    """One run's processes by name: `gateway`, `trainer`, or instead of both `learner` (their parent); and actors.

    Args:
        folder: for everything.
        actors: their names.
        seed: of the run.
        steps: after which the run ends by itself; `finish` ends it sooner.
        link, rollout, actor: options of these sections that differ from this file's.
        light: of the light processes: turn_tokens, episode_seconds (the longest), step_seconds, weight_bytes,
            altered_from (versions from this one on are published with altered weights under right digests),
            engine_starts_after (a file without which no actor's engine starts).
        prefix: what a process is started through, by its name (`["ip", "netns", "exec", NAME]`).
        connect: where an actor connects, by its name: host, port, files_port; those of the gateway unless given.
        environment: more of it for a process, by its name.
        torn_logs: the disk of the logs fills up, which may leave lines in part.
    """

    def __init__(
        self,
        folder: Path,
        *,
        actors: Sequence[str] = ("actor-0", "actor-1"),
        seed: int = 1,
        steps: int = 100_000,
        link: Mapping[str, object] | None = None,
        rollout: Mapping[str, object] | None = None,
        actor: Mapping[str, object] | None = None,
        light: Mapping[str, object] | None = None,
        prefix: Mapping[str, Sequence[str]] | None = None,
        connect: Mapping[str, Mapping[str, object]] | None = None,
        environment: Mapping[str, Mapping[str, str]] | None = None,
        torn_logs: bool = False,
    ) -> None:
        self.folder, self.run, self.actors, self.seed = folder, folder / "learner", tuple(actors), seed
        self.link = {"heartbeat_seconds": 0.2, "silence_intervals": 3, "keys": str(folder / "keys"), **(link or {})}
        self.actor = {"episodes": 4, "drain_seconds": 0.0, "flush_seconds": 3.0, **(actor or {})}
        self.light = {"turn_tokens": 40, "episode_seconds": 0.2, "step_seconds": 0.05, "weight_bytes": 50_000}
        self.light |= {"seed": seed, **(light or {})}
        self._prefix, self._connect, self._environment = prefix or {}, connect or {}, environment or {}
        self._torn_logs = torn_logs
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._welcomed_before: dict[str, int] = {}
        for name in ("learner", *self.actors):
            new_keys(folder / "keys", name)
        self.run.mkdir(exist_ok=True)
        (folder / "out").mkdir()
        (folder / "train.txt").write_text("\n".join(TASKS))
        small = {"train_tasks": str(folder / "train.txt"), "steps": steps, "groups_per_step": 2, "group_size": 3}
        self.rollout = {**small, "staleness_bound": 2, "lease_seconds": 20.0, "most_failures": 1000, **(rollout or {})}
        self._write_config(self.run / "config.yaml", self.run, {"port": 0, "files_port": 0}, learner=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for name, process in self._processes.items():
            if process.poll() is None:
                self._signal(signal.SIGCONT, name)
                process.kill()
            process.wait()
        if "learner" in self._processes:  # its children notice within a second
            self.until_unlocked()

    # --- processes

    def start(self, *names: str) -> None:
        """Start processes (all but `learner` unless named), and wait until the gateway listens."""
        for name in names or ("gateway", "trainer", *self.actors):
            assert name not in self._processes, f"{name} is running"
            if name in self.actors:
                self.until((self.run / "gateway.json").exists, "the gateway to listen")
            for actor in self.actors if name in ("gateway", "learner") else {name} & set(self.actors):
                self._welcomed_before[actor] = self._welcomes(actor)
            self._processes[name] = self._start(name)

    def kill(self, *names: str) -> None:
        """SIGKILL to all of them at once, then wait for their ends."""
        for name in names:
            self._signal(signal.SIGKILL, name)
        for name in names:
            assert self._processes.pop(name).wait() == -signal.SIGKILL, f"{name} had ended by itself"

    def freeze(self, *names: str) -> None:
        """SIGSTOP: they stand still until `thaw`."""
        for name in names:
            self._signal(signal.SIGSTOP, name)

    def thaw(self, *names: str) -> None:
        for name in names:
            self._signal(signal.SIGCONT, name)

    def ended(self, name: str) -> int:
        """Wait for a process to end by itself; its exit code."""
        code = self._processes[name].wait(PATIENCE)
        self._processes.pop(name)
        return code

    def has_ended(self, name: str) -> bool:
        return self._processes[name].poll() is not None

    def pid(self, name: str) -> int:
        return self._processes[name].pid

    def finish(self) -> None:
        """Let the run end: the trainer says so after its step, and all leave with exit code 0.

        An actor that looks for a learner whose run ends meanwhile would not hear of it, so all are there first.
        """
        there = [actor for actor in self.actors if actor in self._processes]
        self.until(lambda: all(self.is_welcomed(actor) for actor in there), "every actor to be there")
        self.stop_training()
        self.until(lambda: all(p.poll() == 0 for p in self._processes.values()), "all to end well")

    def until(
        self, condition: Callable[[], object], what: str, seconds: float = PATIENCE, *, may_fail: Sequence[str] = ()
    ) -> None:
        """Wait for a condition, as long as no process fails but those that may."""
        deadline = time.monotonic() + seconds
        while not condition():
            for name, process in self._processes.items():
                assert name in may_fail or process.poll() in (None, 0), (
                    f"{name} ended with {process.returncode}: {self.printed(name)}"
                )
            assert time.monotonic() < deadline, f"no {what} within {seconds:g} s: {self.tails()}"
            time.sleep(0.01)

    def until_unlocked(self) -> None:
        """Wait until the children of a learner that was killed have ended, as the next one does."""
        from common.run_lock import only_one

        for child in ("gateway", "trainer"):
            with only_one(self.run / f"{child}.lock"):
                pass

    # --- what is seen of it

    def printed(self, name: str) -> str:
        file = self.folder / "out" / f"{name}.out"
        return file.read_text(errors="replace")[-3000:] if file.exists() else ""

    def tails(self) -> str:
        """The last lines of every log, for a test that failed."""
        return "\n".join(f"{file.name}: {line}" for file in self.logs() for line in file.read_text().splitlines()[-4:])

    def logs(self) -> list[Path]:
        return sorted(self.folder.glob("*/logs/*.jsonl"))

    def events(self, name: str, event: str) -> list[dict]:
        """What a process logged under this name, by all its lives."""
        file = (self.folder / name if name in self.actors else self.run) / "logs" / f"{name}.jsonl"
        return [entry for entry in self.events_of(file) if entry["event"] == event]

    def events_of(self, file: Path) -> list[dict]:
        """All whole lines of a log."""
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        return [entry for line in lines if line.endswith("\n") and (entry := self._entry(line)) is not None]

    def _entry(self, line: str) -> dict | None:
        try:
            return json.loads(line)
        except ValueError:
            if not self._torn_logs:
                raise
            return None

    def until_logged(
        self, name: str, event: str, count: int = 1, *, may_fail: Sequence[str] = (), **fields: object
    ) -> dict:
        """Wait until a process has logged an event `count` times, while none fails but those that may; the last one."""

        def found() -> list[dict]:
            return [entry for entry in self.events(name, event) if fields.items() <= entry.items()]

        self.until(lambda: len(found()) >= count, f"{count} times {event} {fields} of {name}", may_fail=may_fail)
        return found()[-1]

    def seen(self, actor: str, what: str) -> list[dict]:
        """What an actor saw, by all its lives: `spooled`, or `ack` with its outcome."""
        file = self.folder / actor / "seen.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        return [entry for entry in map(json.loads, lines) if entry["what"] == what]

    def stop_training(self) -> None:
        """The trainer says that it has finished, after its step."""
        (self.run / "enough").touch()

    def is_welcomed(self, actor: str) -> bool:
        """Whether the gateway has welcomed an actor since the younger of the two was started."""
        return self._welcomes(actor) > self._welcomed_before.get(actor, 0)

    def _welcomes(self, actor: str) -> int:
        return sum(event["actor"] == actor for event in self.events("gateway", "actor_welcomed"))

    def spool(self, actor: str) -> set[str]:
        """What an actor's spool holds. Only when the actor has ended."""
        database = sqlite3.connect(self.folder / actor / "actor" / "spool.sqlite")
        try:
            return {row[0] for row in database.execute("SELECT trajectory_id FROM spool")}
        finally:
            database.close()

    def rows(self, query: str) -> list[tuple]:
        """What the ledger says, read beside whoever writes it."""
        database = open_database(self.run / "ledger.sqlite", read_only=True)
        try:
            return database.execute(query).fetchall()
        finally:
            database.close()

    def steps(self) -> int:
        """Steps made, as the ledger has them; 0 where there is no ledger yet."""
        try:
            return self.rows("SELECT COALESCE(MAX(step), 0) FROM steps")[0][0]
        except (RunError, sqlite3.OperationalError):  # there is none yet, or it is being made
            return 0

    def until_steps(self, more: int) -> None:
        """Wait until so many more steps are made."""
        enough = self.steps() + more
        self.until(lambda: self.steps() >= enough, f"{more} more steps")

    # --- within

    def _signal(self, number: int, name: str) -> None:
        os.kill(self._processes[name].pid, number)

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        home = self.folder / name if name in self.actors else self.run
        settings = {**self.light, "seen": str(home / "seen.jsonl")}
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE), *sys.path]),
            "LIGHT": json.dumps(settings),
            **self._environment.get(name, {}),
        }
        with (self.folder / "out" / f"{name}.out").open("ab") as output:
            return subprocess.Popen(
                [*self._prefix.get(name, ()), sys.executable, *self._arguments(name, home)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.folder,
                env=environment,
            )

    def _arguments(self, name: str, home: Path) -> list[str]:
        if name not in self.actors:
            flags = ["--resume"] if name == "trainer" or (name == "learner" and self.steps()) else []
            return [*MODULES.get(name, LEARNER), "--config", str(self.run / "config.yaml"), *flags]
        home.mkdir(exist_ok=True)
        where = json.loads((self.run / "gateway.json").read_text())
        there = {key: where[key] for key in ("host", "port", "files_port")} | dict(self._connect.get(name, {}))
        own = {**self.actor, "name": name, "folder": str(home / "actor")}
        self._write_config(home / "config.yaml", home, there, actor=own)
        return [str(HERE / "light_actor.py"), "--config", str(home / "config.yaml")]

    def _write_config(
        self,
        file: Path,
        run: Path,
        where: Mapping[str, object],
        *,
        actor: Mapping[str, object] | None = None,
        learner: bool = False,
    ) -> None:
        tree: dict[str, object] = {
            "run": {"folder": str(run), "seed": self.seed, "log_level": "debug"},
            "link": {**self.link, **where} if not learner else {**where, **self.link},
        }
        if actor is not None:
            tree["actor"] = dict(actor)
        if learner:
            tree["learner"] = {"rollout": self.rollout}
        file.write_text(yaml.safe_dump(tree))
