"""Writes a world's files in AppWorld's format: base databases, API docs, one folder per task, the lists of task ids.

Flows in: a `Cast`, scenarios and drafts. Flows out: files below `full/data`. Runs in AppWorld's virtualenv, in a
process whose APPWORLD_ROOT is that root.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from actor.world.catalogue import catalogue_rows
from actor.world.people import NOW, Cast, Person, base_rows
from actor.world.scenarios.form import Draft, Row, Scenario
from actor.world.scenarios.tests import touched

BASE = ":memory:base"
HEADER = f'''"""Tests of one task: private_data holds what the right outcome is."""

import json
from typing import Any


{inspect.getsource(touched)}

'''


class Base:
    """The base databases, open in memory. Every task's rows are written into them, saved as changes, and taken back."""

    def __init__(self, models: Any) -> None:
        self.models = models
        self.databases = {
            app: importlib.import_module(f"appworld.apps.{app}.models").SQLModel.db for app in models.app_names
        }
        self._start = {app: type(database.connection)(":memory:") for app, database in self.databases.items()}
        for app, copy in self._start.items():
            self.databases[app].connection.backup(copy)

    def write_changes(self, folder: Path, rows: Iterable[Row]) -> None:
        """One .jsonl of changes per app, empty where none (a missing one would open an empty database)."""
        self.models.restart_db_tracker()
        touched = set()
        for row in rows:
            self.models[row.app][row.model].create(**row.fields).save()
            touched.add(row.app)
        for app, database in self.databases.items():
            database.save("changes", str(folder / f"{app}.jsonl"))
        for app in touched:
            self._start[app].backup(self.databases[app].connection)


def write_base(data: Path, cast: Cast) -> Base:
    """Builds the base databases in memory and saves them and the API docs.

    From then on time stands still in this process: what a row says about when it was made is the same in every build.
    """
    from appworld.apps import get_all_apps  # noqa: PLC0415 - cached on import: APPWORLD_ROOT comes first
    from appworld.collections.api_docs import ApiDocCollection  # noqa: PLC0415 - cached on import: APPWORLD_ROOT comes first
    from appworld.collections.models import ModelCollection  # noqa: PLC0415 - cached on import: APPWORLD_ROOT comes first
    from appworld.common.utils import freeze_time  # noqa: PLC0415 - cached on import: APPWORLD_ROOT comes first

    freeze_time(NOW).start()
    models = ModelCollection.load(to_db_home_path=BASE, load_apps=get_all_apps(), create_db=True)
    for app, model, records in chain(base_rows(cast), catalogue_rows(cast)):
        table = models[app][model]
        table.save_all([table.create(**record) for record in records], skip_post_change=True)
    collection = ApiDocCollection.build(load_apps=tuple(get_all_apps(skip_admin=True)))
    table = models["api_docs"]["ApiDoc"]  # what the documentation's own APIs answer from
    rows = [table.create(**_documentation(doc)) for apis in collection.values() for doc in apis.values()]
    table.save_all(rows, skip_post_change=True)
    models.save(db_home_path=str(data / "base_dbs"), format="full")
    folder = data / "api_docs" / "standard"
    folder.mkdir(parents=True)
    for app, apis in collection.items():
        docs = {name: {**doc, "canary_string": ""} for name, doc in apis.items()}
        (folder / f"{app}.json").write_text(json.dumps(docs))
    return Base(models)


def _documentation(doc: Mapping[str, Any]) -> dict[str, Any]:
    """An API's documentation as a row of the app api_docs."""
    fields = ("api_name", "path", "method", "description", "parameters", "response_schemas")
    return {"app_name_": doc["app_name"], **{name: doc[name] for name in fields}}


def write_task(data: Path, base: Base, task_id: str, *, scenario: Scenario, draft: Draft, me: Person) -> None:
    """One task's folder: specs, changes to the base databases, ground truth."""
    folder = data / "tasks" / task_id
    dbs, truth = folder / "dbs", folder / "ground_truth"
    dbs.mkdir(parents=True)
    truth.mkdir()
    instruction = scenario.say(draft)
    base.write_changes(dbs, [*_supervisor_rows(me, instruction), *draft.rows])
    supervisor = {key: getattr(me, key) for key in ("first_name", "last_name", "email", "phone_number")}
    specs = {
        "instruction": instruction,
        "supervisor": supervisor,
        "datetime": NOW.isoformat(),
        "db_version": "0.1.0",
        "canary_string": "",
    }
    (folder / "specs.json").write_text(json.dumps(specs))
    source = re.sub(r"^def \w+\(", "def evaluate(", inspect.getsource(scenario.evaluate), count=1)
    files: dict[str, Any] = {
        "answer": draft.answer,
        "public_data": dict(draft.values),
        "private_data": dict(draft.private),
        "test_data": [{"requirement": text, "label": "no_op_fail"} for text in requirements(source)],
        "metadata": {
            "mode": "minimal",
            "difficulty": scenario.difficulty,
            "apps": apps_used(scenario),
            "num_apps": len(apps_used(scenario)),
            "num_apis": len(apis_used(scenario)),
            "num_solution_code_lines": sum(cell.count("\n") + 1 for cell in scenario.cells),
        },
    }
    for name, content in files.items():
        (truth / f"{name}.json").write_text(json.dumps(content))
    (truth / "evaluation.py").write_text(HEADER + source)


def write_datasets(data: Path, datasets: Mapping[str, Iterable[str]]) -> None:
    """The lists of task ids by data set, e.g. {"train": ["likeSong_1"]}."""
    (data / "datasets").mkdir()
    for name, ids in datasets.items():
        (data / "datasets" / f"{name}.txt").write_text("\n".join(ids) + "\n")


def requirements(source: str) -> list[str]:
    """The requirements that an evaluation's source tests, in order."""
    return re.findall(r'with test\("([^"]+)"\)', source)


def apis_used(scenario: Scenario) -> list[str]:
    """The APIs that the reference solution calls, each once, e.g. ["supervisor.show_addresses"]."""
    options = scenario.right()
    text = "\n".join(re.sub(r"\$(\w+)", lambda match: options.get(match[1], ""), cell) for cell in scenario.cells)
    return list(dict.fromkeys(re.findall(r"apis\.(\w+\.\w+)", text)))


def apps_used(scenario: Scenario) -> list[str]:
    """The apps of a scenario besides the supervisor's, e.g. ["spotify"]."""
    return [app for app in dict.fromkeys(api.split(".")[0] for api in apis_used(scenario)) if app != "supervisor"]


def _supervisor_rows(me: Person, instruction: str) -> list[Row]:
    """The supervisor's own app: who he is, his passwords, the task he gives."""
    person = {key: getattr(me, key) for key in ("first_name", "last_name", "email", "phone_number", "birthday", "sex")}
    rows = [Row(app="supervisor", model="Supervisor", fields=person)]
    rows += [
        Row(
            app="supervisor",
            model="AccountPassword",
            fields={"supervisor_id": 1, "account_name": account, "password": password},
        )
        for account, password in me.passwords
    ]
    task = {"supervisor_id": 1, "instruction": instruction}
    return [*rows, Row(app="supervisor", model="Task", fields=task)]
