"""Generated tokens a second within whole episodes, against raw vLLM with the same engine, prompts and lengths.

    python tests/bench/bench_rollout.py --model FOLDER --root DATA_ROOT [--json] [--rounds 3] [--episodes 48]
        [--lease-count 300] [--reload-seconds 10] [--feed-forward WIDTH]

A real `Worker` plays real episodes: real worlds, real vLLM, spool, trajectories, reloads every `--reload-seconds`; its
learner is one in this process (near_learner.py). Each round takes `--lease-count` leases; then `raw` sends the same
turns to the same engine again, whose cache knows none of them: so many players as there were slots, each an episode's
prompts in order, each answer forced to the length that it had, nothing between them. `raw_with_log_probs` asks for
log-probs besides.

A policy of real size costs its engine far more for a token than a world does; the demo's costs it far less. With
`--feed-forward` the same policy, token for token, costs as much as one whose feed-forward layers are so wide.

rollout, raw   tokens a second from the time when all slots are busy until the last lease is granted (raw: begun)
ratio          rollout against raw, the median of the rounds. Goal: 0.9
slot_time      where the time of the slots goes: requests in the engine; or nothing, by cause: cells that run (world),
               the gate that a new version shuts (reload), text to tokens and back, and trajectories made (tokenising),
               and slots without an episode, worlds that open or are graded in them (refill)
engine_idle    share of the time in which the engine has no request at all
cores          that each part keeps busy: the engine's process, this process, the worlds. Engine and worlds share
               `cores_there`; what they need for a token together bounds the ratio: `bound_of_the_cores`
cached         share of the prompts' tokens that the prefix cache had
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from common.log import configure

TICK = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid, *, buried=True):
    """Of a process and of its buried children; nothing when it has just ended."""
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return sum(int(field) for field in fields[11 : 15 if buried else 13]) / TICK
    return 0.0


def children(pid):
    """Of a process, and of those."""
    found = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += [int(word) for word in (task / "children").read_text().split()]
    return [*found, *(other for child in found for other in children(child))]


class Meter:
    """How many are in each state, and for how long: person-seconds by state; and what each turn and second held."""

    def __init__(self):
        self.now, self.area = Counter(), Counter()
        self.idle = 0.0  # seconds without a request
        self.tokens = 0
        self.cached = Counter()
        self.episodes = {}  # by task of asyncio: turns, each (prompt, length)
        self._since = time.perf_counter()

    def tick(self):
        now = time.perf_counter()
        passed, self._since = now - self._since, now
        for state, count in self.now.items():
            self.area[state] += count * passed
        if not self.now["engine"]:
            self.idle += passed

    @contextmanager
    def state(self, name):
        self.tick()
        self.now[name] += 1
        try:
            yield
        finally:
            self.tick()
            self.now[name] -= 1

    def reading(self):
        self.tick()
        return time.perf_counter(), Counter(self.area), self.idle, self.tokens

    def spent(self, owner, name, state):
        """Time within a method that does not wait."""
        method = getattr(owner, name)

        def timed(*arguments, **more):
            began = time.perf_counter()
            try:
                return method(*arguments, **more)
            finally:
                self.area[state] += time.perf_counter() - began

        setattr(owner, name, timed)

    def waits(self, owner, name, state):
        """Time within a coroutine."""
        method = getattr(owner, name)

        async def timed(*arguments, **more):
            with self.state(state):
                return await method(*arguments, **more)

        setattr(owner, name, timed)

    def watch(self):
        """Put into the actor's own classes."""
        import actor.fulfilment
        import actor.policy
        import actor.worker
        from actor.engine import Engine
        from actor.world.client import World, WorldHost

        sample = Engine.sample

        async def sampled(engine, ids, version, **how):
            with self.state("engine"):
                answer = await sample(engine, ids, version, **how)
            count = len(answer.ids)
            if not count:
                return answer  # interrupted before its first token
            self.tokens += count
            self.episodes.setdefault(asyncio.current_task(), []).append((list(ids), count))
            return answer

        Engine.sample = sampled
        self.waits(actor.policy.Policy, "generate", "turn")
        self.waits(World, "execute", "world")
        self.waits(WorldHost, "open", "opening")
        self.waits(World, "grade", "grading")
        for name in ("opening", "observation", "code", "told", "has_stopped"):
            self.spent(actor.worker.Prompt, name, "tokenising")
        self.spent(actor.fulfilment, "trajectory_of", "tokenising")
        observe = actor.worker.Slots.observe

        def observed(slots, load):
            self.cached.update(cached=load.cached, computed=load.computed)
            observe(slots, load)

        actor.worker.Slots.observe = observed


def parts_of(worker):
    """Process ids: the engine's, those of worlds and grader."""
    worlds = worker._worlds._host
    theirs = [worlds._host.process.process.pid, worlds._grader._process.process.pid]
    of_worlds = {*theirs, *(pid for one in theirs for pid in children(one))}
    return [pid for pid in children(os.getpid()) if pid not in of_worlds], theirs


def cpu_by_part(worker):
    engines, worlds = parts_of(worker)
    return {
        "engine": sum(map(cpu_seconds, engines)),
        "actor": cpu_seconds(os.getpid(), buried=False),
        "worlds": sum(
            cpu_seconds(pid) + sum(cpu_seconds(one, buried=False) for one in children(pid)) for pid in worlds
        ),
    }


def less(after, before):
    return {name: after[name] - before[name] for name in after}


async def until(condition):
    while not condition():  # noqa: ASYNC110 - what is waited for are plain lists
        await asyncio.sleep(0.005)


async def rollout(worker, learner, meter, options):
    """One round of episodes: figures, and the turns that were played."""
    meter.episodes.clear()
    meter.cached.clear()
    learner.granting, first = True, learner.granted
    done = len(learner.trajectories) + len(learner.returned)
    await until(lambda: len(learner.trajectories) - done >= options.episodes)  # all slots have been filled once
    began, cpu = meter.reading(), cpu_by_part(worker)
    reloads, due = 0, time.perf_counter() + options.reload_seconds / 2
    while learner.granted - first < options.lease_count:
        if options.reload_seconds and time.perf_counter() > due:
            learner.publish()
            reloads, due = reloads + 1, due + options.reload_seconds
        await asyncio.sleep(0.005)
    ended, cpu = meter.reading(), less(cpu_by_part(worker), cpu)
    learner.granting = False
    await until(lambda: not worker._standing.lease_ids)
    seconds, slots = ended[0] - began[0], options.episodes
    area = Counter(ended[1])
    area.subtract(began[1])
    tokens = ended[3] - began[3]
    share = {name: area[name] / (slots * seconds) for name in ("engine", "world", "tokenising")}
    share["reload"] = max(0.0, area["turn"] - area["engine"]) / (slots * seconds)
    share["refill"] = max(0.0, 1 - sum(share.values()))
    return {
        "tokens_per_second": tokens / seconds,
        "seconds": seconds,
        "tokens": tokens,
        "reloads": reloads,
        "slot_time": share,
        "episodes_in": {name: area[name] / seconds for name in ("opening", "grading")},
        "engine_idle": (ended[2] - began[2]) / seconds,
        "cores": {name: used / seconds for name, used in cpu.items()},
        "cached": meter.cached["cached"] / max(1, meter.cached.total()),
    }, [turns for turns in meter.episodes.values() if turns]


async def raw(worker, played, options, *, log_probs):
    """The same turns, each player an episode's in order, on a cache that knows none of them."""
    from vllm import SamplingParams
    from vllm.inputs.engine import tokens_input
    from vllm.sampling_params import RequestOutputKind

    vllm = worker._policy.engine.vllm
    salt, numbers, left = f"raw {time.time()}", iter(range(10**9)), iter(played)
    tokens, begun = 0, 0
    edges = []

    async def player():
        nonlocal tokens, begun
        for turns in left:
            begun += 1
            if begun in {options.episodes, len(played)}:
                edges.append((time.perf_counter(), tokens, cpu_by_part(worker)))
            for prompt, length in turns:
                params = SamplingParams(
                    temperature=1.0,
                    max_tokens=length,
                    min_tokens=length,
                    ignore_eos=True,
                    logprobs=0 if log_probs else None,
                    detokenize=False,
                    output_kind=RequestOutputKind.FINAL_ONLY,
                )
                request = tokens_input(prompt, cache_salt=salt)
                async for output in vllm.generate(request, params, f"raw{salt}{next(numbers)}"):
                    tokens += len(output.outputs[0].token_ids)

    await asyncio.gather(*(player() for _ in range(options.episodes)))
    (since, before, cpu), (until_, after, cpu_after) = edges
    seconds = until_ - since
    return {
        "tokens_per_second": (after - before) / seconds,
        "seconds": seconds,
        "tokens": after - before,
        "cores": {name: used / seconds for name, used in less(cpu_after, cpu).items()},
    }


def bound(rolled, plain):
    """What the cores allow: raw's own rate, or what engine, actor and worlds need for a token together."""
    cores = len(os.sched_getaffinity(0))
    of_raw = sum(plain["cores"].values()) / plain["tokens_per_second"]
    besides = (rolled["cores"]["worlds"]) / rolled["tokens_per_second"]
    own = max(
        0.0,
        rolled["cores"]["actor"] / rolled["tokens_per_second"] - plain["cores"]["actor"] / plain["tokens_per_second"],
    )
    return min(1.0, cores / (of_raw + besides + own) / plain["tokens_per_second"])


def median_of(rows):
    """Of nested dictionaries of figures, figure by figure."""
    first = rows[0]
    return {
        name: median_of([row[name] for row in rows])
        if isinstance(first[name], dict)
        else round(statistics.median(row[name] for row in rows), 4)
        for name in first
    }


async def measure(options, folder):
    from near_learner import NearLearner

    import actor.worker
    from actor.world.service import AppWorlds
    from common.messages import Sampling

    run, link, world, config, prompt = sections(options, folder)
    tasks = (options.root / "full" / "data" / "datasets" / "train.txt").read_text().split()
    sampling = Sampling(temperature=1.0, max_turns=7, max_turn_tokens=90, max_context_tokens=640)
    learner = NearLearner(options.model, tasks[: options.tasks], sampling)
    learner.take_the_place_of_the_link()
    meter = Meter()
    meter.watch()
    worker = actor.worker.Worker(run, link, world, config, prompt, provider=AppWorlds)
    running = asyncio.create_task(worker.run())
    rows = {"rollout": [], "raw": [], "raw_with_log_probs": []}
    try:
        while worker._worlds is None or worker._standing.doing:
            assert not running.done(), running.exception()
            await asyncio.sleep(0.05)
        for number in range(options.rounds + 1):
            rolled, played = await rollout(worker, learner, meter, options)
            if number == 0:
                continue  # warms up tasks, grader and engine
            rows["rollout"].append(rolled)
            for name, log_probs in (("raw", False), ("raw_with_log_probs", True)):
                rows[name].append(await raw(worker, played, options, log_probs=log_probs))
            if not options.json:
                print({name: round(found[-1]["tokens_per_second"]) for name, found in rows.items()}, flush=True)
    finally:
        worker.stop("signal")
        await running
    pairs = list(zip(rows["rollout"], rows["raw"], rows["raw_with_log_probs"], strict=True))
    return {
        **{name: median_of(found) for name, found in rows.items()},
        "episodes": options.episodes,
        "failed_episodes": len(learner.returned),
        "cores_there": len(os.sched_getaffinity(0)),
        "ratio": middle(one["tokens_per_second"] / plain["tokens_per_second"] for one, plain, _ in pairs),
        "log_probs_cost": middle(
            1 - full["tokens_per_second"] / plain["tokens_per_second"] for _, plain, full in pairs
        ),
        "bound_of_the_cores": middle(bound(one, plain) for one, plain, _ in pairs),
    }


def middle(figures):
    return round(statistics.median(figures), 3)


def sections(options, folder):
    """The sections of an actor, as configs/tiny.yaml has them but for what the options say."""
    from actor.cli import SECTIONS
    from common.config import parse_command_line

    words = {
        "run.folder": folder,
        "world.root": options.root,
        "link.insecure": "true",
        "actor.episodes": options.episodes,
    }
    tiny = Path(__file__).parents[2] / "configs" / "tiny.yaml"
    argv = ["--config", str(tiny), *(str(word) for name, value in words.items() for word in (f"--{name}", value))]
    loaded, _ = parse_command_line(SECTIONS, [*argv, *options.actor], usage="", flags={})
    return [loaded[name] for name in ("run", "link", "world", "actor", "prompt")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of a warm-started model, with its tokenizer")
    parser.add_argument("--root", type=Path, required=True, help="data root with full/ and episode/")
    parser.add_argument("--episodes", type=int, default=48, help="slots of the actor, players of raw")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, after one that warms up")
    parser.add_argument("--lease-count", type=int, default=300, help="leases of a round")
    parser.add_argument("--tasks", type=int, default=40, help="different tasks")
    parser.add_argument("--reload-seconds", type=float, default=10.0, help="between two new versions; 0: none")
    parser.add_argument("--feed-forward", type=int, help="wider feed-forward layers, padded with zeros; as they are")
    parser.add_argument("--actor", nargs=argparse.REMAINDER, default=[], help="last: further options of `loop actor`")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-rollout-") as folder:
        configure("bench", file=Path(folder) / "log.jsonl")
        if options.feed_forward:
            from padded_policy import padded

            options.model = padded(options.model, Path(folder) / "model", options.feed_forward)
        result = asyncio.run(measure(options, Path(folder)))
    if options.json:
        print(json.dumps(result))
        return
    for name, figures in result.items():
        print(name, figures)


if __name__ == "__main__":
    main()
