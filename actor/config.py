"""The `world` and `actor` sections, as `loop actor` reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from actor.world.config import WorldConfig
from common.config import Section

__all__ = ["ActorConfig", "EngineConfig", "ReloadConfig", "WorldConfig"]


class EngineConfig(Section):
    """vLLM's engine. What is not named here is reached through `arguments`."""

    dtype: str = Field(default="auto", description="type of weights and activations", examples=["float32"])
    context_tokens: int | None = Field(
        default=None, ge=16, description="tokens of the longest sequence; none: what the model allows", examples=[1024]
    )
    kv_cache_megabytes: int | None = Field(
        default=None,
        ge=1,
        description="memory for keys and values, MiB; none: 256 on CPUs, a share of the memory on GPUs",
        examples=[256],
    )
    memory_fraction: float = Field(
        default=0.9, gt=0, le=1, description="share of a GPU's memory that the engine may use", examples=[0.9]
    )
    tensor_parallel: int = Field(default=1, ge=1, description="GPUs that share one copy of the model", examples=[1])
    data_parallel: int = Field(default=1, ge=1, description="copies of the model", examples=[1])
    adapter_rank: int = Field(
        default=0, ge=0, description="largest LoRA rank that may be published; 0: full weights only", examples=[16]
    )
    adapter_slots: int = Field(
        default=2, ge=2, description="adapters sampled with at the same time; more make requests wait", examples=[2]
    )
    cpu_threads: int = Field(default=1, ge=1, description="threads of the engine on CPUs, count", examples=[1])
    request_seconds: float = Field(
        default=300.0,
        gt=0,
        description="seconds for one turn's tokens; then the engine counts as stuck",
        examples=[300.0],
    )
    start_seconds: float = Field(
        default=900.0, gt=0, description="seconds that the engine may take to start", examples=[900.0]
    )
    arguments: dict[str, Any] = Field(
        default_factory=dict,
        description="other engine arguments of vLLM by their names there, checked by vLLM",
        examples=[{"block_size": 32}],
    )


class ReloadConfig(Section):
    """Stage 12: how a new policy version comes into use."""

    mode: Literal["in_flight", "between_turns", "between_episodes"] = Field(
        default="in_flight",
        description="when: amid a turn (it goes on with the new version), when turns have ended, or episodes",
        examples=["in_flight"],
    )
    probe_tolerance: float = Field(
        default=1e-3,
        gt=0,
        description="largest difference of a probe log-prob from the learner's, nats (fp32 0.001; bf16 0.3)",
        examples=[1e-3],
    )
    attempts: int = Field(
        default=3,
        ge=1,
        description="failures of one version after which the actor stops, count; damaged files are waited for",
        examples=[3],
    )
    retry_seconds: float = Field(
        default=1.0, gt=0, description="wait after a failed attempt, doubled each time, seconds", examples=[1.0]
    )


class ActorConfig(Section):
    """One actor."""

    name: str = Field(
        default="actor-0",
        pattern=r"^[A-Za-z0-9_-]{1,64}$",
        description="its name, unique in the run; its key's name",
        examples=["actor-0"],
    )
    folder: Path | None = Field(
        default=None,
        description="folder for the spool; none: actors/NAME in the run's folder",
        examples=["/var/lib/loop/actor-0"],
    )
    versions: Path | None = Field(
        default=None,
        description="local folder for fetched versions, one download for all actors that name it; none: versions in "
        "the run's folder",
        examples=["/var/lib/loop/versions"],
    )
    episodes: int = Field(default=32, ge=1, le=10_000, description="episodes at a time, count", examples=[32])
    drain_seconds: float = Field(
        default=2.0,
        ge=0,
        description="after SIGTERM, how long episodes may still end before their leases are returned, seconds",
        examples=[2.0],
    )
    flush_seconds: float = Field(
        default=3.0, ge=0, description="on leaving, how long to wait for outstanding acks, seconds", examples=[3.0]
    )
    spool_megabytes: int = Field(
        default=1024,
        ge=1,
        description="trajectories waiting for the learner, MiB; at that no more leases are asked for",
        examples=[1024],
    )
    engine: EngineConfig = Field(
        default_factory=EngineConfig, description="vLLM's engine", examples=[{"dtype": "float32"}]
    )
    reload: ReloadConfig = Field(
        default_factory=ReloadConfig, description="new versions", examples=[{"mode": "in_flight"}]
    )
