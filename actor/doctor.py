"""For `loop doctor`: what an actor needs besides the machine: vLLM and its GPUs, worlds, room, its key, a learner."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

from packaging.requirements import Requirement

from actor.config import ActorConfig, WorldConfig
from actor.engine_process import CPU_KV_CACHE_MEGABYTES, built_for_cpu, check_place
from actor.world import doctor as world_doctor
from common import doctor_clock, doctor_gpu, doctor_link, doctor_machine, doctor_reach
from common.checkpoint import published_versions
from common.config import LinkConfig, Loaded, RunConfig
from common.doctor_python import Answer, ask, engine_build
from common.errors import UsageError
from common.finding import Check, Finding, error, ok, warning

ENGINE_SECONDS = 180.0  # its import takes 8 to 15 on a quiet machine
ENGINE = f"import vllm.v1.engine.async_llm{doctor_gpu.TORCH_FACTS}"
INSTALL = "install again as the README says: configs/requirements/cpu.txt, or '.[gpu]'"
MIB = 1 << 20
HOST_BYTES, WORLD_BYTES, ENGINE_BYTES = 550 * MIB, 63 * MIB, 1200 * MIB  # host and grader; one world; vLLM on a CPU
ROOM_BYTES = 2 << 30  # for versions, of which two are kept at a time


def checks(loaded: Loaded, *, wanted: bool, alone: bool) -> list[Check]:
    """In the order of an actor's start. `alone`: the learner is on another machine, or runs already."""
    link, actor = loaded.section("link", LinkConfig), loaded.section("actor", ActorConfig)
    world = loaded.section("world", WorldConfig)
    engine = cache(lambda: ask(ENGINE, ENGINE_SECONDS))
    return [
        Check("vLLM", lambda: vllm(engine), "its import takes half a minute at worst"),
        Check("vLLM's GPUs", lambda: gpus(actor, engine)),
        Check("vLLM's place", lambda: place(actor)),
        *world_doctor.checks(world),
        Check("memory for worlds", lambda: memory(actor, world)),
        *_disks(actor, loaded.section("run", RunConfig)),
        *_shared(link),
        *doctor_link.key_checks("actor", link, actor.name, wanted=wanted),
        *doctor_reach.reach_checks(link, actor.name, wanted=alone and wanted),
        *doctor_clock.clock_checks(link, actor.name, wanted=alone and wanted),
    ]


def vllm(engine: Callable[[], Answer]) -> Finding:
    """Installed, importable, and with the torch that it was built for."""
    build = engine_build()
    if build is None:
        return error("not installed", INSTALL)
    name, version = build
    answer = engine()
    if answer.said is None:
        remedy = INSTALL
        if "torchvision" in answer.failure:
            remedy = "pip uninstall torchvision torchaudio torchcodec: their builds for CUDA break the torch for CPUs"
        return error(f"{name} {version} cannot be imported: {answer.failure}", remedy)
    torch, cuda = answer.said["torch"], answer.said["cuda"]
    declared = [Requirement(line) for line in importlib.metadata.requires(name) or []]
    for one in declared:
        fits = one.name != "torch" or (one.marker is not None and not one.marker.evaluate({"extra": ""}))
        if not fits and not one.specifier.contains(torch, prereleases=True):
            return error(f"{name} {version} wants torch {one.specifier}, installed is {torch}", INSTALL)
    if not built_for_cpu() and cuda is None:
        return error(f"{name} {version} is the build for CUDA, torch {torch} that for CPUs", INSTALL)
    where = "CPUs" if built_for_cpu() else f"CUDA {cuda}"
    return ok(f"{name} {version} with torch {torch}, for {where}")


def gpus(actor: ActorConfig, engine: Callable[[], Answer]) -> Finding:
    """Whether there are those that the engine was built for and is told to use."""
    found, cuda = doctor_gpu.look(), not built_for_cpu()
    named = [int(word) for word in actor.engine.gpus.split(",") if word]
    wrong = doctor_gpu.judge(found, named, cuda=cuda, what="vLLM")
    if wrong is not None:
        return wrong
    wanted, there = actor.engine.tensor_parallel * actor.engine.data_parallel, len(named or found.found)
    if cuda and wanted > there:
        text = f"tensor_parallel x data_parallel are {wanted}, but {there} are to be used"
        return error(text, "set actor.engine.tensor_parallel and data_parallel to fit")
    used = [gpu for gpu in found.found if not named or gpu.index in named]
    tight = [gpu for gpu in used if gpu.free < gpu.total * actor.engine.memory_fraction]
    if cuda and tight:
        share = tight[0].free / tight[0].total
        text = f"GPU {tight[0].index} has {share:.0%} of its memory free, the engine takes"
        remedy = "end what uses it (nvidia-smi), or lower actor.engine.memory_fraction"
        return warning(f"{text} {actor.engine.memory_fraction:.0%}", remedy)
    answer = engine()
    if answer.said is None:
        return warning("vLLM's torch cannot be asked", "mend vLLM first")
    return doctor_gpu.usable(found, answer.said, "vLLM")


def place(actor: ActorConfig) -> Finding:
    """The cores and GPUs that the configuration names."""
    try:
        check_place(actor.engine)
    except UsageError as problem:
        return error(str(problem), "set actor.engine.cpus and actor.engine.gpus to what this machine has")
    return ok(f"cores {actor.engine.cpus or 'any'}, GPUs {actor.engine.gpus or 'any'}")


def memory(actor: ActorConfig, world: WorldConfig) -> Finding:
    """Whether as many worlds as there may be fit beside an engine on CPUs."""
    worlds = min(actor.leases, world.max_worlds)
    cache_bytes = (actor.engine.kv_cache_megabytes or CPU_KV_CACHE_MEGABYTES) * MIB
    needed = HOST_BYTES + worlds * WORLD_BYTES + (ENGINE_BYTES + cache_bytes if built_for_cpu() else 0)
    free, _ = doctor_machine.available_memory()
    text = f"{worlds} worlds and what serves them take up to {needed / 2**30:.1f} GiB, {free / 2**30:.1f} are free"
    if needed > free:
        fit = max(0, worlds - -(-(needed - free) // WORLD_BYTES))
        fewer = f"--world.max_worlds {fit}" if fit else "a machine with more memory"
        return warning(text, f"{fewer}, or fewer --actor.episodes")
    return ok(text)


def _disks(actor: ActorConfig, run: RunConfig) -> list[Check]:
    """Of the folders that are not in the run's."""
    wanted = (actor.spool_megabytes << 20) + ROOM_BYTES

    def check(option: str, folder: Path) -> Check:
        there = doctor_machine.existing(folder)
        return Check(f"disk of {option}", lambda: doctor_machine.disk(there, wanted, "spool and versions"))

    named = {"actor.folder": actor.folder, "actor.versions": actor.versions}
    return [check(option, folder) for option, folder in named.items() if folder is not None and folder != run.folder]


def _shared(link: LinkConfig) -> list[Check]:
    return [] if link.shared_folder is None else [Check("shared folder", lambda: shared_folder(link))]


def shared_folder(link: LinkConfig) -> Finding:
    """The learner's versions where they are mounted here; without it an actor downloads them."""
    folder = link.shared_folder
    assert folder is not None
    remedy = "mount the learner's checkpoints there, readable for this user, or leave link.shared_folder out"
    if not folder.is_dir() or not os.access(folder, os.R_OK | os.X_OK):
        return error(f"{folder} is no folder that can be read here", remedy)
    versions = published_versions(folder)
    if not versions:
        return warning(f"{folder} holds no version yet", "compare it with checkpoints/ of the learner's run folder")
    return ok(f"{folder}, newest version {versions[-1]}")
