"""The trainer's own state: weights, AdamW's moments, step, version, what was trained on. One atomic unit.

A folder `state/step000012` is made under another name, synced and renamed; `state.json`, which names the other files
with their digests, is written last. There is no random state in it: a step's random numbers follow from the run's seed
and the step (update.py), the draw of tasks from the seed and the draw's number, the learning rate from the step.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors.torch import load_file, save_file

from common.checkpoint import FileEntry, sha256_of, sync
from common.errors import RunError, UsageError
from learner.trainer.model import Policy
from learner.trainer.optimizer import Optimizer
from learner.trainer.ranks import share_of
from learner.trainer.saving import saving

STATE = "state.json"
WEIGHTS, MOMENTS = "weights.safetensors", "optimizer.safetensors"


class TrainerState(BaseModel):
    """All of the state that is no tensor."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    form: Literal[1] = Field(default=1, description="format of this folder", examples=[1])
    run_id: str = Field(description="the run", examples=["tiny-1"])
    seed: int = Field(description="the run's seed", examples=[1])
    model: str = Field(description="digest of the trained parameters' names and shapes", examples=["ab" * 32])
    step: int = Field(ge=0, description="steps made, count", examples=[12])
    policy_version: int = Field(ge=0, description="version that these weights are", examples=[12])
    made_at: str = Field(default="", description="when the step was made, UTC", examples=["2026-01-01 12:00:00"])
    consumed: tuple[str, ...] = Field(
        default=(), description="trajectories that this step trained on", examples=[("g1.0.0",)]
    )
    dropped: dict[str, str] = Field(
        default={}, description="trajectories that it passed over, reason by id", examples=[{"g1.1.0": "stale"}]
    )
    skips_in_a_row: int = Field(
        default=0, ge=0, description="steps refused for not being finite, up to this one", examples=[0]
    )
    figures: dict[str, Any] = Field(
        default={}, description="the step's line in metrics.jsonl", examples=[{"step": 12, "loss": -0.03}]
    )
    evaluations: tuple[dict[str, Any], ...] = Field(
        default=(),
        description="evaluations so far, for the model card",
        examples=[({"label": "before.t0", "tgc": 0.4},)],
    )
    files: dict[str, FileEntry] = Field(default={}, description="the tensors' files")


def save_state(parent: Path, state: TrainerState, policy: Policy, optimizer: Optimizer) -> Path:
    """Write a state's folder below `parent`; durable when it returns. Every rank calls it, rank 0 writes.

    Raises:
        RunError: the disk takes no more, or another trainer wrote the state.
    """
    target = folder_of_step(parent, state.step)
    weights, moments = policy.ranks.whole(policy.trainable()), policy.ranks.whole(optimizer.tensors())
    if not policy.ranks.is_first:
        return target
    draft = parent / f".draft-{target.name}-{os.getpid()}"
    shutil.rmtree(draft, ignore_errors=True)
    try:
        with saving(parent):
            draft.mkdir(parents=True)
            save_file(weights, draft / WEIGHTS)
            save_file(moments, draft / MOMENTS)
            files = {}
            for name in (WEIGHTS, MOMENTS):
                sync(draft / name)
                files[name] = FileEntry(size=(draft / name).stat().st_size, sha256=sha256_of(draft / name))
            text = state.model_copy(update={"files": files}).model_dump_json(indent=1)
            (draft / STATE).write_text(text, encoding="utf-8")
            sync(draft / STATE)
            sync(draft)
            if target.exists():
                raise RunError(f"{target}: exists already: two trainers in one run folder? Stop one of them")
            draft.rename(target)
            sync(parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def load_state(folder: Path, policy: Policy, optimizer: Optimizer, seed: int) -> TrainerState:
    """Give policy and optimizer what a state's folder holds.

    Raises:
        RunError: a file is not what it was.
        UsageError: it is another model's state, or another seed's.
    """
    state = read_state(folder)
    for name, entry in state.files.items() if policy.ranks.is_first else ():
        file = folder / name
        if not file.is_file() or file.stat().st_size != entry.size or sha256_of(file) != entry.sha256:
            raise RunError(f"{file}: missing or damaged: restore it, or begin another run folder")
    if state.model != fingerprint(policy):
        raise UsageError(f"{folder}: is the state of another model: learner.model must be what the run began with")
    if state.seed != seed:
        raise UsageError(f"{folder}: was made with run.seed {state.seed}, not {seed}: a run keeps its seed")
    weights = load_file(folder / WEIGHTS)
    with torch.no_grad():
        for name, parameter in policy.trainable().items():
            parameter.copy_(share_of(weights[name], parameter))
    optimizer.restore(load_file(folder / MOMENTS))
    return state


def read_state(folder: Path) -> TrainerState:
    """A state's figures without its tensors. Raises RunError when they cannot be read."""
    try:
        return TrainerState.model_validate_json((folder / STATE).read_bytes())
    except OSError as error:
        raise RunError(f"{folder / STATE}: {error.strerror}") from None
    except ValidationError as error:
        raise RunError(f"{folder / STATE}: {error.errors()[0]['msg']}: not a state that this version reads") from None


def newest_state(parent: Path) -> Path | None:
    """The newest complete state's folder; a draft that a crash left behind is none."""
    return max(
        (folder.parent for folder in parent.glob(f"step*/{STATE}")), key=lambda folder: folder.name, default=None
    )


def folder_of_step(parent: Path, step: int) -> Path:
    """Where the state after a step lies."""
    return parent / f"step{step:06d}"


def retire_states(parent: Path, keep: int) -> None:
    """Remove all but the newest `keep`, and what crashes left half-made."""
    complete = sorted(folder.parent for folder in parent.glob(f"step*/{STATE}"))
    for folder in complete[:-keep]:
        (folder / STATE).unlink()  # first, so that what is left after a crash is not a state
        shutil.rmtree(folder)


def clear_drafts(parent: Path) -> None:
    """Remove what a crash left half-made or half-removed below `parent`, a folder of states or of versions."""
    for folder in [*parent.glob("step*"), *parent.glob("v*")]:
        if not any((folder / name).is_file() for name in (STATE, "manifest.json")):
            shutil.rmtree(folder, ignore_errors=True)
    for folder in parent.glob(".draft-*"):
        shutil.rmtree(folder, ignore_errors=True)


def utc_now() -> str:
    """The time, as a state keeps it."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())


def fingerprint(policy: Policy) -> str:
    """Tells one model's state from another's: kind, and names and shapes of what is trained."""
    shapes: Mapping[str, list[int]] = {name: list(value.shape) for name, value in policy.trainable().items()}
    adapter = policy.config.lora.model_dump(mode="json") if policy.is_adapter else None
    text = json.dumps([type(policy.causal).__name__, adapter, shapes], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
