"""Asynchronous against synchronous at the paper's scale, by simulation: samples a second and lag, 1 to 64 engines.

    python tests/bench/bench_schedule.py [--engines 1,2,4,8,16,32,64] [--seeds 1,2,3] [--steps 16] [--jobs 2] [--json]

The code that decides is the real one, on a simulated clock (simulated_schedule.py): the learner's leases, groups, draw,
staleness admission and straggler rule, and the actor's asking for leases. Simulated are engines, worlds and trainer:

work      a step is 40 tasks x 6 rollouts. An episode has turns, log-normal with median 11, sigma 0.5 between tasks and
          0.4 within a group, at most 40. A turn samples tokens, log-normal with median 120, sigma 0.8, at most 1,500,
          and costs 20 more to read; then its cell takes seconds, log-normal with median 1, sigma 1.2, at most 100.
          The work of a lease follows from the seed: each schedule gets the same.
engine    16 slots. Each of n sequences that decode gets a token every 16 + 0.65 n ms: 32 billion parameters in bfloat16
          on two H100 at 4 TB/s, with 10,000 tokens of keys and values a sequence (Speed).
trainer   `scaled`: 1,200 s a step divided by the engines, so that trainer and engines are matched, as where both grow
          together; four engines have 300 s, which is 240 rollouts of 10,000 tokens for two epochs on eight H100 at
          40 %. `fixed`: 300 s a step whatever the engines are.
version   published, then fetched in 5 s while the old one samples, then a pause of 1 s; episodes go on (in flight).

synchronous   the same code with staleness bound 0, same straggler rule, same trainer
engines alone the same engines and work where nothing bounds what is out and training takes no time: always full

Of each cell the steps after the first eight count. Means over seeds with their 95 % interval (Student's t); ratios are
taken seed by seed. `lags`: share of the trained tokens by lag. `dropped`: share of the leases that ended, by reason.
`tokens_cut`: mean length of a straggler at its cut over that of a trained trajectory. Goal: 2 times synchronous, and
0.9 of the engines alone; where an episode lasts longer than `bound` steps do, no admission can keep both.
"""

import argparse
import json
import statistics
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "faults")]

STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365}  # 97.5 %, by the number of seeds
BOUNDS = (0, 1, 2, 4, 8, 16)
ENGINE_SECONDS = 1200.0  # of training, for each engine that the trainer is matched to
FIXED_SECONDS = 300.0


def cells(engines, bounds):
    """Of one seed: what each schedule is."""
    made = {}
    for count in engines:
        scaled = {"engines": count, "train_seconds": ENGINE_SECONDS / count}
        made[count, "alone", 1.0, "free"] = {"engines": count}
        for bound in bounds:
            made[count, bound, 0.9, "scaled"] = {**scaled, "staleness_bound": bound}
            if count in (4, 16):
                made[count, bound, 1.0, "scaled"] = {**scaled, "staleness_bound": bound, "straggler_share": 1.0}
        for bound in (bounds[0], bounds[-1]):
            fixed = {"engines": count, "train_seconds": FIXED_SECONDS}
            made[count, bound, 0.9, "fixed"] = {**fixed, "staleness_bound": bound}
    return made


def measured(job):
    """One cell of one seed, and its figures."""
    from simulated_schedule import Schedule, Workload, simulated

    cell, seed, steps, words = job
    schedule = Schedule(**words, steps=steps, workload=Workload(seed=seed))
    if cell[1] == "alone":
        schedule = schedule.engines_alone
    return cell, seed, figures(simulated(schedule))


def figures(run):
    """Of the steps after the warm-up."""
    schedule = run.schedule
    begin, end = run.steps[schedule.warm_up - 1], run.steps[-1]
    counted, seconds = run.steps[schedule.warm_up :], end.at - begin.at
    slots = schedule.engines * schedule.speed.slots
    lags = sum((step.tokens_by_lag for step in counted), Counter())
    tokens = lags.total()
    ended = Counter(state if state == "trained" else reason for state, reason in run.ledger.states.values())
    ended = {name: count for name, count in ended.items() if name}
    cut = [run.ledger.cut[lease_id] for lease_id in run.ledger.cut]
    trained = [run.ledger.lengths[one] for one, (state, _) in run.ledger.states.items() if state == "trained"]
    return {
        "samples_per_second": sum(step.trajectories for step in counted) / seconds,
        "step_seconds": seconds / schedule.steps,
        "lag": sum(lag * count for lag, count in lags.items()) / tokens,
        "slots_busy": (end.slot_seconds - begin.slot_seconds) / seconds / slots,
        "trainer_waits": sum(step.waited for step in counted) / seconds,
        "tokens_per_second_an_engine": (end.tokens - begin.tokens) / seconds / schedule.engines,
        "tokens_cut": statistics.mean(cut) / statistics.mean(trained) if cut else 0.0,
        "lags": {lag: lags[lag] / tokens for lag in sorted(lags)},
        "dropped": {name: n / sum(ended.values()) for name, n in sorted(ended.items()) if name != "trained"},
    }


def with_ratios(results):
    """Each cell's figures and, seed by seed, how they stand to the synchronous schedule and to the engines alone."""
    for (engines, bound, share, trainer), by_seed in results.items():
        for seed, made in by_seed.items():
            if bound == "alone":
                continue
            rate = made["samples_per_second"]
            alone = results[engines, "alone", 1.0, "free"][seed]
            made["of_engines_alone"] = rate / alone["samples_per_second"]
            synchronous = results.get((engines, 0, share, trainer))
            if synchronous:
                made["times_synchronous"] = rate / synchronous[seed]["samples_per_second"]
    return results


def summary(by_seed):
    """Mean and interval over seeds."""
    made = {}
    for name, value in by_seed[0].items():
        if isinstance(value, dict):
            keys = sorted({key for one in by_seed for key in one[name]})
            made[name] = {key: round(statistics.mean(one[name].get(key, 0.0) for one in by_seed), 4) for key in keys}
            continue
        values = [one[name] for one in by_seed]
        mean, half = statistics.mean(values), 0.0
        if len(values) > 1:
            half = STUDENT.get(len(values), 2.3) * statistics.stdev(values) / len(values) ** 0.5
        made[name] = {"mean": round(mean, 4), "interval": [round(mean - half, 4), round(mean + half, 4)]}
    return made


def table(rows):
    """For a person."""
    head = "engines bound share trainer  samples/s  x synchronous  of engines   lag  slots  trainer waits  stale   cut"
    lines = [head]
    for row in rows:
        shown = {name: value["mean"] for name, value in row.items() if isinstance(value, dict) and "mean" in value}
        ratios = (f"{shown[of]:.2f}" if of in shown else "-" for of in ("times_synchronous", "of_engines_alone"))
        dropped = (row["dropped"].get(reason, 0.0) for reason in ("stale", "straggler"))
        lines.append(
            "{:>7} {!s:>5} {:>5} {:>7}".format(*(row[of] for of in ("engines", "bound", "straggler_share", "trainer")))
            + f"  {shown['samples_per_second']:>9.3f}  {next(ratios):>13}  {next(ratios):>10}  {shown['lag']:>4.2f}"
            + f"  {shown['slots_busy']:>5.2f}  {shown['trainer_waits']:>13.2f}"
            + "  {:>5.3f} {:>5.3f}".format(*dropped)
        )
    return "\n".join(lines)


def numbers(text):
    return [int(word) for word in text.split(",")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", type=numbers, default=[1, 2, 4, 8, 16, 32, 64], help="counts, with commas")
    parser.add_argument("--bounds", type=numbers, default=list(BOUNDS), help="staleness bounds, with commas")
    parser.add_argument("--seeds", type=numbers, default=[1, 2, 3], help="with commas")
    parser.add_argument("--steps", type=int, default=16, help="steps of a cell that count")
    parser.add_argument("--jobs", type=int, default=2, help="cells at a time")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    jobs = [
        (cell, seed, options.steps, words)
        for cell, words in cells(options.engines, options.bounds).items()
        for seed in options.seeds
    ]
    results = {}
    with ProcessPoolExecutor(options.jobs) as pool:
        for number, (cell, seed, made) in enumerate(pool.map(measured, jobs), 1):
            results.setdefault(cell, {})[seed] = made
            rate = f"{made['samples_per_second']:.3f} samples/s, lag {made['lag']:.2f}"
            print(f"{number}/{len(jobs)} {cell} seed {seed}: {rate}", file=sys.stderr, flush=True)
    rows = [
        {"engines": e, "bound": b, "straggler_share": share, "trainer": trainer, **summary(list(by_seed.values()))}
        for (e, b, share, trainer), by_seed in with_ratios(results).items()
    ]
    if options.json:
        print(json.dumps({"seeds": options.seeds, "steps": options.steps, "cells": rows}))
    else:
        print(table(rows))


if __name__ == "__main__":
    main()
