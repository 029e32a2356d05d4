"""What a choice of objective, correction or staleness does to learning: tables over whole tiny runs, at equal samples.

    python tests/bench/bench_learning.py objectives|staleness --out FOLDER [--seeds 1 2 3] [--steps N] [--json]

Each cell is `loop demo` in a folder of its own (real engine, world, sockets, processes) from the same start a seed:
`--out/start-seedN`, made by a demo of no steps when it is not there, which also gives the success before. A run that
is done is not run again, so an interrupted table goes on. Figures are held-out success at temperature 0 (TGC), and of
the training the mean and largest lag of its tokens, so that a staleness bound that was never reached shows itself.

Lag comes from episodes under way: a step trains on `groups` groups while (bound + 1) times as many are being sampled.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GROUP_SIZE = 6

LEARNER = "--learner."
COMMON = {f"{LEARNER}evaluation.temperatures": "[0.0]", f"{LEARNER}evaluation.before": "false"}
LORA = {
    f"{LEARNER}model.training": "lora",
    "--actor.engine.adapter_rank": "16",
    f"{LEARNER}optimizer.learning_rate": "3e-3",
}
UNCORRECTED = {f"{LEARNER}objective.surrogate": "reinforce"}
DECOUPLED = {f"{LEARNER}correction.proximal": "recomputed", f"{LEARNER}correction.weight": "token"}
# several optimizer steps on the same samples, as LOOP makes them; on-policy methods make one
SEVERAL = {
    f"{LEARNER}batch.epochs": "2",
    f"{LEARNER}batch.minibatch": "24",
    f"{LEARNER}optimizer.learning_rate": "5e-4",
}
ON_POLICY = {f"{LEARNER}rollout.staleness_bound": "0"}


def staleness_cells(steps):
    """Full and LoRA at bounds 0, 4 and 8; with the behaviour ratio, with decoupled weights, with no correction."""
    shape = {f"{LEARNER}rollout.steps": str(steps or 30), f"{LEARNER}rollout.groups_per_step": "4"}
    cells = {}
    for training, options in (("full", {}), ("lora", LORA)):
        for bound in (0, 4, 8):
            ways = {"corrected": {}} if bound == 0 else {"corrected": {}, "uncorrected": UNCORRECTED}
            if bound == 8 and training == "full":
                ways["decoupled"] = DECOUPLED
            for way, more in ways.items():
                cells[f"{training}-{bound}-{way}"] = {
                    **shape,
                    **options,
                    **more,
                    f"{LEARNER}rollout.staleness_bound": str(bound),
                    "--actor.episodes": str(4 * GROUP_SIZE * (bound + 1)),
                    "--world.max_worlds": str(4 * GROUP_SIZE * (bound + 1)),
                }
    return cells


def objective_cells(steps):
    """LOOP at its three levels, RLOO, GRPO without KL and expert iteration, each with the same samples."""
    shape = {f"{LEARNER}rollout.steps": str(steps or 10)}
    ratio, advantage = f"{LEARNER}objective.ratio", f"{LEARNER}objective.advantage"
    reinforce = {f"{LEARNER}objective.surrogate": "reinforce"}
    cells = {
        "loop-token": {**SEVERAL, ratio: "token"},
        "loop-turn": {**SEVERAL, ratio: "turn"},
        "loop-trajectory": {**SEVERAL, ratio: "trajectory"},
        "rloo": {**ON_POLICY, **reinforce},
        "grpo-no-kl": {**SEVERAL, advantage: "normalised"},
        "expert-iteration": {**SEVERAL, advantage: "success", **reinforce},
    }
    return {name: {**shape, **options} for name, options in cells.items()}


def demo(folder, seed, options):
    """Run `loop demo` in `folder`; its exit code says whether success rose, which is not the question here."""
    words = [word for option in options.items() for word in option]
    command = [sys.executable, "-m", "common.cli", "demo", "--json", "--seed", str(seed), "--run.folder", str(folder)]
    done = subprocess.run([*command, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    if not (folder / "result.json").is_file():
        sys.exit(f"{folder.name}: {done.stderr.strip()[-500:] or 'ended without a result'}")


def start_of(out, seed):
    """The folder of a seed's start: its model, and its success before training."""
    folder = out / f"start-seed{seed}"
    if not (folder / "result.json").is_file():
        options = {f"{LEARNER}rollout.steps": "0", f"{LEARNER}evaluation.temperatures": "[0.0]"}
        demo(folder, seed, {**options, f"{LEARNER}evaluation.after": "false"})
    return folder


def run_cell(out, table, name, seed, options):
    folder = out / f"{table}-{name}-seed{seed}"
    if not (folder / "result.json").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(start_of(out, seed) / "model", folder / "model")
        demo(folder, seed, {**COMMON, **options})
    events = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [event for event in events if event["event"] == "step"]
    after = next(event for event in events if event["event"] == "evaluation" and event["label"] == "after.t0")
    lags = [(int(lag), count) for step in steps for lag, count in step["lags"].items()]
    tokens = sum(count for _, count in lags) or 1
    return {
        "after": after["tgc"],
        "last_steps": statistics.mean(step["success_share"] for step in steps[-3:]),
        "lag_mean": sum(lag * count for lag, count in lags) / tokens,
        "lag_max": max((lag for lag, _ in lags), default=0),
        "episodes": sum(step["trajectories"] + sum(step["dropped"].values()) for step in steps),
        "sampled_tokens": sum(step["sampled_tokens"] for step in steps),
        "stale": sum(step["dropped"].get("stale", 0) for step in steps),
        "not_finite": sum(bool(step["refused"]) for step in steps),
    }


def before(out, seed):
    events = [json.loads(line) for line in (start_of(out, seed) / "metrics.jsonl").read_text().splitlines()]
    return next(event["tgc"] for event in events if event["event"] == "evaluation")


def summary(results):
    """Mean and range over seeds of one cell."""
    made = {}
    for key in results[0]:
        values = [result[key] for result in results]
        made[key] = {"mean": round(statistics.mean(values), 3), "range": [round(min(values), 3), round(max(values), 3)]}
    return made


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=("objectives", "staleness"))
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, help="steps of each run, count; none: what the table is made for")
    parser.add_argument("--only", nargs="+", help="names of cells")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    cells = (objective_cells if options.table == "objectives" else staleness_cells)(options.steps)
    results = {name: [] for name in cells if not options.only or name in options.only}
    for seed in options.seeds:  # seed by seed: a table that is cut short has all its rows
        for name, made in results.items():
            made.append(run_cell(options.out.resolve(), options.table, name, seed, cells[name]))
            print(f"{name:24} seed {seed}: {made[-1]}", file=sys.stderr, flush=True)
    start = [before(options.out.resolve(), seed) for seed in options.seeds]
    table = {name: summary(made) for name, made in results.items()}
    if options.json:
        print(json.dumps({"table": options.table, "seeds": options.seeds, "before": start, "cells": table}))
        return
    print(f"before: {start}")
    for name, made in table.items():
        low, high = made["after"]["range"]
        lag = f"lag mean {made['lag_mean']['mean']:.2f}, largest {made['lag_max']['range'][1]}"
        print(f"{name:24} after {made['after']['mean']:.3f} ({low:.3f} to {high:.3f})   {lag}")


if __name__ == "__main__":
    main()
