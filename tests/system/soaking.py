"""A learner and an actor as real processes for as long as one likes, watched from outside: what they hold and say."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from system.footprint import COUNT_SLACK, Series, footprints, grows

from common.metrics import MetricsReader
from common.processes import Children

ROOT = Path(__file__).resolve().parents[2]

LOOK_SECONDS = 5.0
BOOKS_LEAST = 12  # times that the books are read while the run goes on
READY_SECONDS, LEAVE_SECONDS = 600.0, 300.0  # after these it hangs
# scenarios that the small policy solves in part, so that steps have signal
MIXED = ("openTasks", "fileCount", "pinNote", "likedCount")
# a step of seconds: few groups and members, short episodes; some are cut, some are dropped, as in a large run
SMALL = {
    "learner.rollout.steps": 1_000_000,
    "learner.rollout.groups_per_step": 2,
    "learner.rollout.group_size": 4,
    "learner.rollout.staleness_bound": 1,
    "learner.rollout.max_turns": 4,
    "learner.rollout.max_turn_tokens": 60,
    "learner.rollout.straggler_share": 0.9,
    # the policy is to stay as it is: an hour of steps on two groups each teaches nothing good
    "learner.optimizer.learning_rate": 1e-5,
    "learner.diagnostics.recomputed_share": 0.05,
}


class Soak:
    """One run; `looks` by process and figure, `books` as they were read, `reloads` as the actor reported them.

    `keys`: where they lie, made there unless the run is `resumed`, as one that was begun before. `actor_options`: of
    the next actor, besides those that all have.
    """

    def __init__(self, run, model, world_root, *, episodes=8, keys=None, resumed=False, actor_options=None, **more):
        self.run, self.model, self.world_root, self.episodes = run, Path(model), Path(world_root), episodes
        self.keys, self._resumed = keys or run / "keys", resumed
        self.options = {**SMALL, **{name.replace("__", "."): value for name, value in more.items()}}
        self.actor_options = actor_options or {}
        self.looks, self.books, self.events = {}, [], []
        self._children = Children()
        self._began = 0.0

    def __enter__(self):
        if not self._resumed:
            self._prepare()
        options = {
            "run.folder": self.run,
            "link.keys": self.keys,
            "link.port": 0,
            "link.files_port": 0,
            "learner.model.path": self.model,
            "learner.rollout.train_tasks": self.run / "mixed.txt",
            **self.options,
        }
        address = self.run / "gateway.json"
        before = address.read_bytes() if address.exists() else b""  # where a learner listened that is no more
        command = [*self._command("learner", options), *["--resume"] * self._resumed]
        learner = self._children.start("learner", command, output=self.run / "learner.out")
        self.processes = {"learner": learner}
        self.until(lambda: address.exists() and address.read_bytes() != before, "the gateway to listen")
        self.start_actor()
        self._reader = MetricsReader(self.run / "metrics.jsonl")
        return self

    def start_actor(self):
        """The actor, with `actor_options`; again after it ended, and was forgotten."""
        ports = json.loads((self.run / "gateway.json").read_text())
        options = {
            "run.folder": self.run,
            "link.keys": self.keys,
            "link.port": ports["port"],
            "link.files_port": ports["files_port"],
            "world.root": self.world_root,
            "actor.episodes": self.episodes,
            "actor.engine.kv_cache_megabytes": 64,  # its pages are in use after minutes, not after an hour
            **self.actor_options,
        }
        command = self._command("actor", options)
        self.processes["actor"] = self._children.start("actor", command, output=self.run / "actor.out")

    def actor_ended(self):
        """Wait for the actor's end; its exit code."""
        code = self.processes["actor"].wait(LEAVE_SECONDS)
        self._children.forget("actor")
        return code

    def _prepare(self):
        self.run.mkdir(parents=True, exist_ok=True)
        for name in ("learner", "actor-0"):
            self._loop("keys", "new", name, "--folder", self.keys)
        tasks = (self.world_root / "full" / "data" / "datasets" / "train.txt").read_text().split()
        (self.run / "mixed.txt").write_text("\n".join(task for task in tasks if task.startswith(MIXED)))

    def __exit__(self, *_):
        self._children.stop(LEAVE_SECONDS)

    # --- while it runs

    def until(self, condition, what):
        deadline = time.monotonic() + READY_SECONDS
        while not condition():
            self._may_not_end()
            assert time.monotonic() < deadline, f"no {what}: {self._said()}"
            time.sleep(0.2)

    def until_steps(self, count):
        """Wait for so many steps; nothing is looked at."""
        self.until(lambda: self.count("step") >= count, f"{count} steps")

    def watch(self, minutes):
        """Look every few seconds for so long, and read the books now and then."""
        self._began = time.monotonic()
        books_every = min(5.0, minutes / BOOKS_LEAST)
        while (minute := (time.monotonic() - self._began) / 60) < minutes:
            self._look(minute)
            if minute >= len(self.books) * books_every:
                self.books.append({"minute": round(minute, 2), **self.read_books()})
            time.sleep(LOOK_SECONDS)

    def leave(self):
        """SIGTERM to the actor, then to the learner; their exit codes, and the books after that."""
        codes = {}
        for name in ("actor", "learner"):
            self.processes[name].send_signal(signal.SIGTERM)
            codes[name] = self.processes[name].wait(LEAVE_SECONDS)
        self._read()
        return {"exit_codes": codes, "books": self.read_books()}

    def read_books(self):
        return json.loads(self._loop("ledger", self.run, "--json").stdout)

    def count(self, event):
        """Lines of metrics.jsonl of a kind, count."""
        self._read()
        return sum(line["event"] == event for line in self.events)

    def _read(self):
        self.events += self._reader.new()

    def _look(self, minute):
        self._may_not_end()
        pids = [process.pid for process in self.processes.values()]
        for role, held in footprints(pids).items():
            for name, value in asdict(held).items():
                self.looks.setdefault(f"{role}: {name}", Series()).add(minute, value)
        for name, value in self._folder().items():
            self.looks.setdefault(f"run: {name}", Series()).add(minute, value)

    def _folder(self):
        """Files by folder, count, and MiB of what is kept for ever by its folder."""
        files = Counter()
        sizes = Counter()
        for folder, _, names in os.walk(self.run):  # what is removed meanwhile is passed over
            kind = (Path(folder).relative_to(self.run).parts or ("run",))[0]
            files[f"{kind} files"] += len(names)
            sizes[f"{kind} MiB"] += sum(_size_of(Path(folder) / name) for name in names) / 2**20
        kept = ("versions", "checkpoints", "state", "actors", "journal", "logs")
        names = [f"{kind} files" for kind in kept] + [f"{kind} MiB" for kind in sizes_of_interest(sizes)]
        return {"steps": self.count("step"), **{name: (files | sizes)[name] for name in names}}

    # --- afterwards

    def summary(self, ending):
        """All figures as one JSON object."""
        reloads = [line for line in self.events if line["event"] == "reload"]
        steps = [line for line in self.events if line["event"] == "step"]
        seconds = [line["pause_seconds"] for line in reloads]
        return {
            "minutes": round(max((series.minutes[-1] for series in self.looks.values()), default=0.0), 1),
            "steps": len(steps),
            "seconds_per_step": round((steps[-1]["time"] - steps[0]["time"]) / max(len(steps) - 1, 1), 2),
            "trained_trajectories": sum(line["trajectories"] for line in steps),
            "reloads": len(reloads),
            "refused": sum(not line["accepted"] for line in reloads),
            "largest_probe_difference": max((line["probe_difference"] for line in reloads), default=None),
            "median_pause_seconds": sorted(seconds)[len(seconds) // 2] if seconds else None,
            "books_read": len(self.books),
            "books_balanced": sum(books["balanced"] for books in self.books),
            "ending": ending,
            "growing": self.growing(),
            "growth": {
                name: {"second_fifth": round(series.fifth(1), 2), "last_fifth": round(series.fifth(4), 2)}
                for name, series in sorted(self.looks.items())
            },
            "by_minute": {name: series.by_minute() for name, series in sorted(self.looks.items())},
            "books": self.books,
        }

    def growing(self):
        """Names of what must stay as it is and does not."""
        found = []
        for name, series in sorted(self.looks.items()):
            if "'s own: " in name:
                bad = name.endswith("'s own: resident") and grows(self._of_one(name))
            elif name.endswith((": resident", ": private")):
                bad = grows(series)
            elif name.endswith((": descriptors", ": threads")) or name in BOUNDED:
                bad = grows(series, slack=COUNT_SLACK)
            else:
                continue
            if bad:
                found.append(name)
        return found

    # --- within

    def _of_one(self, name):
        """What one of the short-lived processes of a kind holds: how many there are depends on the machine's haste."""
        shares, threads = Series(), self.looks[name.replace("resident", "threads")]
        for minute, value, count in zip(threads.minutes, self.looks[name].values, threads.values, strict=True):
            shares.add(minute, value / count)
        return shares

    def _may_not_end(self):
        assert not self._children.ended(), (self._children.ended(), self._said())

    def _said(self):
        return {file.name: file.read_text(errors="replace")[-3000:] for file in self.run.glob("*.out")}

    @staticmethod
    def _command(name, options):
        words = [str(word) for key, value in options.items() for word in (f"--{key}", value)]
        return ["common.cli", name, "--config", str(ROOT / "configs" / "tiny.yaml"), *words]

    @staticmethod
    def _loop(*words):
        command = [sys.executable, "-m", "common.cli", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        assert done.stdout or not done.returncode, f"loop {words}: {done.stderr}"
        return done


# files that are pruned, count: as many after an hour as after the first minutes
BOUNDED = ("run: versions files", "run: checkpoints files", "run: state files", "run: actors files", "run: logs files")


def _size_of(file):
    try:
        return file.stat().st_size
    except OSError:  # removed meanwhile
        return 0


def sizes_of_interest(sizes):
    return sorted(kind.removesuffix(" MiB") for kind in sizes if sizes[kind] > 0.01)
