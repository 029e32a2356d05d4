"""AppWorld's own data, in their own form, become a data root without a copy and without a change."""

import asyncio
import json
import os
from pathlib import Path

import pytest
from official_data import make_official, rewrite
from structlog.testing import capture_logs

from actor.world import cli, install, official, show
from actor.world.config import WorldConfig
from actor.world.root import check_root, choose_root, dataset_ids, difficulty_of, is_official, read_task
from actor.world.service import AppWorlds
from actor.world.tasks import list_tasks
from actor.world_protocol import UnusableTask
from common.errors import UsageError

TASKS = ("likeSong_1", "likeSong_2", "payFriend_1", "longestSong_1", "alarmTime_1")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    python = install.appworld_python()  # of the real cache folder
    monkeypatch.setattr("actor.world.service.appworld_python", lambda: python)
    monkeypatch.setenv("LOOP_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("APPWORLD_ROOT", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def data(tmp_path, world_root, cache):
    return make_official(tmp_path / "appworld", world_root, TASKS)


def solution(world_root, task_id):
    file = world_root / "full" / "data" / "tasks" / task_id / "ground_truth" / "solution.json"
    return json.loads(file.read_text())["cells"]


def below(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_the_view_has_the_data_and_its_episodes_side_no_ground_truth(data):
    root = choose_root(data)
    assert check_root(root) == "alarmTime_1"
    unread = {"api_docs/function_calling/venmo.json", "api_docs/openapi/venmo.json"}
    assert below(root / "full" / "data") == below(data / "data") - unread
    assert below(root / "episode" / "data") == {
        name for name in below(data / "data") - unread if "ground_truth" not in name
    }
    assert (root / "full").stat().st_mode & 0o777 == 0o700
    assert read_task(root, "likeSong_1").instruction.startswith("Like ")


def test_nothing_is_copied_on_one_file_system(data):
    database = Path("data", "base_dbs", "spotify.db")
    inode = (data / database).stat().st_ino
    root = choose_root(data)
    assert {(root / side / database).stat().st_ino for side in ("full", "episode")} == {inode}


def test_elsewhere_each_file_is_copied_once_and_the_data_stay_as_they_are(data, monkeypatch):
    link = os.link

    def only_within(source, target):
        if Path(source).is_relative_to(data):
            raise OSError("another file system")
        link(source, target)

    before = {name: (data / "data" / name).stat().st_mtime_ns for name in below(data / "data")}
    monkeypatch.setattr(os, "link", only_within)
    root = choose_root(data)
    database = Path("data", "base_dbs", "spotify.db")
    inodes = {(folder / database).stat().st_ino for folder in (data, root / "full", root / "episode")}
    assert len(inodes) == 2
    assert (root / "full" / database).read_bytes() == (data / database).read_bytes()
    assert {name: (data / "data" / name).stat().st_mtime_ns for name in below(data / "data")} == before


def test_a_file_that_only_its_owner_may_read_is_one_that_episodes_can(data):
    closed = data / "data" / "base_dbs" / "spotify.db"
    closed.chmod(0o600)
    assert (choose_root(data) / "episode" / "data" / "base_dbs" / "spotify.db").stat().st_mode & 0o777 == 0o644
    assert closed.stat().st_mode & 0o777 == 0o600


def test_whatever_else_lies_in_a_tasks_folder_is_not_for_episodes(data):
    (data / "data" / "tasks" / "likeSong_1" / "notes").mkdir()
    (data / "data" / "tasks" / "likeSong_1" / "notes" / "answer.txt").write_text("the answer")
    (data / "data" / "tasks" / "answers.txt").write_text("all answers")
    root = choose_root(data)
    assert not [name for name in below(root / "episode") if "answer" in name]


def test_the_same_data_have_one_view_and_changed_data_a_new_one(data, cache):
    first = choose_root(data)
    assert choose_root(data) == first
    rewrite(data / "data" / "tasks" / "likeSong_1" / "specs.json", instruction="Like another song.")
    second = choose_root(data)
    assert second != first
    assert [path for path in (cache / "official").iterdir() if path.is_dir()] == [second]
    assert read_task(second, "likeSong_1").instruction == "Like another song."


def test_what_a_killed_process_left_is_no_view(data, cache):
    left = choose_root(data)
    (left / "world.json").unlink()
    (left / "episode" / "data" / "tasks" / "likeSong_1" / "specs.json").unlink()
    assert read_task(choose_root(data), "likeSong_1").task_id == "likeSong_1"


def test_appworld_root_names_the_data_unless_the_option_does(data, world_root, monkeypatch):
    monkeypatch.setenv("APPWORLD_ROOT", str(data))
    with capture_logs() as logs:
        root = choose_root()
    assert [(log["root"], log["chosen_by"]) for log in logs if log["event"] == "data_root"] == [
        (str(root), "APPWORLD_ROOT")
    ]
    assert is_official(root)
    with capture_logs() as logs:
        assert choose_root(world_root) == world_root
    assert [entry["chosen_by"] for entry in logs if entry["event"] == "data_root"] == ["world.root"]
    assert not is_official(world_root)


def test_a_folder_without_data_is_refused_with_how_to_get_them(tmp_path, cache, monkeypatch):
    monkeypatch.setenv("APPWORLD_ROOT", str(tmp_path))
    with pytest.raises(UsageError, match=r"is not a data root \(APPWORLD_ROOT\).*appworld download data --root"):
        choose_root()
    (tmp_path / "data").mkdir()
    with pytest.raises(UsageError, match=r"data/api_docs is missing.*nothing of what is unpacked may be passed on"):
        choose_root()


def test_a_path_that_the_engine_cannot_bear_may_hold_the_data(tmp_path, world_root, cache):
    assert check_root(choose_root(make_official(tmp_path / "in memory of", world_root, TASKS))) == "alarmTime_1"


def test_ids_are_those_of_the_list_without_its_tags(data):
    listed = data / "data" / "datasets" / "train.txt"
    listed.write_text("likeSong_2:hard\n\n  likeSong_1\n")
    assert dataset_ids(choose_root(data), "train") == ["likeSong_2", "likeSong_1"]


def test_difficulties_choose_tasks(world_root):
    ids = dataset_ids(world_root, "train")
    levels = {task_id: difficulty_of(world_root, task_id) for task_id in ids}
    assert len(set(levels.values())) > 1
    for wanted in ({1}, {3}, {1, 3}):
        assert dataset_ids(world_root, "train", wanted) == [i for i in ids if levels[i] in wanted]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("\n", "lists no task"),
        ("likeSong_1\nlikeSong_1\n", "lists likeSong_1 more than once"),
        ("likeSong_1\nlike Song\n", "'like Song' is not a task id, such as likeSong_3"),
    ],
)
def test_a_list_that_is_none_is_named(data, text, problem):
    (data / "data" / "datasets" / "train.txt").write_text(text)
    with pytest.raises(UsageError, match=f"train.txt: {problem}"):
        dataset_ids(choose_root(data), "train")


def test_what_a_root_does_not_have_is_named(world_root):
    with pytest.raises(UsageError, match="has no data set 'tset'; it has dev, test_challenge, test_normal, train"):
        dataset_ids(world_root, "tset")
    with pytest.raises(UsageError, match="has no task 'ghost_1'"):
        difficulty_of(world_root, "ghost_1")
    with pytest.raises(UsageError, match=r"no task of data set 'train' .* has difficulty 9"):
        dataset_ids(world_root, "train", [9])


def test_another_count_than_the_papers_is_said_of_official_data_alone(data, world_root):
    with capture_logs() as logs:
        found = list_tasks(choose_root(data), "train", (1, 2))
        list_tasks(world_root, "train", (1, 2))
    assert found["official"]
    assert found["count"] == len(found["tasks"]) > 0
    (warned,) = [entry for entry in logs if entry["event"] == "another_count_than_published"]
    assert (warned["tasks"], warned["published_tasks"], warned["published_scenarios"]) == (found["count"], 72, 24)


def test_its_tasks_are_shown_to_a_person(data):
    root = choose_root(data)
    train, test = show.task_facts(root, "payFriend_1"), show.task_facts(root, "alarmTime_1")
    assert (train["dataset"], train["apps"]) == ("train", ["venmo"])
    assert train["solution"][0].startswith("# Canary String")
    assert test["dataset"].startswith("test_")
    assert test["solution"] == []
    assert {fact["scenario"] for fact in show.scenario_facts(root)} == {task.split("_")[0] for task in TASKS}


def test_the_command_lists_tasks_and_writes_the_learners_list(data, tmp_path, capsys):
    words = ["tasks", "--root", str(data), "--dataset", "train", "--difficulty", "1,2"]
    assert cli.main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert cli.main([*words, "--out", str(tmp_path / "train.txt")]) == 0
    assert (
        capsys.readouterr().out.strip()
        == f"{found['count']} tasks of {found['scenarios']} scenarios in {tmp_path}/train.txt"
    )
    assert (tmp_path / "train.txt").read_text().split() == found["tasks"]
    assert found["tasks"] == dataset_ids(choose_root(data), "train", (1, 2))


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--difficulty", "4"], "'4' is not difficulties between 1 and 3, such as 1,2"),
        (["--dataset", "tset"], "has no data set 'tset'"),
        (["--out", "/nowhere/at/all"], "--out /nowhere/at/all: cannot be written"),
    ],
)
def test_bad_words_for_a_list_are_refused(world_root, words, problem):
    with pytest.raises(UsageError, match=problem):
        cli.main(["tasks", "--root", str(world_root), *words])


def test_demonstrations_of_data_without_solutions_are_refused(data, tmp_path):
    with pytest.raises(UsageError, match="AppWorld's own data do not have"):
        cli.main(["demonstrate", "--root", str(data), "--out", str(tmp_path / "x.jsonl")])


def test_episodes_are_played_and_graded_on_it(data, world_root):
    """By the actor's own service: the reference solution of the world that the data are made of, and nothing."""

    async def scenario():
        service = AppWorlds(WorldConfig(root=data, memory_megabytes=256))
        service.check(TASKS)
        await service.start()
        try:
            verdicts = []
            for cells in (solution(world_root, "likeSong_1"), ["apis.supervisor.complete_task()"]):
                world = await service.open("likeSong_1")
                for cell in cells:
                    await world.execute(cell)
                verdicts.append(await world.grade())
            with pytest.raises(UnusableTask, match="has no task 'ghost_1'"):
                await service.open("ghost_1")
            return verdicts
        finally:
            await service.close()

    right, nothing = asyncio.run(scenario())
    assert right.success
    assert not nothing.success
    assert not list((data / "data").rglob("__pycache__"))


def test_a_view_says_what_it_is_of(data):
    facts = json.loads((choose_root(data) / official.MARKER).read_text())
    assert facts == {"arguments": None, "data": str(data / "data"), "tasks": len(TASKS)}
