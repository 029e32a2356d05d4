"""`loop learner warm-start`: a small policy made from nothing. Demonstrations in, a Hugging Face model folder out.

Demonstrations -> tokenizer (BPE on their text) -> examples -> supervised fine-tuning -> a folder, moved in whole.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from common import log as logs
from common.checkpoint import sync
from common.config import RunConfig, parse_command_line
from common.errors import UsageError
from common.log import get_logger
from common.prompt import Prompt
from common.prompt_config import PromptConfig
from common.prompt_text import PromptText
from learner.config import LearnerConfig
from learner.warm_start.config import WarmStartConfig
from learner.warm_start.curriculum import Curriculum, Example, batches, episode
from learner.warm_start.demonstrations import Demonstration, read_demonstrations, split_tasks
from learner.warm_start.tokenizer import save_tokenizer, train_tokenizer

log = get_logger(__name__)

USAGE = (
    "usage: loop learner warm-start [--demonstrations FILE] [--out FOLDER] [--config FILE] [--section.key value ...]"
)
SHORT = {"--demonstrations": "--learner.warm_start.demonstrations", "--out": "--learner.warm_start.out"}


def main(argv: Sequence[str]) -> int:
    """Make the model folder; figures go to the log, and to standard output."""
    words = [SHORT.get(name, name) + equals + text for name, equals, text in (word.partition("=") for word in argv)]
    resolved, flags = parse_command_line(
        {"run": RunConfig, "prompt": PromptConfig, "learner": LearnerConfig},
        words,
        usage=USAGE,
        flags={"json": "end with one JSON object instead of lines for a person"},
    )
    run = resolved.section("run", RunConfig)
    config = resolved.section("learner", LearnerConfig).warm_start
    logs.configure("warm-start", **run.log("warm_start"), run=run.folder.name)
    figures = make_policy(config, run.seed, resolved.section("prompt", PromptConfig))
    sys.stdout.write(json.dumps(figures) + "\n" if flags["json"] else _for_a_person(figures))
    return 0


def make_policy(config: WarmStartConfig, seed: int, prompt_config: PromptConfig | None = None) -> dict[str, Any]:
    """Train tokenizer and model and write the folder `config.out`. The same arguments give the same bytes.

    `prompt_config`: the form of the prompts that the policy is to know.


    Returns figures: seconds, parameters, loss in nats, and accuracy on held-out demonstrations.
    Raises UsageError for demonstrations that cannot be used, or a folder that is something else.
    """
    # imported when used: `--help` does without torch
    import torch  # noqa: PLC0415

    from learner.warm_start import supervised  # noqa: PLC0415

    since = time.monotonic()
    _refuse_other_folders(config.out)
    demonstrations = read_demonstrations(config.demonstrations)
    rng = random.Random(seed)  # noqa: S311 - an order of examples, not a secret
    torch.manual_seed(seed)
    torch.set_num_threads(1)  # of each of `config.threads` parts of a batch
    train, measured = split_tasks(demonstrations, config.held_out, rng)
    prompt_config = prompt_config or PromptConfig()
    tokenizer = train_tokenizer(_texts(train, PromptText(prompt_config)), config.vocabulary)
    prompt = Prompt.of(tokenizer, config=prompt_config)
    model = supervised.make_model(config.model, prompt.vocabulary_size, prompt.stop_ids[0])
    figures: dict[str, Any] = {
        "out": str(config.out),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "vocabulary": prompt.vocabulary_size,
        "demonstrations": len(train),
        "steps": config.steps,
    }
    log.info("warm_start_begins", **figures, seed=seed, threads=config.threads)
    figures["loss"] = supervised.train(model, _lessons(train, prompt, config, rng), config)
    figures |= supervised.measure(model, _by_scenario(measured, prompt, config.model.context))

    def write(folder: Path) -> None:
        save_tokenizer(folder, tokenizer, config.model.context)
        supervised.save(folder, model)

    _write(config.out, write)
    figures["seconds"] = round(time.monotonic() - since, 1)
    log.info("warm_start_done", **figures)
    return figures


def _texts(demonstrations: Sequence[Demonstration], words: PromptText) -> Iterator[str]:
    """All that the tokenizer will meet: the prompt's own words as often as they occur."""
    head = "".join(f"{message.role}\n{message.text}\n" for message in words.head)
    for demonstration in demonstrations:
        yield f"{head}user\nassistant\n"
        yield words.task(demonstration.instruction, demonstration.supervisor)
        for turn in demonstration.turns:
            yield words.answer(turn.code)
            yield words.observation(turn.observation)


def _lessons(
    demonstrations: Sequence[Demonstration], prompt: Prompt, config: WarmStartConfig, rng: random.Random
) -> Iterator[list[Example]]:
    """One batch a step: echoes, then drills, then episodes without end."""
    context = config.model.context
    if all(len(episode(one, prompt, context).tokens) > context for one in demonstrations):
        raise UsageError(
            f"{config.demonstrations}: no demonstration fits into {context} tokens; "
            "raise learner.warm_start.model.context"
        )
    curriculum = Curriculum(demonstrations, prompt, context, config.renaming, rng)
    for examples, share in ((curriculum.echoes(), config.echoes), (curriculum.drills(), config.drills)):
        yield from islice(batches(examples, config.drill_batch, context, rng), round(share * config.steps))
    yield from batches(curriculum.episodes(), config.batch, context, rng)


def _by_scenario(demonstrations: Sequence[Demonstration], prompt: Prompt, context: int) -> dict[str, list[Example]]:
    """Right demonstrations alone: where a choice was wrong there is no telling what the policy should have said."""
    found: dict[str, list[Example]] = defaultdict(list)
    for one in demonstrations:
        example = episode(one, prompt, context)
        if one.right and len(example.tokens) <= context:
            found[one.scenario].append(example)
    return found


def _refuse_other_folders(out: Path) -> None:
    """An existing folder is replaced only when it is a model's or empty."""
    if out.exists() and not (out / "config.json").is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise UsageError(f"{out}: exists and is no model folder; name another one with --out")


def _write(out: Path, write: Callable[[Path], None]) -> None:
    """A folder that is either whole or not there: made beside, synced, then renamed."""
    draft = out.parent / f".draft-{out.name}-{os.getpid()}"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        write(draft)
        for file in draft.iterdir():
            sync(file)
        sync(draft)
        if out.exists():
            shutil.rmtree(out)
        draft.rename(out)
        sync(out.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _for_a_person(figures: dict[str, Any]) -> str:
    scenarios = figures.pop("by_scenario")
    width = max(map(len, [*scenarios, *figures]), default=0)
    lines = [f"{name:<{width}}  {value}" for name, value in figures.items()]
    lines += [
        f"{name:<{width}}  token accuracy {accuracy['token_accuracy']:.3f}, exact turns {accuracy['exact_turns']:.3f}"
        for name, accuracy in scenarios.items()
    ]
    return "\n".join(lines) + "\n"
