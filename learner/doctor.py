"""For `loop doctor`: what a learner needs besides the machine itself: torch and its GPUs, model, lists, keys, ports."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from common import doctor_gpu, doctor_link, doctor_machine
from common.config import LinkConfig, Loaded, RunConfig
from common.doctor_python import Answer, ask
from common.errors import UsageError
from common.finding import Check, Finding, error, lacking, ok, warning
from common.keys import LEARNER
from learner.config import LearnerConfig
from learner.gateway.draw import read_tasks
from learner.gateway.evaluation import EvaluationLists
from learner.trainer.memory import Estimate, estimate, read_shape
from learner.trainer.model_folder import check_folder

TORCH_SECONDS = 120.0  # the import takes 2 to 8 on a quiet machine
INSTALL = "install again as the README says: configs/requirements/cpu.txt, or '.[gpu]'"
STATE_COPIES = 3  # of what is trained, in the trainer's state: the parameters and two moments
FLOAT32 = 4


def checks(loaded: Loaded, *, wanted: bool, alone: bool) -> list[Check]:  # noqa: ARG001 - as the actor's
    """In the order of a learner's start."""
    link, learner = loaded.section("link", LinkConfig), loaded.section("learner", LearnerConfig)
    run = loaded.section("run", RunConfig)
    imports = "import torch, transformers, peft" if learner.model.training == "lora" else "import torch, transformers"
    trainer = cache(lambda: ask(imports + doctor_gpu.TORCH_FACTS, TORCH_SECONDS))
    return [
        Check("torch", lambda: torch(trainer), "its import takes some seconds"),
        Check("trainer's GPUs", lambda: gpus(learner, trainer)),
        Check("model", lambda: model(learner, wanted=wanted)),
        Check("memory of an update", lambda: memory(learner, trainer)),
        Check("room for versions", lambda: room(learner, run)),
        Check("task lists", lambda: lists(learner, wanted=wanted)),
        *doctor_link.key_checks("learner", link, LEARNER, wanted=wanted),
        *doctor_link.port_checks(link, run.folder),
    ]


def torch(trainer: Callable[[], Answer]) -> Finding:
    """Whether it imports, and what works on it."""
    answer = trainer()
    if answer.said is None:
        return error(f"cannot be imported: {answer.failure}", INSTALL)
    return ok(f"{answer.said['torch']}, imports with transformers")


def gpus(learner: LearnerConfig, trainer: Callable[[], Answer]) -> Finding:
    """Whether there are those that the model is to lie on."""
    answer, found = trainer(), doctor_gpu.look()
    if answer.said is None:
        return warning("torch cannot be asked", "mend torch first")
    device, cuda = learner.model.device, answer.said["cuda"] is not None
    if device == "cuda" and not cuda:
        return error(f"learner.model.device is cuda, torch {answer.said['torch']} the build for CPUs", INSTALL)
    if device == "cpu":
        return ok("not wanted: learner.model.device is cpu")
    if device == "auto" and cuda and not found.found and not found.failure:
        return ok("none; the model lies on the CPU")
    wrong = doctor_gpu.judge(found, None, cuda=cuda, what="torch")
    return wrong or doctor_gpu.usable(found, answer.said, "torch")


def model(learner: LearnerConfig, *, wanted: bool) -> Finding:
    """The folder of policy version 0."""
    folder = learner.model.path
    if not folder.exists():
        remedy = "`loop learner warm-start` makes a small one, or name a Hugging Face folder with --learner.model.path"
        return lacking(f"{folder} is not there", remedy, wanted=wanted)
    try:
        check_folder(folder)
    except UsageError as problem:
        return error(str(problem), "copy the model there whole: config.json, tokenizer, *.safetensors")
    return ok(str(folder))


def memory(learner: LearnerConfig, trainer: Callable[[], Answer]) -> Finding:
    """What an update takes of the device that it runs on, as `loop learner --dry-run` tells it."""
    needed = _estimate(learner)
    if needed is None:
        return ok("not known: no model yet, or none that is counted")
    answer, found = trainer(), doctor_gpu.look()
    on_gpu = learner.model.device != "cpu" and answer.said is not None and answer.said["gpus"] and found.found
    free = max(gpu.free for gpu in found.found) if on_gpu else doctor_machine.available_memory()[0]
    where = "on a GPU" if on_gpu else "of memory"
    text = f"{needed.total / 2**30:.1f} GiB, {free / 2**30:.1f} {where} are free"
    if needed.total > free:
        remedy = "learner.batch.micro_batch_tokens, learner.model.recompute_activations, or --nproc; see --dry-run"
        return warning(text, remedy)
    return ok(text)


def room(learner: LearnerConfig, run: RunConfig) -> Finding:
    """Whether the run's disk holds the versions and states that are kept at a time."""
    needed = _estimate(learner)
    if needed is None:
        return ok("not known: no model yet, or none that is counted")
    weights = needed.trained_parameters * FLOAT32
    states = learner.checkpoints.keep_states * STATE_COPIES * weights
    wanted = doctor_machine.LEAST_DISK + learner.kept_versions * weights + states
    return doctor_machine.disk(doctor_machine.existing(run.folder), wanted, "versions and states, kept at a time,")


def _estimate(learner: LearnerConfig) -> Estimate | None:
    try:
        shape = read_shape(learner.model.path)
    except (OSError, ValueError, UsageError):
        return None  # the line about the model says why
    if shape is None:
        return None
    return estimate(shape, learner.model, learner.batch, longest=learner.rollout.max_context_tokens)


def lists(learner: LearnerConfig, *, wanted: bool) -> Finding:
    """The tasks to train on and to evaluate."""
    file = learner.rollout.train_tasks
    if not file.exists():
        remedy = f"`loop world tasks --dataset train --out {file}`"
        return lacking(f"learner.rollout.train_tasks: {file} is not there", remedy, wanted=wanted)
    try:
        tasks = read_tasks(file, "learner.rollout.train_tasks")
        evaluated = EvaluationLists.read(learner.evaluation).task_ids
    except UsageError as problem:
        return error(str(problem), "`loop world tasks --dataset NAME --out FILE` writes a list")
    if both := sorted(evaluated & set(tasks)):
        remedy = "evaluate on others: what was trained on tells nothing of what was learned"
        return warning(f"{len(both)} tasks are trained on and evaluated, {both[0]} among them", remedy)
    return ok(f"{len(tasks)} tasks to train on, {len(evaluated)} to evaluate")
