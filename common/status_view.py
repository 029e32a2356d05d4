"""A run's `Status` as a person sees it: what it waits for first, then versions, actors, groups, disk, errors, books."""

from __future__ import annotations

import time

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from common.spans import size, span
from common.status_messages import ActorStatus, GroupStatus, Status

WIDTH = 160  # characters, where it is no terminal
COLOURS = {"working": "green", "waiting": "yellow", "starting": "cyan", "late": "red", "silent": "bold red"}
LEVELS = {"warning": "yellow", "error": "red", "critical": "bold red"}
BAR = 20  # characters of the longest bar


def view(status: Status | None, lacking: str = "") -> RenderableType:
    """The whole picture; `lacking`: why it is an old one, or none."""
    parts: list[RenderableType] = []
    if lacking:
        parts.append(Text(lacking, style="bold red"))
    if status is not None:
        parts += [_head(status), _actors(status)]
        if status.oldest_groups:
            parts.append(_groups(status))
        parts.append(_foot(status))
        if status.errors:
            parts.append(_errors(status))
    return Group(*parts)


def _head(status: Status) -> RenderableType:
    grid = _grid()
    stalled = Text("\n".join(status.stalls), style="bold red")
    grid.add_row("run", f"{status.run_id}, {status.phase}, step {status.step} of {status.steps} made")
    grid.add_row("now", Text(status.waiting_for))
    if status.stalls:
        grid.add_row("stalled", stalled)
    trainer = status.trainer
    at = f" {trainer.doing}" + (f" of step {trainer.step}" if trainer.step else "") if trainer.doing else ""
    took = f" (the last time {span(trainer.took_seconds)})" if trainer.took_seconds >= 0 else ""
    heard = f", heard {span(trainer.heard_seconds)} ago" if trainer.heard_seconds >= 0 else ""
    since = f" for {span(trainer.doing_seconds)}{took}" if at else ""
    grid.add_row("trainer", f"{trainer.state}:{at}{since}{heard}" if at else trainer.state)
    published = f", published {span(status.version_seconds)} ago" if status.version_seconds >= 0 else ""
    grid.add_row("version", f"{status.policy_version}{published}" if status.policy_version >= 0 else "none yet")
    most = max((one.trajectories for one in status.trained_lags), default=1)
    for place, one in enumerate(status.trained_lags):
        bar = "█" * max(1, round(BAR * one.trajectories / most))
        told = f"lag {one.lag}: {bar} {one.trajectories} trajectories"
        grid.add_row("trained on" if not place else "", told)
    return grid


def _actors(status: Status) -> RenderableType:
    rates = f"{status.tokens_per_second:,.0f} tokens/s, {status.episodes_per_minute:,.0f} episodes/min"
    table = Table(title=f"actors: {status.actors_live} of {status.actors_known} heard, {rates}", title_justify="left")
    table.add_column("actor", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for name in ("heard", "version", "lag", "episodes", "leases", "tokens/s", "episodes/min", "spool"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("waits for")
    for actor in status.actors:
        table.add_row(*_actor(actor))
    return table


def _actor(actor: ActorStatus) -> list[RenderableType]:
    spool = f"{actor.spooled} ({size(actor.spooled_bytes)})" if actor.spooled else "0"
    return [
        Text(actor.name),
        Text(actor.state, style=COLOURS.get(actor.state, "dim")),
        f"{span(actor.heard_seconds)} ago",
        str(actor.policy_version) if actor.policy_version >= 0 else "-",
        str(actor.lag) if actor.lag >= 0 else "-",
        str(actor.episodes),
        f"{actor.leases}/{actor.slots}",
        f"{actor.tokens_per_second:,.0f}",
        f"{actor.episodes_per_minute:,.0f}",
        spool,
        Text(actor.waiting_for),
    ]


def _groups(status: Status) -> RenderableType:
    counts = f"{status.groups_open} open, {status.groups_ready} ready, {status.groups_handed} with the trainer"
    counts += f", {status.groups_lacking} lacking for the next step"
    counts += f", {status.groups_carried} carried over" if status.groups_carried else ""
    counts += f", {status.evaluations_left} tasks of evaluations left" if status.evaluations_left else ""
    table = Table(title=f"groups: {counts}; the oldest open", title_justify="left")
    for name in ("group", "task", "evaluation"):
        table.add_column(name, no_wrap=True)
    for name in ("open for", "arrived", "leased", "lost", "oldest lease", "on actor"):
        table.add_column(name, justify="right", no_wrap=True)
    for group in status.oldest_groups:
        table.add_row(*_group(group))
    return table


def _group(group: GroupStatus) -> list[RenderableType]:
    return [
        Text(group.group_id),
        Text(group.task_id),
        Text(group.label),
        span(group.open_seconds),
        f"{group.arrived}/{group.members}",
        str(group.leased),
        str(group.lost),
        span(group.oldest_lease_seconds) if group.oldest_lease_seconds >= 0 else "-",
        Text(group.oldest_lease_actor),
    ]


def _foot(status: Status) -> RenderableType:
    grid = _grid()
    books = status.books
    dropped = ", ".join(f"{one.name} {one.count}" for one in books.dropped)
    pending = ", ".join(f"{one.name} {one.count}" for one in books.pending)
    counts = [("trained", books.trained), ("evaluated", books.evaluated)]
    told = " + ".join(f"{count} {name}" for name, count in counts)
    told += f" + {sum(one.count for one in books.dropped)} dropped" + (f" ({dropped})" if dropped else "")
    told += f" + {sum(one.count for one in books.pending)} pending" + (f" ({pending})" if pending else "")
    grid.add_row("books", f"{books.issued} issued = {told}" + ("" if books.balanced else "; they do NOT balance"))
    disk = f"{size(status.disk_free_bytes)} free, the run takes {size(status.run_bytes)}"
    grid.add_row("disk", Text(f"{disk}; {status.disk_lacking}" if status.disk_lacking else disk))
    spools = f"{status.spooled} trajectories ({size(status.spooled_bytes)}) in actors' spools"
    grid.add_row("spool", f"{spools}; the last commit took {span(status.commit_seconds)}")
    cut = f"{status.connections_cut} cut, {status.unreadable_frames} unreadable frames since the gateway began"
    grid.add_row("link", f"{status.connections} connections, {cut} {span(status.up_seconds)} ago")
    return grid


def _errors(status: Status) -> RenderableType:
    table = Table(title="last warnings and errors", title_justify="left")
    for name in ("at", "level", "from", "event"):
        table.add_column(name, no_wrap=True)
    table.add_column("told")
    for error in status.errors:
        at = time.strftime("%m-%d %H:%M:%S", time.localtime(error.at))
        level = Text(error.level, style=LEVELS[error.level])
        table.add_row(at, level, Text(error.source), Text(error.event), Text(error.told))
    return table


def _grid() -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column()
    return grid
