"""A data root with a small data set of its own, and plays of its tasks: right, wrong, no-op, collateral damage."""

import wide


def small_root(folder, world_root, task_ids):
    """A root with the tasks of `world_root` and the data set `mixed`, made of links."""
    data = folder / "full" / "data"
    (data / "datasets").mkdir(parents=True)
    for name in ("api_docs", "base_dbs", "tasks"):
        (data / name).symlink_to(world_root / "full" / "data" / name)
    (data / "datasets" / "mixed.txt").write_text("".join(f"{task_id}\n" for task_id in task_ids))
    for name in ("world.json", "episode"):
        (folder / name).symlink_to(world_root / name)
    return folder


def mixed(root, tasks):
    """Task ids with the cells of each: a scenario solved in both its tasks, and one of whose tasks one is solved."""
    scenarios = {}
    for task_id in tasks:
        scenarios.setdefault(task_id.partition("_")[0], []).append(task_id)
    first, *_, second = (found for _, found in sorted(scenarios.items()) if len(found) >= 4)
    right, _, nothing, harm, _ = (play["cells"] for play in wide.solved(root, second[0]))
    wrong = ["apis.supervisor.complete_task(answer='wrong')"]
    plays = {task_id: wide.reference(root, task_id) for task_id in first[:2]}
    return plays | dict(zip(second, (right, wrong, nothing, harm), strict=False))
