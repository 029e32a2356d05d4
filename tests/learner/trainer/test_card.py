"""A version's model card: what it states, and that it follows from state and configuration alone."""

import re

import pytest
import yaml

from learner.config import LearnerConfig
from learner.trainer.card import card_of_export, licence_of, model_card
from learner.trainer.resume import TrainerState


def make_state(**changes):
    values = {"run_id": "tiny-1", "seed": 7, "model": "ab" * 32, "step": 12, "policy_version": 13}
    figures = {"step": 12, "mean_reward": 0.4321, "success_share": 0.25, "loss": None, "ratios": {"kl_k3": 1.0}}
    evaluation = {
        "label": "before.t0",
        "policy_version": 0,
        "tasks": 9,
        "tgc": 0.444444,
        "sgc": 0.1,
        "mean_reward": 0.5,
    }
    made = {"made_at": "2026-01-02 03:04:05", "figures": figures, "evaluations": (evaluation,)}
    return TrainerState.model_validate({**values, **made, **changes})


@pytest.fixture
def config(tmp_path):
    (tmp_path / "train.txt").write_text("a_1\na_2\nb_1\n")
    return LearnerConfig.model_validate(
        {
            "model": {"path": tmp_path / "Qwen2.5-7B-Instruct", "training": "lora"},
            "rollout": {"train_tasks": tmp_path / "train.txt", "steps": 40},
            "optimizer": {"learning_rate": 5e-5},
        }
    )


def front_of(card):
    return yaml.safe_load(re.match(r"---\n(.*?)---\n", card, re.DOTALL).group(1))


def table_of(card):
    return dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", card, re.MULTILINE))


def test_a_card_states_run_base_data_method_figures_and_libraries(config, tmp_path):
    card = model_card(make_state(), config, tmp_path, adapter=True)
    table = table_of(card)
    assert card.splitlines()[10] == "# tiny-1, policy version 13"
    assert (table["run"], table["seed"], table["step"], table["policy version"]) == ("tiny-1", "7", "12 of 40", "13")
    assert table["made (UTC)"] == "2026-01-02 03:04:05"
    assert table["base model"] == "Qwen2.5-7B-Instruct"
    assert table["trained on"] == "the tasks of train.txt, 3 of them"
    assert (table["mean_reward"], table["success_share"]) == ("0.4321", "0.25")
    assert "loss" not in table
    assert "| before.t0 | 0 | 9 | 0.444444 | 0.1 | 0.5 |" in card
    settings = yaml.safe_load(re.search(r"```yaml\n(.*?)```", card, re.DOTALL).group(1))
    assert settings["optimizer"]["learning_rate"] == 5e-5
    assert settings["objective"]["advantage"] == "leave_one_out"
    assert settings["model"]["lora"]["rank"] == 16
    assert re.search(r"python 3\.\d+.*torch \d.*transformers \d.*peft \d", table["libraries"])
    assert front_of(card)["library_name"] == "peft"


def test_a_card_names_no_path_of_this_machine(config, tmp_path):
    for adapter in (True, False):
        assert str(tmp_path) not in model_card(make_state(), config, tmp_path, adapter=adapter)


def test_a_card_of_the_start_has_no_figures(config, tmp_path):
    state = make_state(step=0, policy_version=0, figures={}, evaluations=())
    card = model_card(state, config, tmp_path, adapter=False)
    assert "No step was made yet." in card
    assert "nothing trained yet" in card
    assert "Evaluations" not in card
    assert front_of(card)["library_name"] == "transformers"


def test_the_same_state_gives_the_same_card(config, tmp_path, monkeypatch):
    first = model_card(make_state(), config, tmp_path, adapter=False)
    monkeypatch.setattr("time.time", lambda: 2e9)
    again = TrainerState.model_validate_json(make_state().model_dump_json())
    assert model_card(again, config, tmp_path, adapter=False) == first


@pytest.mark.parametrize(
    ("base", "licence"),
    [
        ("---\nlicense: apache-2.0\nlanguage: en\n---\n# Base\n", "apache-2.0"),
        ("# Base\n---\nlicense: mit\n---\n", None),
        ("---\n: [\n---\n", None),
        (None, None),
    ],
)
def test_the_license_is_the_one_that_the_bases_card_names(config, tmp_path, base, licence):
    if base is not None:
        (tmp_path / "README.md").write_text(base)
    card = model_card(make_state(), config, tmp_path, adapter=False)
    assert front_of(card).get("license") == licence
    assert table_of(card)["license of the base"] == (licence or "its card names none")
    # version 0, whose card is one of these, is the start of a resumed run with adapters
    (tmp_path / "README.md").write_text(card)
    assert licence_of(tmp_path) == licence


def test_a_card_without_the_list_of_tasks_names_the_list_alone(config, tmp_path):
    (tmp_path / "train.txt").unlink()
    assert table_of(model_card(make_state(), config, tmp_path, adapter=False))["trained on"] == "the tasks of train.txt"


def test_an_exported_models_card_is_the_versions_and_says_how_it_was_made(config, tmp_path):
    (tmp_path / "README.md").write_text(model_card(make_state(), config, tmp_path, adapter=True))
    card = card_of_export(tmp_path, "Merged.")
    assert front_of(card)["library_name"] == "transformers"
    assert table_of(card)["run"] == "tiny-1"
    assert card.endswith("\n## Export\n\nMerged.\n")
