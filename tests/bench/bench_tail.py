"""Lines a second of `loop tail`, beside what one would use without it.

    python tests/bench/bench_tail.py [--lines 300000] [--files 3] [--folder FOLDER] [--repeats 3] [--json]

The lines are those of a run (mostly episodes, a step now and then), spread over the logs of a run folder, in the page
cache. Each command reads all of them as a process of its own, standard output to /dev/null; what its start takes, as
`--help` measures it, is part of it. Rates are of processor seconds (user and system) since neighbours come and go, the
best of `--repeats`; `wall` is lines a second of wall-clock time. `ratio` is the rate divided by that of `python json`,
a loop that parses and prints each line, as one would write it; jq and grep stand beside where they are installed.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TAIL = [sys.executable, "-m", "common.cli", "tail"]
LOOP = """
import json, sys
for line in sys.stdin:
    fields = json.loads(line)
    if sys.argv[1:] in ([], [fields["event"]]):
        print(json.dumps(fields))
"""
BEFORE = "python json"


def make_lines(count, seed=1):
    """Lines as an actor, the gateway and the trainer write them, a millisecond apart."""
    rng = random.Random(seed)
    for number in range(count):
        second, micro = divmod(number * 1000, 1_000_000)
        stamp = f"2026-11-23T{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}.{micro:06d}Z"
        head = {"timestamp": stamp, "level": "info", "event": "episode_finished", "module": "actor.fulfilment"}
        if number % 100 == 0:
            own = {"process": "trainer", "run": "bench", "policy_version": number // 100, "step": number // 100}
            own |= {"mean_reward": rng.random(), "loss": rng.gauss(0, 0.1), "seconds": {"wait": 3.2, "publish": 0.2}}
            head |= {"event": "step_made", "module": "learner.trainer.loop"}
        elif number % 50 == 0:
            own = {"process": "gateway", "run": "bench", "actor": "gpu-2", "waiting_for": "2 groups to complete"}
            head |= {"level": "warning", "event": "leases_withheld", "module": "learner.gateway.reception"}
        else:
            group, member = divmod(number, 6)
            own = {
                "process": "actor",
                "run": "bench",
                "actor": f"gpu-{number % 8}",
                "lease": f"g{group:06d}.{member}.0",
            }
            own |= {"group": f"g{group:06d}", "task": f"spotifyLongest_{group % 300}", "reward": rng.random()}
            own |= {"turns": rng.randrange(1, 20), "tokens": rng.randrange(90, 9000), "tags": ["completed"]}
            own |= {"seconds": round(rng.random() * 9, 3), "engine_seconds": 0.969, "world_seconds": 0.392}
        yield json.dumps({**head, **own}) + "\n"


def commands(run, everything):
    """Each with its name: words, and the file that is its standard input."""
    expression = 'seconds > 8 and event == "episode_finished"'
    found = {
        "tail, for a person": ([*TAIL, run], None),
        "tail --json": ([*TAIL, run, "--json"], None),
        "tail --json, standard input": ([*TAIL, "--json"], everything),
        "tail --event step_made": ([*TAIL, run, "--event", "step_made"], None),
        "tail --level warning": ([*TAIL, run, "--level", "warning"], None),
        "tail --actor gpu-3": ([*TAIL, run, "--actor", "gpu-3"], None),
        "tail --expression": ([*TAIL, run, "--expression", expression], None),
        "tail --trajectory": ([*TAIL, run, "--trajectory", "g000041.3.0"], None),
        BEFORE: ([sys.executable, "-c", LOOP], everything),
        f"{BEFORE}, one event": ([sys.executable, "-c", LOOP, "step_made"], everything),
    }
    if shutil.which("jq"):
        found["jq -c ."] = (["jq", "-c", "."], everything)
        found["jq -c select(.event)"] = (["jq", "-c", 'select(.event == "step_made")'], everything)
    if shutil.which("grep"):
        found["grep -c step_made"] = (["grep", "-c", "step_made"], everything)  # without -c it stops at one
    return found


def measure(words, file):
    """Processor and wall seconds of one process."""
    with (file or Path(os.devnull)).open("rb") as stdin:
        began = time.perf_counter()
        process = subprocess.Popen(list(map(str, words)), stdin=stdin, stdout=subprocess.DEVNULL, cwd=ROOT)
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, words
    return used.ru_utime + used.ru_stime, wall


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=300_000)
    parser.add_argument("--files", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        (folder / "run" / "logs").mkdir(parents=True)
        lines = list(make_lines(options.lines))
        for number in range(options.files):
            (folder / "run" / "logs" / f"{number}.jsonl").write_text("".join(lines[number :: options.files]))
        everything = folder / "everything.jsonl"
        everything.write_text("".join(lines))
        figures = {"lines": options.lines, "files": options.files, "bytes": everything.stat().st_size, "commands": {}}
        figures["start_seconds"] = round(min(measure([*TAIL, "--help"], None)[0] for _ in range(options.repeats)), 3)
        for what, (words, file) in commands(folder / "run", everything).items():
            runs = [measure(words, file) for _ in range(options.repeats)]
            used, wall = (min(column) for column in zip(*runs, strict=True))
            figures["commands"][what] = {
                "lines_per_second": round(options.lines / used),
                "wall": round(options.lines / wall),
            }
    base = figures["commands"][BEFORE]["lines_per_second"]
    for row in figures["commands"].values():
        row["ratio"] = round(row["lines_per_second"] / base, 2)
    if options.json:
        print(json.dumps(figures))
        return
    print(f"{figures['lines']} lines, {figures['bytes'] / 1e6:.0f} MB; start {figures['start_seconds']} s")
    for what, row in figures["commands"].items():
        print(
            f"{what:<30} {row['lines_per_second']:>10} lines/s {row['ratio']:>7.2f} x {row['wall']:>10} by wall clock"
        )


if __name__ == "__main__":
    main()
