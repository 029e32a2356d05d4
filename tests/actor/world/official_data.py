"""A folder in the form of AppWorld's own data, made of a built world's: what is beside ours in it is made up."""

import json
import os
import shutil
from pathlib import Path

CANARY = "appworld:made-up-for-a-test"
SOLUTION = '# Canary String: x\ndef solution(apis, requester):\n    print(apis.supervisor.show_profile()["email"])\n'


def make_official(folder: Path, world_root: Path, tasks: tuple[str, ...] = ()) -> Path:
    """`folder/data` with the given tasks of a built world (all, when none are given). Train and dev in full mode."""
    source, data = world_root / "full" / "data", folder / "data"
    shutil.copytree(source, data, ignore=lambda where, names: names if Path(where).name == "tasks" else [])
    listed = {file.stem: file.read_text().split() for file in (source / "datasets").glob("*.txt")}
    for name, ids in listed.items():
        kept = [task_id for task_id in ids if not tasks or task_id in tasks]
        (data / "datasets" / f"{name}.txt").write_text("\n".join(kept))
        for task_id in kept:
            add_task(source / "tasks" / task_id, data / "tasks" / task_id, full=name in ("train", "dev"))
    for other in ("function_calling", "openapi"):
        (data / "api_docs" / other).mkdir()
        (data / "api_docs" / other / "venmo.json").write_text("{}")
    (data / "version.txt").write_text("0.1.0\n")
    (data / "LICENSE").write_text("not to be passed on\n")
    return folder


def add_task(source: Path, target: Path, *, full: bool) -> None:
    bytecode = shutil.ignore_patterns("__pycache__")  # of who evaluated something of this world before
    shutil.copytree(source, target, copy_function=os.link, ignore=bytecode)
    truth = target / "ground_truth"
    (truth / "solution.json").unlink()
    rewrite(target / "specs.json", canary_string=CANARY)
    if full:
        apps = json.loads((truth / "metadata.json").read_text())["apps"]
        rewrite(truth / "metadata.json", mode="full")
        rewrite(truth / "metadata.json", without="apps")
        (truth / "required_apps.json").write_text(json.dumps(apps))
        (truth / "api_calls.json").write_text("[]")
        (truth / "generator.py").write_text("# Canary String: x\n")
        for name in ("solution.py", "compiled_solution.py"):
            (truth / name).write_text(SOLUTION)


def rewrite(file: Path, without: str = "", **changes: object) -> None:
    """Changes a JSON file's keys; a new file, so that what is linked to the old one stays as it was."""
    content = json.loads(file.read_text()) | changes
    content.pop(without, None)
    file.unlink()
    file.write_text(json.dumps(content))
