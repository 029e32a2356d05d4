"""The process that grades: it holds the tests, never runs model-written code, and is told only what was changed.

In come a task id and the tracked changes that its episode left, out comes the verdict of the task's own tests on the
task's start state with those changes applied (the engine's `evaluate_task`, without its files). Changes that API
calls do not explain, or that are no plain changes of rows, are not graded: the episode was tampered with. Databases
and evaluation code of a task stay loaded; SQLite's backup brings the end state back to the start after each grade.
It is confined as well: another user than any episode's (as root), no network, no program, nothing written.
Runs in AppWorld's virtualenv.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

from actor.world import engine, explain, frames, sandbox
from actor.world.changes import Changer, Refused

TASKS_HELD = 48  # loaded at once; each holds its databases twice
REQUEST_LIMIT = 64 << 20
MEMORY = 8 << 30  # bytes of address space beyond what it starts with
FILES = 1024  # open descriptors: the engine keeps base databases open


class GradedTask:
    """One task's start models, end databases and tests."""

    def __init__(self, task_id: str) -> None:
        from appworld.apps.model_lib import get_db_home_path  # noqa: PLC0415
        from appworld.collections.models import ModelCollection  # noqa: PLC0415
        from appworld.task import Task  # noqa: PLC0415

        self.task: Any = Task.load(task_id=task_id)
        self.start = self.task.model_collection
        self.end_home = get_db_home_path(storage_type="memory", type="task_output", task_id=task_id)
        # Every task's file has this module name, and a second import would overwrite the first one's functions.
        sys.modules.pop("evaluation", None)
        self.tests = self.task.ground_truth.evaluation_module()
        sys.modules.pop("evaluation", None)
        self.end = ModelCollection.load(
            to_db_home_path=self.end_home,
            from_db_home_path=self.task.models_from_db_home_path,
            load_apps=self.task.allowed_apps,
        )
        self.connections = {
            app: (_connection(self.task.models_to_db_home_path, app), _connection(self.end_home, app))
            for app in self.end.app_names
        }
        self.changers = {app: Changer(end) for app, (_, end) in self.connections.items()}

    def grade(self, turns: list[dict[str, Any]]) -> dict[str, Any]:
        """The engine's verdict on the start state with the turns' changes applied. Leaves the start state behind.

        Raises Refused when they are not what the engine's API calls make.
        """
        from appworld.apps.api_lib import set_local_date_and_time  # noqa: PLC0415

        touched = {app for turn in turns for app in turn["changes"]}
        freezer = set_local_date_and_time(self.task.datetime)
        try:
            for turn in turns:
                self._apply(turn["changes"])
            self._set_hashes(turns)
            return self._evaluate()
        finally:
            freezer.stop()
            for app in touched & self.connections.keys():
                start, end = self.connections[app]
                end.rollback()
                start.backup(end)

    def close(self) -> None:
        """Frees both sets of databases."""
        from appworld.apps.model_lib import CachedDBHandler  # noqa: PLC0415

        for home in (self.end_home, self.task.models_to_db_home_path):
            CachedDBHandler.reset(f"{home}/")

    def _apply(self, changes: dict[str, list[list[Any]]]) -> None:
        for app, statements in changes.items():
            if app not in self.changers:
                raise Refused(f"a change is to {app[:80]}, which is no app of the task")
            self.changers[app].apply(statements)

    def _set_hashes(self, turns: list[dict[str, Any]]) -> None:
        from appworld.apps.model_lib import ModelHashHandler  # noqa: PLC0415

        ModelHashHandler.reset(self.end_home)
        for app, hashes in (turns[-1]["hashes"] if turns else {}).items():
            ModelHashHandler.data[self.end_home][app].update(hashes)

    def _evaluate(self) -> dict[str, Any]:
        from appworld.collections.models import ModelCollectionPair  # noqa: PLC0415
        from appworld.evaluator import TestTracker  # noqa: PLC0415

        self.end.clear_ids_record_hashes()
        models = ModelCollectionPair(
            start_db_home_path=self.start.from_db_home_path,
            start_model_collection=self.start,
            end_db_home_path=self.end_home,
            end_model_collection=self.end,
        )
        truth = self.task.ground_truth
        tracker = TestTracker(test_data=truth.test_data, difficulty=truth.metadata["difficulty"], suppress_errors=True)
        self.tests.evaluate(
            test=tracker,
            public_data=truth.public_data,
            private_data=truth.private_data,
            main_user=models.start.admin.MainUser.find_one(**self.task.supervisor),
            models=models,
            ground_truth_answer=truth.answer,
        )
        return dict(tracker.to_dict())


def _connection(home: str, app: str) -> Any:
    from appworld.apps.model_lib import CachedDBHandler, db_home_to_app_path  # noqa: PLC0415

    found = CachedDBHandler.get(db_home_to_app_path(home, app))
    assert found is not None, f"the engine has not opened {app} of {home}"
    return found[0].raw_connection().connection


def quicken_switches() -> None:
    """An evaluation switches the model classes between start and end about 44 times: each becomes a few pointers."""
    from appworld.apps.model_lib import CachedDBHandler, db_home_to_app_path  # noqa: PLC0415
    from appworld.collections.models import ModelCollection  # noqa: PLC0415
    from appworld.common.utils import import_models_module  # noqa: PLC0415

    switch = ModelCollection.reset_db_home_path
    paths: dict[str, list[tuple[Any, str]]] = {}

    def reset_db_home_path(self: Any, create_db: bool = False) -> None:
        home = self.to_db_home_path
        known = paths.get(home)
        if known is None or create_db or len(known) != len(self.app_names):
            switch(self, create_db=create_db)
            paths[home] = [
                (import_models_module(app).SQLModel.db, db_home_to_app_path(home, app)) for app in self.app_names
            ]
            return
        for database, path in known:
            found = CachedDBHandler.cache.get(path)
            if found is None:
                switch(self)
                return
            if found[0] is not database.engine:
                database.set(*found)

    ModelCollection.reset_db_home_path = reset_db_home_path


def serve(sock: socket.socket) -> None:
    """Grades what is asked until the client closes."""
    tasks: OrderedDict[str, GradedTask] = OrderedDict()
    while (frame := frames.receive(sock, REQUEST_LIMIT)) is not None:
        head, body = frame
        try:
            verdict = _grade(tasks, head, body)
        except Exception as error:  # noqa: BLE001  # the client raises it where the episode is
            tasks.pop(head["task"], None)
            verdict = {"failed": f"{type(error).__name__}: {error}".splitlines()[0]}
        frames.send(sock, {"number": head["number"], **verdict})


def _grade(tasks: OrderedDict[str, GradedTask], head: dict[str, Any], body: bytes) -> dict[str, Any]:
    task_id = head["task"]
    if task_id not in tasks:
        if len(tasks) >= TASKS_HELD:
            tasks.popitem(last=False)[1].close()
        tasks[task_id] = GradedTask(task_id)
    tasks.move_to_end(task_id)
    try:
        return {"verdict": tasks[task_id].grade(_explained_turns(head["sizes"], body))}
    except Refused as refused:
        return {"tampered": str(refused)}


def _explained_turns(sizes: list[int], body: bytes) -> list[dict[str, Any]]:
    """The turns' changes. Raises Refused where no API call explains them, or they are not what members send."""
    turns: list[dict[str, Any]] = []
    start = 0
    try:
        for number, size in enumerate(sizes, start=1):
            turn = json.loads(body[start : start + size])
            start += size
            if reason := explain.unexplained(turn["changes"], turn["calls"]):
                raise Refused(f"{reason} (change {number} of the episode)")
            for app, hashes in turn["hashes"].items():
                turn["hashes"][app] = {str(model): int(value) for model, value in hashes.items()}
            turns.append(turn)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Refused(f"the changes are not of the form that they have: {type(error).__name__}") from error
    return turns


def main(descriptor: int, settings: dict[str, Any]) -> None:
    """Loads the engine on the root with the tests, says so, serves."""
    sock = socket.socket(fileno=descriptor)
    try:
        engine.set_paths(Path(settings["root"]), Path(settings["scratch"]))
        engine.accelerate_grading()
        quicken_switches()
        importlib.import_module("appworld.evaluator")
        warm = GradedTask(settings["warm_task"])
        warm.grade([])
        warm.close()
        engine.settle()
        guards = _confine(descriptor, settings)
        GradedTask(settings["warm_task"]).grade([])  # what it holds, it can still read now
    except Exception as error:  # the client turns it into one clear line for a person
        frames.send(sock, {"failed": f"{type(error).__name__}: {error}".splitlines()[0]})
        raise
    frames.send(sock, {"ready": True, "guards": guards})
    serve(sock)
    sys.stderr.flush()
    os._exit(0)


def _confine(descriptor: int, settings: dict[str, Any]) -> tuple[str, ...]:
    """The guards that are on from here."""
    from appworld.apps.model_lib import get_direct_cached_sqlite3_connection  # noqa: PLC0415

    get_direct_cached_sqlite3_connection.cache_clear()  # their files are closed and opened again inside
    os.umask(0o022)  # the folders of the private root are for everybody to pass
    root, own = Path(settings["root"]), Path(settings["scratch"]) / "grader"
    own.mkdir(exist_ok=True)
    limits = sandbox.Limits(sandbox.address_space() + MEMORY, None, FILES)
    as_root = os.geteuid() == 0
    guards = sandbox.enter([*sandbox.own_code(), root], own)
    needed = root / "data" / "tasks" / settings["warm_task"] / "ground_truth" / "evaluation.py"
    sandbox.settle_in(
        uid=sandbox.GRADER_UID if as_root else None, limits=limits, keep={1, 2, descriptor}, needed=needed
    )
    return guards
