import inspect
import random
from string import Template

import pytest

from actor.world.people import ACCOUNTS, alike, make_cast, sayings_alike
from actor.world.plan import DATASETS, plan
from actor.world.scenarios import CHALLENGE, TRAIN, UNSEEN
from actor.world.scenarios.form import Choice
from actor.world.task_files import apis_used, apps_used, requirements

SIZES = {"train": 12, "dev": 2, "test_normal": 3, "unseen": 6, "test_challenge": 6}
EVERY = pytest.mark.parametrize("scenario", TRAIN + UNSEEN + CHALLENGE, ids=lambda scenario: scenario.name)


@pytest.fixture(scope="module")
def tasks():
    return plan(make_cast(1), 1, SIZES)


def test_a_cast_is_a_function_of_its_seed():
    assert make_cast(3) == make_cast(3)
    assert make_cast(3) != make_cast(4)


def test_people_have_an_account_everywhere_and_names_that_are_alike_but_not_the_same():
    cast = make_cast(1)
    assert len(ACCOUNTS) == 9
    assert all(tuple(dict(person.passwords)) == ACCOUNTS for person in cast.people)
    assert len({person.name for person in cast.people}) == len({p.email for p in cast.people}) == len(cast.people) == 20
    assert len({person.first_name for person in cast.people}) == len({p.last_name for p in cast.people}) == 12
    assert len({person.first_name for person in cast.people[: cast.supervisors]}) == cast.supervisors


def test_no_two_songs_or_products_share_a_title_a_length_or_a_price():
    cast = make_cast(1)
    assert len({song.title for song in cast.songs}) == len({song.duration for song in cast.songs}) == 60
    assert len({product.name for product in cast.products}) == len({p.price for p in cast.products}) == 40


def test_a_plan_is_a_function_of_its_arguments(tasks):
    again = plan(make_cast(1), 1, SIZES)
    assert [(t.task_id, t.draft) for t in tasks] == [(t.task_id, t.draft) for t in again]


def test_data_sets_hold_what_was_asked_for(tasks):
    counts = {name: sum(task.dataset == name for task in tasks) for name in DATASETS}
    seen, unseen, challenge = len(TRAIN), len(UNSEEN), len(CHALLENGE)
    held_out = 3 * seen + 6 * unseen
    assert counts == {"train": 12 * seen, "dev": 2 * seen, "test_normal": held_out, "test_challenge": 6 * challenge}
    for dataset, scenarios in (("train", TRAIN), ("test_normal", TRAIN + UNSEEN), ("test_challenge", CHALLENGE)):
        names = {task.scenario.name for task in tasks if task.dataset == dataset}
        assert names == {scenario.name for scenario in scenarios}


def test_held_out_tasks_are_not_among_the_train_tasks(tasks):
    def what(task):
        return task.me.id, task.scenario.say(task.draft), task.draft.answer

    seen = {what(task) for task in tasks if task.dataset == "train"}
    assert len(seen) == 12 * len(TRAIN)
    assert not seen & {what(task) for task in tasks if task.dataset != "train"}


def test_task_ids_have_exactly_one_underscore(tasks):
    assert {task.task_id.count("_") for task in tasks} == {1}
    assert len({task.task_id for task in tasks}) == len(tasks)


def test_training_holds_what_the_issue_asks_of_it():
    used = {scenario.name: set(apps_used(scenario)) for scenario in TRAIN}
    assert len(TRAIN) == len(used) == 28
    assert set().union(*used.values()) == set(ACCOUNTS) - {"amazon", "gmail"}
    assert {scenario.difficulty for scenario in TRAIN} == {1, 2, 3}
    several = {name for name, apps in used.items() if len(apps) > 1}
    assert several == {scenario.name for scenario in TRAIN if scenario.difficulty == 3}
    assert len(several) >= 4


def test_what_only_test_normal_asks_needs_no_app_that_training_lacks():
    trained = {app for scenario in TRAIN for app in apps_used(scenario)}
    used = {scenario.name: set(apps_used(scenario)) for scenario in UNSEEN}
    assert len(used) >= 6
    assert {name for name, apps in used.items() if not apps <= trained} == set()
    assert any(len(apps) > 1 for apps in used.values())


def test_whatever_test_challenge_asks_needs_an_app_that_training_lacks():
    trained = {app for scenario in TRAIN for app in apps_used(scenario)}
    used = {scenario.name: set(apps_used(scenario)) for scenario in CHALLENGE}
    assert len(used) >= 8
    assert {name for name, apps in used.items() if apps <= trained} == set()
    assert {app for apps in used.values() for app in apps} - trained == {"amazon", "gmail"}
    several = {name for name, apps in used.items() if len(apps) > 1}
    assert several == {scenario.name for scenario in CHALLENGE if scenario.difficulty == 3}
    assert len(several) >= 2


def test_all_nine_apps_and_at_least_forty_scenarios_are_asked_about():
    every = TRAIN + UNSEEN + CHALLENGE
    assert {app for scenario in every for app in apps_used(scenario)} == set(ACCOUNTS)
    assert len(every) >= 40


def test_no_name_is_used_twice():
    names = [scenario.name for scenario in TRAIN + UNSEEN + CHALLENGE]
    assert len(set(names)) == len(names)


def test_names_that_are_alike_share_words_but_are_never_the_same():
    rng = random.Random(1)
    for make in (alike, sayings_alike):
        names = make(rng, 7)
        assert len(set(names)) == 7
        assert len({word for name in names for word in name.split()}) <= 8


def test_most_but_not_all_scenarios_are_wrong_by_default():
    share = sum(not scenario.modal_is_right for scenario in TRAIN) / len(TRAIN)
    assert 0.5 <= share <= 0.7


@EVERY
def test_sampling_finds_the_right_way_now_and_then(scenario):
    assert 0.25 <= scenario.chance <= 0.75


@EVERY
def test_choices_and_cells_speak_of_the_same_names(scenario, tasks):
    draft = next(task.draft for task in tasks if task.scenario is scenario)
    named = {name for cell in scenario.cells for name in Template(cell).get_identifiers()}
    assert scenario.choices.keys() <= named
    assert named - scenario.choices.keys() - draft.values.keys() <= {"seen"}


@EVERY
def test_whatever_is_drawn_fills_in_every_cell_with_short_code(scenario, tasks):
    draft = next(task.draft for task in tasks if task.scenario is scenario)
    rng = random.Random(1)
    for _ in range(20):
        options = scenario.drawn(rng)
        for cell in range(len(scenario.cells)):
            code = scenario.code(cell, options, draft.values, "it's 7\n")
            compile(code, scenario.name, "exec")
            assert "$" not in code
            assert len(code) < 320


@EVERY
def test_every_scenario_has_tests_and_uses_apis(scenario):
    assert 2 <= len(requirements(inspect.getsource(scenario.evaluate))) <= 3
    assert "supervisor.complete_task" in apis_used(scenario)


def test_an_observation_is_copied_without_its_line_end_and_with_its_quotes_escaped():
    scenario = next(scenario for scenario in TRAIN if scenario.name == "noteText")
    assert scenario.code(3, {}, {}, "it's 7\n") == "apis.supervisor.complete_task(answer='it\\'s 7')"


def test_the_modal_option_is_the_likeliest_single_one():
    assert not Choice(right="a", wrong=(("b", 1),), chance=0.4).modal_is_right
    assert Choice(right="a", wrong=(("b", 1), ("c", 1)), chance=0.4).modal_is_right


def test_options_are_drawn_with_their_probabilities():
    choice = Choice(right="a", wrong=(("b", 3), ("c", 1)), chance=0.5)
    rng = random.Random(0)
    drawn = [choice.draw(rng) for _ in range(8000)]
    assert drawn.count("a") / 8000 == pytest.approx(0.5, abs=0.02)
    assert drawn.count("b") / 8000 == pytest.approx(0.375, abs=0.02)
