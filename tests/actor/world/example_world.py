"""A data root of one task, made by hand: that of the worked example in a prompt. Runs in AppWorld's virtualenv.

    PYTHONHASHSEED=0 PYTHON example_world.py ROOT '{"instruction": .., "supervisor": ..}'

It makes ROOT/data with the task `example_1`, and knows nothing of the world's generator: the example is AppWorld's own
APIs over a few rows of its own, on AppWorld's own engine.
"""

import json
import os
import sys
from datetime import datetime, timedelta
from pathlib import Path

NOW = datetime(2023, 5, 18, 12, 0, 0)  # noqa: DTZ001 - the engine's clock has no time zone
PASSWORD = "k3vn8rqd2"
RECIPES = {  # whether it is pinned, by title
    "Lentil Soup": True,
    "Plum Cake": True,
    "Rye Bread": False,
    "Tomato Pasta": True,
    "Onion Pie": True,
    "Green Curry": False,
    "Bean Stew": True,
    "Fig Jam": True,
    "Pea Risotto": True,
}
OTHERS = {"Packing List": True, "Book Club": False}
EVALUATION = """
import json

def evaluate(*, test, models, ground_truth_answer, **_):
    with test("the answer is right and nothing was changed"):
        test.case(json.loads(models.end.supervisor.Task.all()[0].answer), "==", ground_truth_answer)
        test.case(models.changed_model_names(), "==", set())
"""


def rows(instruction, me):
    """(app, model, records): one person, who has notes."""
    since = NOW - timedelta(days=200)
    person = {**me, "birthday": "1991-04-12", "sex": "female"}
    yield "admin", "MainUser", [person]
    user = {"password": PASSWORD, "verified": True, "created_at": since, "last_logged_in": since}
    yield "simple_note", "User", [{name: me[name] for name in ("first_name", "last_name", "email")} | user]
    notes = [(title, ["recipe"], pinned) for title, pinned in RECIPES.items()]
    notes += [(title, [], pinned) for title, pinned in OTHERS.items()]
    yield "simple_note", "Note", [_note(number, *note) for number, note in enumerate(notes)]
    yield "supervisor", "Supervisor", [person]
    yield "supervisor", "AccountPassword", [{"supervisor_id": 1, "account_name": "simple_note", "password": PASSWORD}]
    yield "supervisor", "Task", [{"supervisor_id": 1, "instruction": instruction}]


def _note(number, title, tags, pinned):
    made = NOW - timedelta(days=30 + number)
    times = {"created_at": made, "updated_at": made}
    return {"user_id": 1, "title": title, "content": f"# {title}", "tags": tags, "pinned": pinned, **times}


def make(root, example):
    """Writes the data root. APPWORLD_ROOT must be `root`."""
    from appworld.apps import get_all_apps
    from appworld.collections.api_docs import ApiDocCollection
    from appworld.collections.models import ModelCollection
    from appworld.common.utils import freeze_time

    data = root / "data"
    task, docs = data / "tasks" / "example_1", data / "api_docs" / "standard"
    for folder in (task / "dbs", task / "ground_truth", docs, data / "datasets"):
        folder.mkdir(parents=True)
    freeze_time(NOW).start()
    models = ModelCollection.load(to_db_home_path=":memory:base", load_apps=get_all_apps(), create_db=True)
    table, found = models["api_docs"]["ApiDoc"], []
    fields = ("api_name", "path", "method", "description", "parameters", "response_schemas")
    for app, apis in ApiDocCollection.build(load_apps=tuple(get_all_apps(skip_admin=True))).items():
        write(docs / f"{app}.json", {name: {**doc, "canary_string": ""} for name, doc in apis.items()})
        found += [table.create(app_name_=app, **{name: doc[name] for name in fields}) for doc in apis.values()]
    table.save_all(found, skip_post_change=True)
    for app, model, records in rows(example["instruction"], example["supervisor"]):
        models[app][model].save_all([models[app][model].create(**row) for row in records], skip_post_change=True)
    models.save(db_home_path=str(data / "base_dbs"), format="full")
    for app in models.app_names:
        (task / "dbs" / f"{app}.jsonl").touch()
    write(task / "specs.json", {**example, "datetime": NOW.isoformat(), "db_version": "0.1.0", "canary_string": ""})
    right = sum(RECIPES.values())
    truth = {"answer": right, "public_data": {}, "private_data": {}}
    truth["test_data"] = [{"requirement": "the answer is right and nothing was changed", "label": "no_op_fail"}]
    truth["metadata"] = {"mode": "minimal", "difficulty": 1, "num_apps": 1, "num_apis": 5, "num_solution_code_lines": 9}
    for name, content in truth.items():
        write(task / "ground_truth" / f"{name}.json", content)
    (task / "ground_truth" / "evaluation.py").write_text(EVALUATION)
    (data / "datasets" / "train.txt").write_text("example_1\n")


def write(file, content):
    file.write_text(json.dumps(content))


if __name__ == "__main__":
    os.environ["APPWORLD_ROOT"] = sys.argv[1]
    make(Path(sys.argv[1]), json.loads(sys.argv[2]))
