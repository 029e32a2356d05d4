"""Pause and time to the first token of a new version, in each reload mode, full weights and LoRA adapters.

    python tests/bench/bench_reload.py [--only full,lora] [--episodes 16] [--swaps 5] [--json]

A real vLLM engine and the real reloader (fetch from a folder, digests, swap, probe, use). `--episodes` episodes run all
the time, each of `--turns` turns of `--tokens` tokens after a growing context; nothing but the engine is waited for.

in_flight, in_flight_kept_cache, between_turns, between_episodes   `actor.reload.mode`; adapters have no kept cache
bare       the engine's own call amid the same requests, without our gate, digests and probe: `collective_rpc` of
           `reload_weights` (what runs meanwhile mixes two versions untold), `add_lora` and a request of it
restart    the engine ended and started on the new folder, probed; vLLM is imported already

Told of each, medians over the swaps, ms from the announcement unless said otherwise:
pause                 the longest time without a sampled token; `steady_gap` is the median between engine steps before
first_token           the first token that the new version sampled
after_verified        the same, from the moment when the files were fetched and verified
in_use                when tokens of the new version count: its probe agreed
tokens_lost           sampled, and thrown away
tokens_recomputed     context computed again, above what turns compute in the same number of tokens without a swap
tokens_not_sampled    fewer than at the rate before, from the announcement to 1 s after the first token
`ratios`: restart over ours, and ours over the bare call.
"""

import argparse
import asyncio
import itertools
import json
import os
import random
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path
from time import perf_counter

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "actor")]

MODES = {
    "full": ("in_flight", "in_flight_kept_cache", "between_turns", "between_episodes"),
    "lora": ("in_flight", "between_turns", "between_episodes"),
}
TIMES = ("pause", "steady_gap", "first_token", "after_verified", "in_use")
COUNTS = ("tokens_lost", "tokens_recomputed", "tokens_not_sampled")
VOCABULARY, RANK, OPENING, OBSERVATION = 2000, 16, 200, 40
PROBE = [(7 * i + 3) % VOCABULARY for i in range(64)]
BEFORE, AFTER = 2.0, 1.0  # seconds of steady work that is looked at


class Meter:
    """Every engine step of the requests that are episodes': when, and how many tokens of which version."""

    def __init__(self, vllm):
        self.processor = vllm.output_processor
        self.steps, self.lost, self.prefilled = [], [], []
        self.process = self.processor.process_outputs
        self.processor.process_outputs = self.see

    def see(self, outputs, *arguments, weight_version=None):
        now, tokens = perf_counter(), {}
        for output in outputs:
            count = len(output.new_token_ids)
            state = self.processor.request_states.get(output.request_id)
            if state is None:
                self.lost.append((now, count))
            elif state.logprobs_processor.num_prompt_logprobs is None:
                name = state.lora_name or weight_version
                tokens[name] = tokens.get(name, 0) + count
                if output.prefill_stats is not None:
                    self.prefilled.append((now, state.prompt_len - output.prefill_stats.num_cached_tokens))
        if sum(tokens.values()):
            self.steps.append((now, tokens))
        return self.process(outputs, *arguments, weight_version=weight_version)

    def unfinished(self):
        """Tokens of turns under way."""
        return sum(state.detokenizer.num_output_tokens() for state in self.processor.request_states.values())

    def figures(self, announced, verified, in_use, first):
        """Of one swap. `first` is when the first token of the new version was sampled."""
        end = first + AFTER
        before = [(when, sum(n.values())) for when, n in self.steps if announced - BEFORE <= when < announced]
        during = [(when, sum(n.values())) for when, n in self.steps if announced <= when <= end]
        times = [before[-1][0], *(when for when, _ in during)]
        rate = sum(n for _, n in before) / BEFORE
        sampled = sum(n for _, n in during)
        prefill_rate = _between(self.prefilled, announced - BEFORE, announced) / max(1, sum(n for _, n in before))
        return {
            "pause": 1e3 * max(b - a for a, b in itertools.pairwise(times)),
            "steady_gap": 1e3 * statistics.median(b[0] - a[0] for a, b in itertools.pairwise(before)),
            "first_token": 1e3 * (first - announced),
            "after_verified": 1e3 * (first - verified),
            "in_use": 1e3 * (in_use - announced),
            "tokens_lost": _between(self.lost, announced, end),
            "tokens_recomputed": max(0.0, _between(self.prefilled, announced, end) - prefill_rate * sampled),
            "tokens_not_sampled": max(0.0, rate * (end - announced) - sampled),
        }

    async def first_after(self, since, name):
        """When the first token was sampled whose version's name is `name` (a prefix) or any, after `since`."""
        while True:
            for when, tokens in reversed(self.steps):
                if when <= since:
                    break
                if any(known.startswith(name) for known in tokens):
                    return min(w for w, t in self.steps if w > since and any(k.startswith(name) for k in t))
            await asyncio.sleep(0.0005)


def _between(found, begin, end):
    return sum(count for when, count in found if begin <= when <= end)


class Episodes:
    """Episodes that go on and on."""

    def __init__(self, policy, options):
        self.policy, self.options, self.random = policy, options, random.Random(1)
        self.tasks = [asyncio.create_task(self.play(number)) for number in range(options.episodes)]

    def ids(self, count):
        return [self.random.randrange(VOCABULARY) for _ in range(count)]

    async def play(self, number):
        turns = 1 + number % self.options.turns  # not all end together
        while True:
            async with self.policy.episode() as pinned:
                ids = self.ids(OPENING)
                for _ in range(turns):
                    count = self.random.randint(self.options.tokens // 2, self.options.tokens)
                    how = {"temperature": 1.0, "max_tokens": count, "pinned": pinned}
                    ids += (await self.policy.generate(ids, **how)).ids + self.ids(OBSERVATION)
            turns = self.options.turns

    async def end(self):
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


class Bench:
    """One engine, its reloader, and versions made beforehand."""

    def __init__(self, kind, folder, options):
        from reloading import RUN, FolderFiles

        from actor.config import EngineConfig
        from actor.downloads import Downloads
        from actor.version_folders import VersionFolders
        from actor.versions import Versions

        self.kind, self.folder, self.options = kind, folder, options
        self.versions = Versions(Downloads(VersionFolders(folder / "own", RUN), FolderFiles(folder / "published")), RUN)
        fetch, self.verified = self.versions.fetch, 0.0

        async def fetched(*arguments):
            found = await fetch(*arguments)
            self.verified = perf_counter()
            return found

        self.versions.fetch = fetched
        rank = RANK if kind == "lora" else 0
        self.config = EngineConfig(
            dtype=options.dtype, context_tokens=1024, kv_cache_megabytes=options.cache_megabytes, adapter_rank=rank
        )
        self.version, self.digests = 0, [publish(folder, 0, kind, options)]

    async def report(self, message):
        assert message.accepted, message.reason

    def make_next(self):
        """The next version's files at the learner, not announced."""
        self.version += 1
        self.digests.append(publish(self.folder, self.version, self.kind, self.options))

    def announce(self):
        self.versions.heard(self.version, self.digests[self.version])
        return perf_counter()

    async def start(self, mode):
        from actor.config import ReloadConfig
        from actor.policy import Policy
        from actor.reload import Reloader

        folder, manifest = await self.versions.fetch(self.versions.target, self.versions.digest)
        how = {"mode": mode, "slots": self.options.episodes, "seed": 1, "stop_ids": []}
        self.policy = await Policy.start(folder, manifest.policy_version, self.config, **how)
        tolerance = 1e-3 if self.options.dtype == "float32" else 0.3
        self.reloader = Reloader(self.versions, self.policy, ReloadConfig(probe_tolerance=tolerance), self.report)
        self.meter = Meter(self.policy.engine.vllm)
        await self.reloader.begin(folder, manifest)

    async def swap(self, mode):
        self.policy.mode = mode
        episodes = Episodes(self.policy, self.options)
        await asyncio.sleep(BEFORE + 1)
        self.make_next()
        await asyncio.sleep(BEFORE)
        announced = self.announce()
        await self.reloader.catch_up()
        in_use, verified = perf_counter(), self.verified
        first = await self.meter.first_after(announced, f"v{self.version}.")
        await asyncio.sleep(AFTER + max(0.0, first - perf_counter()))
        await episodes.end()
        return self.meter.figures(announced, verified, in_use, first)

    async def bare(self, _mode):
        from vllm.lora.request import LoRARequest

        from actor.engine import Loading

        self.policy.mode = "in_flight"
        episodes = Episodes(self.policy, self.options)
        await asyncio.sleep(BEFORE + 1)
        self.make_next()
        await asyncio.sleep(BEFORE)
        folder, engine, name = self.folder / "published" / f"v{self.version:06d}", self.policy.engine, ""
        announced = done = perf_counter()
        if self.kind == "full":
            await engine.vllm.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
            done = perf_counter()
        else:
            name = f"v{self.version}.bare"
            request = LoRARequest(name, 100_000 + self.version, str(folder))
            await engine.vllm.add_lora(request)
            engine.adapters[self.version] = Loading(self.version, name, request)
            await engine.sample(PROBE, self.version, temperature=1.0, max_tokens=1)
        first = await self.meter.first_after(done, name)
        await asyncio.sleep(AFTER)
        await episodes.end()
        await engine.forget(self.version)
        return self.meter.figures(announced, announced, first, first)

    async def restart(self, _mode):
        episodes = Episodes(self.policy, self.options)
        await asyncio.sleep(BEFORE + 1)
        self.make_next()
        await asyncio.sleep(BEFORE)
        announced, before = self.announce(), self.meter
        lost = before.unfinished()
        await episodes.end()
        await asyncio.to_thread(self.policy.stop)
        if self.kind == "lora":
            # an adapter is loaded beside its base as soon as that is there
            self.versions.target, target = 0, self.versions.target
            self.versions.digest, digest = self.digests[0], self.versions.digest
            await self.start("in_flight")
            self.versions.target, self.versions.digest = target, digest
            await self.reloader.catch_up()
        else:
            await self.start("in_flight")
        in_use = perf_counter()
        episodes = Episodes(self.policy, self.options)
        first = await self.meter.first_after(announced, f"v{self.version}.")
        await asyncio.sleep(AFTER)
        await episodes.end()
        self.meter.steps[:0], self.meter.prefilled[:0] = before.steps, before.prefilled
        return {**self.meter.figures(announced, self.verified, in_use, first), "tokens_lost": lost}


def publish(folder, version, kind, options):
    """Version 0 is a full model; later ones change it a little, or are adapters on it. The probe is by transformers."""
    import torch
    from peft import LoraConfig, get_peft_model
    from reloading import RUN
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from common.checkpoint import Manifest, Probe
    from common.checkpoint import publish as publish_folder

    torch.manual_seed(0)
    heads = {"num_attention_heads": options.hidden // 64, "num_key_value_heads": options.hidden // 64}
    sizes = {"vocab_size": VOCABULARY, "hidden_size": options.hidden, "intermediate_size": 3 * options.hidden, **heads}
    more = {"num_hidden_layers": options.layers, "max_position_embeddings": 1024, "tie_word_embeddings": False}
    model = Qwen2ForCausalLM(Qwen2Config(**sizes, **more)).eval()
    torch.manual_seed(version)
    adapter = kind == "lora" and version > 0
    if adapter:
        targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        model = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=targets)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if version and (not adapter or "lora_" in name):
                parameter.add_(torch.randn_like(parameter), alpha=0.02)
        logits = model(torch.tensor([PROBE])).logits[0, :-1]
    log_probs = torch.log_softmax(logits, -1)[range(len(PROBE) - 1), PROBE[1:]].tolist()
    manifest = Manifest(
        run_id=RUN,
        policy_version=version,
        kind="adapter" if adapter else "full",
        base_version=0 if adapter else None,
        step=version,
        files={},
        probe=Probe(tokens=tuple(PROBE), log_probs=tuple(log_probs)),
    )
    dtype = getattr(torch, options.dtype)
    return publish_folder(folder / "published", manifest, lambda target: model.to(dtype).save_pretrained(target))


async def contest(kind, folder, options):
    """Figures by contestant: medians over the swaps."""
    bench, rows = Bench(kind, folder, options), {}
    bench.announce()
    # the mode with a place beside the episodes for the probe
    await bench.start("in_flight_kept_cache" if kind == "full" else "in_flight")
    try:
        await bench.swap("in_flight")  # the engine's first swap is slower
        for mode in MODES[kind]:
            rows[mode] = [await bench.swap(mode) for _ in range(options.swaps)]
            _say(options, kind, mode, rows[mode])
        for name, way, count in (("bare", bench.bare, options.swaps), ("restart", bench.restart, options.restarts)):
            rows[name] = [await way(name) for _ in range(count)]
            _say(options, kind, name, rows[name])
    finally:
        await asyncio.to_thread(bench.policy.stop)
    return {name: _medians(found) for name, found in rows.items()}


def _medians(rows):
    median = partial(statistics.median)
    times = {f"{name}_ms": round(median(row[name] for row in rows), 2) for name in TIMES}
    return times | {name: round(median(row[name] for row in rows)) for name in COUNTS}


def _say(options, kind, name, rows):
    if not options.json:
        print(kind, name, json.dumps(_medians(rows)), flush=True)


def _ratios(found, mode):
    ours, restart, bare = found[mode], found["restart"], found["bare"]
    return {
        "restart_over_ours_first_token": round(restart["first_token_ms"] / ours["first_token_ms"], 1),
        "restart_over_ours_pause": round(restart["pause_ms"] / ours["pause_ms"], 1),
        "ours_over_bare_first_token_after_verified": round(ours["after_verified_ms"] / bare["first_token_ms"], 2),
        "ours_over_bare_pause": round(ours["pause_ms"] / bare["pause_ms"], 2),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="full,lora", help="separated by commas")
    parser.add_argument("--episodes", type=int, default=16, help="at a time")
    parser.add_argument("--turns", type=int, default=3, help="of an episode")
    parser.add_argument("--tokens", type=int, default=120, help="of a turn, at most; half of it at least")
    parser.add_argument("--swaps", type=int, default=5, help="of each mode")
    parser.add_argument("--restarts", type=int, default=2)
    parser.add_argument("--hidden", type=int, default=256, help="a multiple of 64")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--cache-megabytes", type=int, default=256)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options = parser.parse_args()
    import structlog

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    result = {"options": {name: value for name, value in vars(options).items() if name != "json"}}
    for kind in options.only.split(","):
        with tempfile.TemporaryDirectory(prefix="bench-reload-") as folder:
            found = asyncio.run(contest(kind, Path(folder), options))
        result[kind] = found | {"ratios": {mode: _ratios(found, mode) for mode in MODES[kind]}}
        if not options.json:
            print(kind, "ratios", json.dumps(result[kind]["ratios"], indent=1), flush=True)
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
