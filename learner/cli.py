"""`loop learner`: the command line of a run's learner, of the warm start, of the export: parses, checks, hands on."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from common.config import Loaded, dump, parse_command_line
from common.errors import UsageError
from common.prompt_config import PromptConfig
from learner.config import SECTIONS, LearnerConfig

USAGE = """usage: loop learner [--config FILE] [--resume] [--dry-run] [--insecure] [--nproc N] [--section.key value ...]
       loop learner warm-start [--help]
       loop learner export RUN_OR_VERSION --out DIR [--help]

The learner of a run: hands out leases, trains on what comes back, publishes versions.

  --nproc N
        processes of the trainer, which share the model's weights, a GPU each where there are any (default 1)"""
FLAGS = {
    "resume": "go on with the run in run.folder",
    "dry-run": "check configuration, model folder (weights may lack) and task lists; print the configuration and an "
    "estimate of the memory; start nothing",
}
COMMANDS = {"warm-start": "learner.warm_start.make", "export": "learner.trainer.export"}


def main(argv: Sequence[str]) -> int:
    """Run the command. Raises UsageError and RunError."""
    if argv and argv[0] in COMMANDS:
        code: int = importlib.import_module(COMMANDS[argv[0]]).main(argv[1:])
        return code
    argv, ranks = _take_nproc(argv)
    resolved, flags = parse_command_line(SECTIONS, argv, usage=USAGE, flags=FLAGS)
    # imported when used: `--help` does without them
    from learner import parent  # noqa: PLC0415

    _check(resolved, weights=not flags["dry-run"])
    if flags["dry-run"]:
        # the estimate stands in comments: what is printed is a configuration file
        lines = _memory(resolved.section("learner", LearnerConfig), ranks)
        sys.stdout.write(dump(resolved) + "".join(f"# {line}\n" for line in lines))
        return 0
    passed_on = [word for word in argv if word != "--resume"]
    return parent.run(resolved, passed_on, resumed=flags["resume"], ranks=ranks)


def _take_nproc(argv: Sequence[str]) -> tuple[list[str], int]:
    """The words without `--nproc N`, and N. No option of the configuration: a run may go on with another N."""
    words = [part for word in argv for part in (word.split("=", 1) if word.startswith("--nproc=") else [word])]
    if "--nproc" not in words:
        return words, 1
    at = words.index("--nproc")
    number = words[at + 1] if at + 1 < len(words) else ""
    if not number.isdecimal() or int(number) < 1:
        raise UsageError(f"--nproc: a number of processes from 1 is wanted (got {number!r}); see --help")
    return [*words[:at], *words[at + 2 :]], int(number)


def _memory(learner: LearnerConfig, processes: int) -> list[str]:
    """What a process of the trainer will need, as lines for a person."""
    from learner.trainer.memory import FAMILIES, estimate, read_shape  # noqa: PLC0415
    from learner.trainer.model_folder import has_weights  # noqa: PLC0415

    shape = read_shape(learner.model.path)
    if shape is None:
        return [f"no memory estimate: {learner.model.path} is none of {', '.join(FAMILIES)}"]
    longest = learner.rollout.max_context_tokens
    lines = estimate(shape, learner.model, learner.batch, longest=longest, processes=processes).lines()
    if not has_weights(learner.model.path):
        lines.append(f"{learner.model.path} has no weights (*.safetensors): a run needs them there")
    return lines


def _check(resolved: Loaded, *, weights: bool) -> None:
    """What can be said to be wrong before anything is started."""
    from common.prompt import Prompt  # noqa: PLC0415
    from learner.gateway.draw import read_tasks  # noqa: PLC0415
    from learner.gateway.evaluation import EvaluationLists  # noqa: PLC0415
    from learner.trainer.model_folder import check_folder  # noqa: PLC0415

    learner = resolved.section("learner", LearnerConfig)
    check_folder(learner.model.path, weights=weights)
    prompt = resolved.section("prompt", PromptConfig)
    if prompt.thinking == "on":  # whether the tokenizer can: refused now rather than by the first actor
        Prompt.load(learner.model.path, prompt)
    read_tasks(learner.rollout.train_tasks, "learner.rollout.train_tasks")
    EvaluationLists.read(learner.evaluation)
