"""`loop eval`: how good a policy is on a data set, without a learner.

    checkpoint ─► vLLM ─┐
    data set ─► worlds ─┴─► episodes ─► TGC, SGC with intervals ─► table, evaluation JSON, AppWorld's outputs

vLLM and the worlds are imported long after the arguments are read.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common.log
from actor.config import ActorConfig, WorldConfig
from actor.evaluate_config import EvaluateConfig
from common.config import Loaded, RunConfig, Section, dump, parse_command_line
from common.errors import RunError, UsageError
from common.prompt_config import PromptConfig

if TYPE_CHECKING:
    from actor.chosen_checkpoint import Chosen
    from actor.engine_starts import EngineStarts
    from actor.evaluation import Finished, Job, Lost, Records
    from actor.policy import Policy
    from actor.world.client import WorldHost
    from common.checkpoint import Manifest

USAGE = """usage: loop eval --checkpoint DIR|RUN[@VERSION] --dataset NAME [--temperature 0] [--rollouts N]
                 [--difficulty 1,2] [--out DIR] [--json] [--dry-run] [--require-confinement]
                 [--config FILE] [--section.key value ...]

Plays every task of a data set and prints TGC and SGC with 95 % intervals, in total, by difficulty and by scenario.
Short options stand for those of the section evaluate. Without --config, a run's own configuration is taken."""
FLAGS = {
    "json": "one JSON object on standard output, nothing else",
    "dry-run": "check configuration, checkpoint and data set; print the configuration, play nothing",
}
SECTIONS: dict[str, type[Section]] = {
    "run": RunConfig,
    "prompt": PromptConfig,
    "world": WorldConfig,
    "actor": ActorConfig,
    "evaluate": EvaluateConfig,
}
SHORT = ("checkpoint", "dataset", "temperature", "rollouts", "difficulty", "out")
PAPER = {"max_turns": 50, "max_turn_tokens": 1500, "max_context_tokens": 32_000}  # arXiv 2502.01600, evaluation
SAID_EVERY = 10.0  # seconds

log = common.log.get_logger(__name__)


def main(argv: Sequence[str]) -> int:
    """Evaluate; 1 when an episode was lost or AppWorld's own evaluation disagrees. Raises UsageError and RunError."""
    words, run = _of_its_run(_without_shorthands(argv))
    loaded, flags = parse_command_line(SECTIONS, words, usage=USAGE, flags=FLAGS)
    config = loaded.section("evaluate", EvaluateConfig)
    for name in ("checkpoint", "dataset"):
        if not getattr(config, name):
            raise UsageError(f"--{name} is missing; see --help")
    common.log.configure("eval", level=loaded["run"].log_level)
    from actor.chosen_checkpoint import choose  # noqa: PLC0415 - `--help` does without

    evaluation = Evaluation(loaded, choose(config.checkpoint), run, _value_of(words, "--config"))
    if flags["dry-run"]:
        sys.stdout.write(dump(loaded) + f"# {evaluation.plan()}\n")
        return 0
    # a shell starts what it puts into the background deaf to SIGINT
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # ends as politely
    try:
        result = asyncio.run(evaluation.run())
    except KeyboardInterrupt:
        raise RunError("interrupted: what is finished is kept; the same command goes on") from None
    if flags["json"]:
        sys.stdout.write(json.dumps(result) + "\n")
    else:
        from actor.evaluation_table import show  # noqa: PLC0415 - drawing needs a heavy library

        show(result)
    return 1 if result["lost"] or not result["appworld"].get("agrees", True) else 0


def _without_shorthands(argv: Sequence[str]) -> list[str]:
    """`--rollouts 4` is `--evaluate.rollouts 4`, and so on; `--require-confinement` is an option of the worlds."""
    words = []
    for word in argv:
        name, equals, value = word.partition("=")
        short = name.removeprefix("--") if name.startswith("--") else ""
        if short in SHORT:
            words.append(f"--evaluate.{short}{equals}{value}")
        elif word == "--require-confinement":
            words.append("--world.require_confinement=true")
        else:
            words.append(word)
    for index, word in enumerate(words):  # 1,2 is a list
        name, equals, value = word.partition("=")
        at = index if equals else index + 1
        if name == "--evaluate.difficulty" and at < len(words):
            text = value if equals else words[at]
            listed = text if text.startswith("[") else f"[{text}]"
            words[at] = f"{name}={listed}" if equals else listed
    return words


def _of_its_run(words: list[str]) -> tuple[list[str], Path | None]:
    """The words with the configuration of the run that the checkpoint is of, unless they name one; and that run."""
    named = _value_of(words, "--evaluate.checkpoint")
    if not named:
        return words, None
    from actor.chosen_checkpoint import run_of  # noqa: PLC0415 - `--help` does without
    from common.run_folder import config_words  # noqa: PLC0415

    run = run_of(named)
    return (words if run is None else config_words(run, words)), run


def _value_of(words: Sequence[str], option: str) -> str:
    """The last value that is given to an option; empty for none."""
    found = ""
    for index, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name == option:
            found = value if equals else (words[index + 1] if index + 1 < len(words) else "")
    return found


class Evaluation:
    """One evaluation: what is played by whom, and what comes of it.

    Raises:
        UsageError: the data root or data set is not there, or the folder holds another evaluation.
    """

    def __init__(self, loaded: Loaded, chosen: Chosen, run: Path | None, config_file: str) -> None:
        from actor.world.check import check_tasks  # noqa: PLC0415 - as in `main`
        from actor.world.root import choose_root, dataset_ids, difficulty_of  # noqa: PLC0415

        self._config = config = loaded.section("evaluate", EvaluateConfig)
        self._loaded, self._chosen = loaded, chosen
        self.root = choose_root(loaded.section("world", WorldConfig).root)
        levels = config.difficulty or None
        self.tasks = dataset_ids(self.root, config.dataset, levels)
        check_tasks(self.root, self.tasks)
        self.difficulties = {task: difficulty_of(self.root, task) for task in self.tasks}
        parts = [chosen.name, config.dataset, f"t{config.temperature:g}"]
        parts += [f"d{''.join(map(str, sorted(config.difficulty)))}"] if config.difficulty else []
        parts += [f"x{config.rollouts}"] if config.rollouts > 1 else []
        self.name = "-".join(parts)
        self.out = config.out or (run or Path("runs")) / "evaluations" / self.name
        self._limits = _limits(config, Path(config_file) if config_file else None)

    def plan(self) -> str:
        """In a line, what would be done."""
        return f"{len(self.tasks)} tasks of {self._config.dataset}, {self._config.rollouts} each, into {self.out}"

    async def run(self) -> dict[str, Any]:
        """Play what is left of it; the result, which lies in the folder too."""
        from actor.evaluation import Job, Records  # noqa: PLC0415 - as in `main`
        from actor.world.outputs import prepare_outputs  # noqa: PLC0415

        began = time.monotonic()
        prepare_outputs(self.out, self.root)
        records = Records(self.out, self._identity())
        jobs = [Job(rollout, task) for task in self.tasks for rollout in range(self._config.rollouts)]
        left = sum(job not in records.finished for job in jobs)
        log.info("evaluation_begins", episodes=len(jobs), finished_before=len(jobs) - left, out=str(self.out))
        lost = await self._play(jobs, records) if left else []
        finished = [records.finished[job] for job in jobs if job in records.finished]
        result = self._result(finished, lost)
        result["appworld"] = await asyncio.to_thread(self._cross_check, finished) if finished else {}
        result["seconds"] = round(time.monotonic() - began, 1)
        (self.out / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        return result

    def _identity(self) -> dict[str, Any]:
        """What makes another evaluation of it."""
        manifest = self._chosen.manifest
        return {
            "name": self.name,
            "checkpoint": str((self._chosen.adapter or self._chosen.full).resolve()),
            "run_id": manifest.run_id if manifest is not None else "",
            "dataset": self._config.dataset,
            "root": str(self.root),
            "temperature": self._config.temperature,
            "prompt": self._loaded["prompt"].model_dump(mode="json"),
            **self._limits,
        }

    async def _play(self, jobs: Sequence[Job], records: Records) -> list[Lost]:
        """Worlds, and one life of the engine after another until all is played; what was lost in the last."""
        from actor.engine import EngineFailure  # noqa: PLC0415 - as in `main`
        from actor.engine_starts import EngineStarts  # noqa: PLC0415
        from actor.evaluation import GOES_ON  # noqa: PLC0415
        from actor.world.client import WorldHost  # noqa: PLC0415
        from actor.world.install import appworld_python  # noqa: PLC0415

        engine = self._loaded.section("actor", ActorConfig).engine
        starts = EngineStarts(engine.starts, engine.settled_seconds)
        told = Progress(len(jobs), list(records.finished.values()))
        python = await asyncio.to_thread(appworld_python)
        warming = asyncio.create_task(WorldHost.start(self._loaded["world"], python, self.root, log_calls=True))
        try:
            while True:
                try:
                    return await self._play_left(jobs, records, warming, starts, told)
                except EngineFailure as failure:
                    log.error("engine_failed", reason=str(failure), failures=starts.failures + 1)
                    try:
                        wait = starts.failed(failure)
                    except RunError as too_often:
                        raise RunError(f"{too_often}; {GOES_ON}") from failure
                await asyncio.sleep(wait)
        finally:
            await _close(warming)

    async def _play_left(
        self,
        jobs: Sequence[Job],
        records: Records,
        warming: asyncio.Task[WorldHost],
        starts: EngineStarts,
        told: Progress,
    ) -> list[Lost]:
        """What has no result yet, with an engine of its own. Raises EngineFailure: what is finished is kept."""
        from actor.engine import EngineFailure, RequestFailure  # noqa: PLC0415 - as in `main`
        from actor.evaluation import Parts, Terms, play_all  # noqa: PLC0415
        from common.messages import Sampling  # noqa: PLC0415
        from common.prompt import Prompt  # noqa: PLC0415

        def on_finished(finished: Finished) -> None:
            starts.finished()
            told.add(finished)

        prompt = Prompt.load(self._chosen.full, self._loaded["prompt"])
        try:
            policy = await self._start_policy(prompt.stop_ids)
        except RunError as error:
            if not starts.again:
                raise
            raise EngineFailure(str(error)) from error
        try:
            terms = Terms(
                out=self.out,
                root=self.root,
                experiment=self.name,
                version=self._chosen.version,
                sampling=Sampling(temperature=self._config.temperature, **self._limits),
                longest=policy.context_tokens,
                attempts=self._config.attempts,
                at_once=self._loaded.section("actor", ActorConfig).episodes,
            )
            parts = Parts(policy, await warming, prompt, RequestFailure, EngineFailure)
            starts.working()
            return await play_all(jobs, terms, records, parts, on_finished)
        finally:
            await asyncio.to_thread(policy.stop)

    async def _start_policy(self, stop_ids: Sequence[int]) -> Policy:
        """The engine on the chosen version, held against its probe where it has one."""
        from actor.policy import Policy  # noqa: PLC0415 - as in `main`

        chosen, actor = self._chosen, self._loaded["actor"]
        engine = actor.engine.model_copy(update={"adapter_rank": max(actor.engine.adapter_rank, chosen.adapter_rank)})
        base = chosen.full_manifest.policy_version if chosen.full_manifest is not None else 0
        seed = self._loaded["run"].seed
        policy = await Policy.start(
            chosen.full, base, engine, mode="between_turns", slots=actor.episodes, seed=seed, stop_ids=stop_ids
        )
        try:
            if chosen.full_manifest is not None:
                await _hold_against_probe(policy, chosen.full_manifest, actor.reload.probe_tolerance)
            if chosen.adapter is not None and chosen.adapter_manifest is not None:
                await policy.load_adapter(chosen.adapter, chosen.version)
                await _hold_against_probe(policy, chosen.adapter_manifest, actor.reload.probe_tolerance)
            await policy.use(chosen.version)
        except BaseException:
            await asyncio.to_thread(policy.stop)
            raise
        return policy

    def _result(self, finished: Sequence[Finished], lost: Sequence[Lost]) -> dict[str, Any]:
        from common.evaluation import scenario_of, summarise  # noqa: PLC0415 - as in `main`

        by_task: dict[str, Any] = {
            task: {"scenario": scenario_of(task), "difficulty": self.difficulties[task], "episodes": []}
            for task in self.tasks
        }
        for one in finished:
            by_task[one.task_id]["episodes"].append(asdict(one))
        figures = summarise([one.scored(self.difficulties[one.task_id]) for one in finished])
        return {
            **self._identity(),
            "policy_version": self._chosen.version,
            "rollouts": self._config.rollouts,
            "out": str(self.out),
            **{name: value for name, value in figures.items() if not name.endswith("_version")},
            "lost": [asdict(one) for one in lost],
            "by_task": by_task,
        }

    def _cross_check(self, finished: Sequence[Finished]) -> dict[str, Any]:
        """AppWorld's own evaluation of the outputs, an experiment a rollout, and where it differs."""
        from actor.world.cross_check import differences, official_verdict  # noqa: PLC0415 - as in `main`
        from actor.world.install import appworld_python  # noqa: PLC0415
        from common.evaluation import summarise  # noqa: PLC0415

        python, tampered = appworld_python(), set[str]()
        found: list[str] = []
        figures: dict[str, Any] = {}
        again = f"{python.parent / 'appworld'} evaluate {self.name} {self._config.dataset} --root {self.out}"
        if not self._config.cross_check:
            return {"command": again}
        for rollout in sorted({one.rollout for one in finished}):
            mine = {one.task_id: one for one in finished if one.rollout == rollout}
            tasks = [task for task in self.tasks if task in mine]
            experiment = self.name + (f"-r{rollout}" if rollout else "")
            log.info("cross_check_begins", experiment=experiment, tasks=len(tasks))
            theirs = official_verdict(python, self.out, experiment, self._config.dataset, tasks)
            # AppWorld's own evaluation does not look for tampering: there its word is no difference, only told
            taken = {task: theirs.success.get(task, False) for task in tasks if "tampered" in mine[task].tags}
            tampered |= set(taken)
            ours = {task: taken.get(task, mine[task].success) for task in tasks}
            scored = [replace(mine[task].scored(self.difficulties[task]), success=ours[task]) for task in tasks]
            total = summarise(scored)
            found += differences(ours, theirs, total["tgc"], total["sgc"])
            figures[experiment] = {"task_goal_completion": theirs.tgc, "scenario_goal_completion": theirs.sgc}
        told = {"agrees": not found, "differences": found, "tampered": sorted(tampered)}
        return {**told, "experiments": figures, "command": again}


class Progress:
    """Says how far the evaluation is, every few seconds."""

    def __init__(self, total: int, finished: list[Finished]) -> None:
        self._total, self._count = total, len(finished)
        self._successes = sum(one.success for one in finished)
        self._said = time.monotonic()

    def add(self, finished: Finished) -> None:
        self._count += 1
        self._successes += finished.success
        if time.monotonic() - self._said > SAID_EVERY or self._count == self._total:
            self._said = time.monotonic()
            share = round(self._successes / self._count, 3)
            log.info("episodes_finished", episodes=self._count, of=self._total, success_share=share)


async def _hold_against_probe(policy: Policy, manifest: Manifest, tolerance: float) -> None:
    """What engine and learner compute must agree. Raises RunError."""
    from actor.probe import ProbeDiffers, judge  # noqa: PLC0415 - as in `main`

    try:
        difference = judge(
            await policy.score(manifest.probe.tokens, manifest.policy_version), manifest.probe, tolerance
        )
    except ProbeDiffers as verdict:
        raise RunError(
            f"version {manifest.policy_version}: {verdict}, above actor.reload.probe_tolerance {tolerance:g}: the "
            "engine does not compute the policy that the learner published"
        ) from verdict
    log.info("probe_agrees", policy_version=manifest.policy_version, probe_difference=difference)


async def _close(warming: asyncio.Task[Any]) -> None:
    """End the worlds, however far they came."""
    if not warming.done():
        warming.cancel()
    await asyncio.wait({warming})
    if not warming.cancelled() and warming.exception() is None:
        await warming.result().close()


def _limits(config: EvaluateConfig, file: Path | None) -> dict[str, int]:
    """What an episode may use: as said, else as the configuration file's run evaluates, else the paper's."""
    import yaml  # noqa: PLC0415 - as in `main`

    tree = yaml.safe_load(file.read_text(encoding="utf-8")) if file is not None else {}
    learner = tree.get("learner") or {}
    of_run = {name: (learner.get("rollout") or {}).get(name) for name in PAPER}
    of_run["max_turns"] = (learner.get("evaluation") or {}).get("max_turns") or of_run["max_turns"]
    return {name: int(getattr(config, name) or of_run[name] or figure) for name, figure in PAPER.items()}
