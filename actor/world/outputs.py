"""AppWorld's outputs layout, written after an episode from what its world told: experiments/outputs/NAME/tasks/ID/.

    dbs/APP.jsonl            every change since the base data: the task's own, then the episode's
    dbs/model_hashes.json    how often each model was touched
    logs/environment_io.md   code and observation of each turn
    logs/api_calls.jsonl     the API calls, as the process that runs the cells told them
    version/, misc/, checkpoints/

The files are what the engine's own `AppWorld(...)` leaves, so `appworld evaluate NAME DATA_SET` reads them; it
adds `evaluation/`. Nothing is written while an episode runs. The folder that holds `experiments` also gets a link
`data` to the data root, because the engine looks for both below one root.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from actor.world.install import APPWORLD_VERSION
from common.errors import UsageError

RULE = "-" * 76  # as the engine draws it


@dataclass
class Played:
    """What an episode did in its world, for the layout."""

    task_id: str
    cells: list[tuple[str, str]] = field(default_factory=list)  # code, observation
    changes: Sequence[bytes] = ()  # of the turns that made any, JSON as a member process tells it
    calls: bytes = b""  # JSON lines


def prepare_outputs(out: Path, root: Path) -> None:
    """Make `out` a root in the engine's eyes: its `data` is that of the data root.

    Raises:
        UsageError: `out` has other data, or its path is one that the engine cannot bear.
    """
    if "memory" in str(out.absolute()):
        raise UsageError(f"the engine takes a path with 'memory' in it for no path at all: choose another than {out}")
    out.mkdir(parents=True, exist_ok=True)
    link, data = out / "data", (root / "full" / "data").resolve()
    if link.is_symlink() and link.resolve() != data:
        link.unlink()  # the world was built anew elsewhere
    if not link.exists():
        link.symlink_to(data)
    elif link.resolve() != data:
        raise UsageError(f"{link} is there and is not the data root {root}: choose another folder than {out}")


def outputs_folder(out: Path, experiment: str, task_id: str) -> Path:
    """Where the outputs of a task of an experiment lie."""
    return out / "experiments" / "outputs" / experiment / "tasks" / task_id


def write_outputs(out: Path, root: Path, experiment: str, played: Played) -> Path:
    """Write a task's folder, whole or not at all, in place of one that is there; returns it."""
    target = outputs_folder(out, experiment, played.task_id)
    target.parent.mkdir(parents=True, exist_ok=True)
    task = root / "full" / "data" / "tasks" / played.task_id
    draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=target.parent))
    try:
        draft.chmod(0o755)
        for name in ("dbs", "logs", "misc", "checkpoints", "version"):
            (draft / name).mkdir()
        _write_databases(draft / "dbs", task / "dbs", played.changes)
        (draft / "logs" / "environment_io.md").write_text(_io_log(played.cells), encoding="utf-8")
        (draft / "logs" / "api_calls.jsonl").write_bytes(played.calls)
        specs = json.loads((task / "specs.json").read_text(encoding="utf-8"))
        (draft / "version" / "code.txt").write_text(APPWORLD_VERSION, encoding="utf-8")
        (draft / "version" / "data.txt").write_text(str(specs["db_version"]), encoding="utf-8")
        shutil.rmtree(target, ignore_errors=True)
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def _write_databases(target: Path, start: Path, changes: Sequence[bytes]) -> None:
    """The task's own changes as they stand, the episode's behind them, app by app."""
    turns: list[dict[str, Any]] = [json.loads(turn) for turn in changes]
    apps = {file.stem for file in start.glob("*.jsonl")}.union(*(turn["changes"] for turn in turns))
    for app in sorted(apps):
        own = start / f"{app}.jsonl"
        before = own.read_bytes() if own.exists() else b""
        if before and not before.endswith(b"\n"):
            before += b"\n"
        made = [change for turn in turns for change in turn["changes"].get(app, ())]
        (target / f"{app}.jsonl").write_bytes(before + b"".join(_line(change) for change in made))
    (target / "model_hashes.json").write_text(json.dumps(_hashes(start, turns), indent=4), encoding="utf-8")


def _hashes(start: Path, turns: Sequence[Mapping[str, Any]]) -> Any:
    """As the last turn that changed anything left them; without any, as the task begins."""
    if turns:
        return turns[-1]["hashes"]
    file = start / "model_hashes.json"
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    return json.loads(text) if text.strip() else {}


def _line(change: Any) -> bytes:
    return json.dumps(change, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def _io_log(cells: Sequence[tuple[str, str]]) -> str:
    parts = []
    for number, (code, observation) in enumerate(cells, 1):
        head = f"\n### Environment Interaction {number}\n{RULE}"
        parts.append(f"{head}\n```python\n{code.strip()}\n```\n\n```\n{observation.rstrip()}\n```\n\n")
    return "".join(parts)
