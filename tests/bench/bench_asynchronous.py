"""Asynchronous against synchronous on this machine: whole runs of the tiny policy, real processes, wall-clock as it is.

    python tests/bench/bench_asynchronous.py --out FOLDER [--seeds 1 2 3] [--steps N] [--every 6] [--json] [OPTION ...]
    python tests/bench/bench_asynchronous.py --runs ASYNC SYNC [ASYNC SYNC ...] [--out FOLDER] [--json]

Each arm is `loop demo` on configs/tiny.yaml in a folder of its own below --out, one after the other, so each has the
machine alone; the order alternates from seed to seed. `synchronous` differs in `learner.rollout.staleness_bound 0`
alone and starts from the same warm-started policy: the seed's first arm makes it (or `--start RUN`, one a seed, has it,
with its world), and its seconds do not count. A run that is done is not run again, so what was cut goes on, and a demo
made before with `--run.folder FOLDER/asynchronous-seed1 --learner.checkpoints.keep_every 6` is an arm. Words that are
no option here go to both arms; `--runs` takes finished runs instead and changes nothing in their folders.

Told of each arm, seconds counted from the beginning of training:
  rl_seconds          to the last step: the samples are equal, `groups_per_step` x `group_size` a step
  success             held-out (test_normal, temperature 0), before and after
  dev                 held-out success of every `--every`th version on the data set dev at temperature 0, with the
                      second it was published at; played by `loop eval` when the arm is over, at no cost of training
  lags                share of the trained tokens by lag
  trainer, reload     where the trainer's seconds went; the engine's pauses for new versions
  episode             mean seconds of an episode, of them engine and world; and how many were under way on average
`to_level`: seconds to the success on dev that both arms reach, on straight lines between versions; `to_reward`: the
same of the training episodes' mean reward, a mean of five steps. Ratios are synchronous over asynchronous.
"""

import argparse
import contextlib
import itertools
import json
import shutil
import signal
import statistics
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

ARMS = ("asynchronous", "synchronous")
SMOOTHED = 5  # steps
END_SECONDS = 30.0


def say(words):
    print(words, file=sys.stderr, flush=True)


def loop(words, log):
    """Standard output of a `loop` command that may fail; it ends when this process is interrupted."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as errors:
        command = [sys.executable, "-m", "common.cli", *map(str, words)]
        child = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
        )
        try:
            return child.communicate()[0].decode()
        finally:
            for end in (signal.SIGTERM if words[0] == "demo" else signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
                if child.poll() is None:
                    child.send_signal(end)
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        child.wait(END_SECONDS)


def demo(folder, seed, options, start):
    """Run an arm, unless it is done; `start`: a run whose policy and world it begins with, or None."""
    if (folder / "result.json").is_file():
        say(f"{folder.name}: done before")
        return
    shutil.rmtree(folder, ignore_errors=True)
    words = ["demo", "--json", "--seed", seed, "--run.folder", folder]
    if start is not None:
        shutil.copytree(start / "model", folder / "model")
        words += ["--world.root", config_of(start)["world"]["root"]]
    say(f"{folder.name}: begins")
    log = folder.parent / f"{folder.name}.log"
    loop([*words, *options], log)
    if not (folder / "result.json").is_file():
        said = log.read_text(errors="replace").strip().splitlines()[-3:]
        sys.exit(f"{folder.name}: ended without a result; {log} says: {' / '.join(said)}")


def config_of(run):
    import yaml

    return yaml.safe_load((run / "config.yaml").read_text())


def events_of(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def figures(run):
    """Of a finished run."""
    events = events_of(run)
    began = next(event["time"] for event in events if event["event"] == "phase" and event["name"] == "train")
    steps = list({event["step"]: event for event in events if event["event"] == "step"}.values())
    steps = [step for step in steps if step["step"]]
    if not steps:
        sys.exit(f"{run}: made no step")
    seconds = steps[-1]["time"] - began
    success = {event["label"]: event["tgc"] for event in events if event["event"] == "evaluation"}
    lags = sum((Counter({int(lag): n for lag, n in step["lags"].items()}) for step in steps), Counter())
    samples = sum(step["trajectories"] + sum(step["dropped"].values()) for step in steps)
    reloads = [event for event in events if event["event"] == "reload" and event["accepted"]]
    rollout = config_of(run)["learner"]["rollout"]
    rewards = [step["mean_reward"] for step in steps]
    smoothed = [statistics.mean(rewards[max(0, at - SMOOTHED) : at]) for at in range(1, len(rewards) + 1)]
    return {
        "run": str(run),
        "staleness_bound": rollout["staleness_bound"],
        "rl_seconds": seconds,
        "steps": len(steps),
        "samples": samples,
        "samples_per_second": samples / seconds,
        "success_before": success.get("before.t0"),
        "success_after": success.get("after.t0"),
        "lag": sum(lag * count for lag, count in lags.items()) / max(1, lags.total()),
        "lags": {lag: round(lags[lag] / lags.total(), 4) for lag in sorted(lags)},
        "trainer": trainer_seconds(steps, began),
        "reload": {part: sum(event[part] for event in reloads) for part in ("seconds", "pause_seconds")},
        "episode": episodes(run, seconds),
        "rewards": [[step["time"] - began, reward] for step, reward in zip(steps, smoothed, strict=True)],
        "published": {step["policy_version"]: step["time"] - began for step in steps},
    }


def trainer_seconds(steps, began):
    """By part; what it waited for before training began, the first evaluation, is not counted."""
    parts = {part: sum(step["seconds"].get(part, 0.0) for step in steps) for part in steps[-1]["seconds"]}
    first = steps[0]["seconds"]
    parts["wait"] -= max(0.0, sum(first.values()) - (steps[0]["time"] - began))
    return parts


def episodes(run, seconds):
    """Of training: means of what an episode took, and how many were under way."""
    from common.journal import Journal

    parts = ("seconds", "engine_seconds", "world_seconds")
    sums, count = Counter(), 0
    for one in Journal(run).trajectories(lambda fields: fields["lease"]["purpose"] == "train"):
        sums.update({part: getattr(one, part) for part in parts})
        count += 1
    return {**{part: sums[part] / max(1, count) for part in parts}, "under_way": sums["seconds"] / seconds}


def on_dev(run, made, every, out, start):
    """Held-out success of published versions: [second, success], in their order; what is played already is kept.

    `start`: that of version 0, which both arms share; None: it is played.
    """
    versions = {
        int(folder.name[1:]) for folder in (run / "checkpoints").glob("v*") if (folder / "manifest.json").is_file()
    }
    at = {0: 0.0} | made["published"]
    last = max(made["published"])
    curve = [] if start is None else [[0.0, start]]
    for version in sorted(v for v in versions & at.keys() if (v % every == 0 or v == last) and (v or start is None)):
        folder = out / "dev" / run.name / f"v{version}"
        words = ["eval", "--checkpoint", f"{run}@{version}", "--dataset", "dev", "--out", folder, "--json"]
        told = loop([*words, "--evaluate.cross_check", "false"], out / "dev" / f"{run.name}.log")
        if not told:
            sys.exit(f"{run.name}@{version}: not evaluated; see {out / 'dev' / f'{run.name}.log'}")
        curve.append([at[version], json.loads(told)["tgc"]])
        say(f"{run.name}@{version}: {curve[-1][1]:.3f} on dev")
    return curve


def seconds_to(level, curve):
    """When a curve of [second, value] reaches a level first, on straight lines; None: it does not."""
    for (since, low), (until, high) in itertools.pairwise([curve[0], *curve]):
        if high >= level:
            return until if high == low or low >= level else since + (until - since) * (level - low) / (high - low)
    return None


def compared(pair):
    """Two arms of a seed."""
    one, other = (pair[arm] for arm in ARMS)
    made = {
        "rl_seconds": other["rl_seconds"] / one["rl_seconds"],
        "samples_per_second": one["samples_per_second"] / other["samples_per_second"],
    }
    for name, curve in (("to_level", "dev"), ("to_reward", "rewards")):
        if not (one.get(curve) and other.get(curve)):
            continue
        level = min(max(value for _, value in arm[curve]) for arm in (one, other))
        took = [seconds_to(level, arm[curve]) for arm in (one, other)]
        made[name] = {"level": level, **dict(zip(ARMS, took, strict=True))}
        if took[0]:
            made[name]["ratio"] = took[1] / took[0]
    return made


def summary(seeds):
    """Mean and range over seeds."""
    made = {}
    for arm in ARMS:
        for name in ("rl_seconds", "samples_per_second", "success_before", "success_after", "lag"):
            made[f"{arm}.{name}"] = spread([pair[arm][name] for pair in seeds])
    for name in ("rl_seconds", "samples_per_second"):
        made[f"ratio.{name}"] = spread([pair["compared"][name] for pair in seeds])
    for name in ("to_level", "to_reward"):
        made[f"ratio.{name}"] = spread([pair["compared"].get(name, {}).get("ratio") for pair in seeds])
    return {name: value for name, value in made.items() if value}


def spread(values):
    found = [value for value in values if value is not None]
    if not found:
        return None
    return {"mean": round(statistics.mean(found), 4), "range": [round(min(found), 4), round(max(found), 4)]}


def rounded(value):
    """Floats to four places, throughout."""
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return round(value, 4) if isinstance(value, float) else value


def runs_of(options, rest):
    """Seed by seed, the folders of both arms; those that are missing are run."""
    if options.runs:
        return [dict(zip(ARMS, options.runs[at : at + 2], strict=True)) for at in range(0, len(options.runs), 2)]
    words = ["--learner.evaluation.temperatures", "[0.0]", *rest]
    words += ["--learner.checkpoints.keep_every", str(options.every)] if options.every else []
    words += ["--learner.rollout.steps", str(options.steps)] if options.steps is not None else []
    found = []
    for number, seed in enumerate(options.seeds):
        start = options.start[number].resolve() if options.start else None
        pair = {arm: options.out / f"{arm}-seed{seed}" for arm in ARMS}
        for arm in ARMS if number % 2 == 0 else ARMS[::-1]:
            bound = ["--learner.rollout.staleness_bound", "0"] if arm == "synchronous" else []
            done = (run for run in pair.values() if (run / "result.json").is_file())
            demo(pair[arm], seed, [*words, *bound], start or next(done, None))
        found.append(pair)
    return found


def parsed():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder of the runs and of what is played of them afterwards")
    parser.add_argument("--runs", type=Path, nargs="+", help="finished runs, asynchronous and synchronous in turn")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--start", type=Path, nargs="+", help="a run for each seed, whose policy and world are taken")
    parser.add_argument("--steps", type=int, help="steps of each run, count; none: as configs/tiny.yaml has it")
    parser.add_argument("--every", type=int, default=6, help="versions from one play of dev to the next; 0: none")
    parser.add_argument("--json", action="store_true")
    options, rest = parser.parse_known_args()
    if not (options.out or options.runs):
        parser.error("--out is missing: where the runs are to lie")
    if options.runs and len(options.runs) % 2:
        parser.error("--runs: an asynchronous and a synchronous run for each seed")
    if options.start and len(options.start) != len(options.seeds):
        parser.error("--start: one run for each seed")
    options.out = options.out and options.out.resolve()
    options.runs = options.runs and [run.resolve() for run in options.runs]
    return options, rest


def interrupt(*_):
    raise KeyboardInterrupt


def main():
    options, rest = parsed()
    signal.signal(signal.SIGTERM, interrupt)
    seeds = []
    try:
        for pair in runs_of(options, rest):
            made = {arm: figures(run) for arm, run in pair.items()}
            if options.every and options.out:
                start = None
                for arm, run in pair.items():
                    made[arm]["dev"] = curve = on_dev(run, made[arm], options.every, options.out, start)
                    start = curve[0][1] if curve and curve[0][0] == 0 else None
            seeds.append(rounded({**made, "compared": compared(made)}))
    except KeyboardInterrupt:
        sys.exit("interrupted: what is done is kept, the same command goes on")
    found = summary(seeds)
    if options.json:
        print(json.dumps({"summary": found, "runs": seeds}))
        return
    for name, value in found.items():
        low, high = value["range"]
        print(f"{name:34} {value['mean']:>10.3f}   ({low:.3f} to {high:.3f})")
    for pair in seeds:
        for arm in ARMS:
            print(f"{Path(pair[arm]['run']).name}: lags {pair[arm]['lags']}, trainer {pair[arm]['trainer']}")


if __name__ == "__main__":
    main()
