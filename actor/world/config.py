"""The `world` section: where the data root is and what an episode in it may use."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from common.config import Section


class WorldConfig(Section):
    """Worlds of one actor."""

    root: Path | None = Field(
        default=None,
        description="data root: a built world, or a folder with AppWorld's own data/; none: what APPWORLD_ROOT names, "
        "else the built world of the cache folder, built when missing",
        examples=["worlds/appworld"],
    )
    provider: str = Field(
        default="actor.world.service:AppWorlds",
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$",
        description="what makes the worlds of this section, module:name, importable here; other than AppWorld's: see "
        "actor/world_protocol.py",
        examples=["my_tasks.worlds:Puzzles"],
    )
    max_worlds: int = Field(default=128, ge=1, le=1000, description="worlds open at once; more wait", examples=[128])
    cell_seconds: float = Field(
        default=20.0,
        gt=0,
        le=3600,
        description="wall-clock limit of one cell, seconds; then it is killed",
        examples=[20.0],
    )
    killed_cell: Literal["end", "go_on"] = Field(
        default="end",
        description="after a killed cell: the episode ends, or goes on with a fresh process, without its variables",
        examples=["go_on"],
    )
    episode_seconds: float = Field(
        default=600.0,
        gt=0,
        description="wall-clock limit of an episode from its first cell on, seconds",
        examples=[600.0],
    )
    open_seconds: float = Field(
        default=120.0, gt=0, description="longest wait for a world to open in a warm host, seconds", examples=[120.0]
    )
    grade_seconds: float = Field(
        default=60.0,
        gt=0,
        description="longest wait for a verdict, seconds; then the grader is restarted",
        examples=[60.0],
    )
    observation_characters: int = Field(
        default=20_000,
        ge=100,
        le=1_000_000,
        description="longest observation, characters; cut at a line's end with a note",
        examples=[20_000],
    )
    memory_megabytes: int = Field(
        default=512,
        ge=64,
        description="address space that an episode's process may add to what it starts with, MiB",
        examples=[512],
    )
    require_confinement: bool = Field(
        default=False,
        description="refuse to start unless cells and grader have limits, their own files, no network and no programs",
        examples=[True],
    )
