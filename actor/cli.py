"""`loop actor`: the command line of an actor. vLLM is imported long after the arguments are read."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

import common.log
from actor.config import ActorConfig, WorldConfig
from common.config import LinkConfig, Loaded, RunConfig, Section, dump, parse_command_line
from common.errors import RunError, UsageError
from common.metrics_config import MetricsConfig
from common.prompt_config import PromptConfig

log = common.log.get_logger(__name__)
USAGE = "usage: loop actor --config FILE [--dry-run] [--require-confinement] [--insecure] [--section.key value ...]"
SECTIONS: dict[str, type[Section]] = {
    "run": RunConfig,
    "link": LinkConfig,
    "metrics": MetricsConfig,
    "prompt": PromptConfig,
    "world": WorldConfig,
    "actor": ActorConfig,
}


def main(argv: Sequence[str]) -> int:
    """Run an actor until its run is finished; exit code 0 then, and after a polite leave."""
    loaded, flags = parse_command_line(
        SECTIONS,
        argv,
        usage=USAGE,
        flags={
            "dry-run": "check configuration, keys and data root, show the configuration, start nothing",
            "require-confinement": "as --world.require_confinement true: refuse to run model-written code without it",
        },
    )
    run, link = loaded.section("run", RunConfig), loaded.section("link", LinkConfig)
    world, actor = loaded.section("world", WorldConfig), loaded.section("actor", ActorConfig)
    if flags["require-confinement"]:
        world = world.model_copy(update={"require_confinement": True})
    if link.port == 0 or link.files_port == 0:
        raise UsageError("link.port, link.files_port: an actor needs the learner's ports; its gateway.json has them")
    if flags["dry-run"]:
        return _dry_run(loaded, link, world, actor)
    common.log.configure("actor", **run.log(actor.name), to="output", run=run.folder.name, actor=actor.name)
    from actor.process import run_actor  # noqa: PLC0415 - `--help` does without

    prompt, metrics = loaded.section("prompt", PromptConfig), loaded.section("metrics", MetricsConfig)
    try:
        asyncio.run(run_actor(run, link, world, actor, prompt, metrics=metrics))
    except (UsageError, RunError) as error:
        log.error("actor_failed", reason=str(error))
        raise
    return 0


def _dry_run(loaded: Loaded, link: LinkConfig, world: WorldConfig, actor: ActorConfig) -> int:
    from actor.engine_process import check_place, engine_arguments  # noqa: PLC0415 - as above
    from actor.world.root import choose_root  # noqa: PLC0415
    from actor.world_protocol import provider_of  # noqa: PLC0415
    from common.keys import actor_keys  # noqa: PLC0415

    if not link.insecure:
        actor_keys(link.keys, actor.name)
    provider_of(world.provider)
    if world.root is not None and world.provider == WorldConfig().provider:
        choose_root(world.root)
    check_place(actor.engine)
    arguments = engine_arguments(Path("MODEL"), actor.engine, actor.episodes, 0)
    sys.stdout.write(dump(loaded))
    sys.stdout.write("# what vLLM's engine gets; model and seed are the policy version's\n")
    for name, value in arguments.items():
        if name not in ("model", "seed"):
            sys.stdout.write(f"#   {name}: {value}\n")
    return 0
