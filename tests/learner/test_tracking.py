"""TensorBoard and W&B get what metrics.jsonl has, each line once, and what goes wrong with them costs them alone."""

import json
import struct
import sys
from types import ModuleType, SimpleNamespace

import pytest
from structlog.testing import capture_logs

import learner.tracking
from common.metrics import MetricsFile
from common.metrics_config import MetricsConfig
from learner.tracking import Figures, Follower, TensorBoard, WeightsAndBiases, opened, to_be_had

STEP = {
    "mean_reward": 0.5,
    "refused": False,
    "loss": None,
    "lags": {"1": 5},
    "ratios": {"ess": 0.75, "by_lag": {"1": {"ess": 0.5}}},
    "seconds": {"wait": 1.5},
}


class Kept:
    """A board that keeps what it gets; raises `error` when it is told to."""

    name = "kept"

    def __init__(self, error=None):
        self.got, self.closed, self.error = [], False, error

    def write(self, figures, step):
        if self.error is not None:
            raise self.error
        self.got.append((figures, step))

    def close(self):
        self.closed = True


def warnings_of(logs):
    return [entry for entry in logs if entry["log_level"] == "warning"]


def test_a_steps_figures_are_named_by_where_they_stand():
    figures, step = Figures().of({"event": "step", "time": 1.7e9, "step": 3, **STEP})
    assert step == 3
    assert figures == {
        "train/mean_reward": 0.5,
        "train/refused": 0.0,
        "train/lags/1": 5.0,
        "train/ratios/ess": 0.75,
        "train/ratios/by_lag/1/ess": 0.5,
        "train/seconds/wait": 1.5,
    }


def test_an_evaluation_is_drawn_over_its_version_and_its_intervals_are_two_figures():
    event = {"event": "evaluation", "label": "dev.v5", "policy_version": 5, "tgc": 0.25, "tgc_interval": [0.125, 0.5]}
    figures, step = Figures().of({**event, "by_scenario": {"pay": {"tgc": 1.0}}})
    assert step == 5
    assert figures == {
        "evaluation/dev.v5/policy_version": 5.0,
        "evaluation/dev.v5/tgc": 0.25,
        "evaluation/dev.v5/tgc_interval/low": 0.125,
        "evaluation/dev.v5/tgc_interval/high": 0.5,
    }


def test_what_is_of_no_step_is_drawn_over_the_newest():
    figures = Figures()
    figures.of({"event": "step", "step": 7})
    told = figures.of({"event": "rollouts", "time": 1.0, "leased": 4, "waiting_for": "the trainer"})
    assert told == ({"rollouts/leased": 4.0}, 7)
    assert figures.of({"event": "phase", "name": "train"}) is None


def test_each_line_is_passed_on_once_also_over_restarts(tmp_path):
    metrics, boards = MetricsFile(tmp_path / "metrics.jsonl"), [Kept(), Kept()]
    for step, board in enumerate(boards, 1):
        metrics.write("step", step=step, loss=0.5)
        follower = Follower(tmp_path, board)
        follower.look()
        metrics.write("rollouts", leased=step)
        follower.close()
    assert [got for board in boards for got in board.got] == [
        ({"train/loss": 0.5}, 1),
        ({"rollouts/leased": 1.0}, 1),
        ({"train/loss": 0.5}, 2),
        ({"rollouts/leased": 2.0}, 2),
    ]
    assert all(board.closed for board in boards)


def test_a_new_run_in_the_same_folder_is_passed_on_from_its_beginning(tmp_path):
    file = tmp_path / "metrics.jsonl"
    MetricsFile(file).write("step", step=1, loss=0.5, more="x" * 500)
    Follower(tmp_path, Kept()).close()
    file.unlink()
    MetricsFile(file).write("step", step=1, loss=0.25)
    board = Kept()
    Follower(tmp_path, board).look()
    assert board.got == [({"train/loss": 0.25}, 1)]


def test_an_error_of_one_is_logged_once_and_switches_off_that_one_alone(tmp_path):
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    good, bad = Kept(), Kept(ConnectionError("no route to host"))
    bad.name = "bad"
    followers = [Follower(tmp_path, good), Follower(tmp_path, bad)]
    with capture_logs() as logs:
        metrics.write("step", step=1, loss=0.5)
        for follower in followers:
            follower.look()
    assert [follower.works for follower in followers] == [True, False]
    assert good.got == [({"train/loss": 0.5}, 1)]
    (warning,) = warnings_of(logs)
    assert (warning["event"], warning["name"]) == ("tracking_is_off", "bad")
    assert warning["reason"] == "ConnectionError: no route to host"


def test_what_is_not_installed_is_one_warning_with_the_remedy(monkeypatch):
    monkeypatch.setattr(learner.tracking.importlib.util, "find_spec", lambda name: None if name == "wandb" else name)
    with capture_logs() as logs:
        assert to_be_had(MetricsConfig(tensorboard=True, wandb="loop")) == ["tensorboard"]
    (warning,) = warnings_of(logs)
    assert (warning["name"], warning["remedy"]) == ("wandb", "pip install 'loop-rl[tracking]'")
    assert to_be_had(MetricsConfig()) == []


def test_a_package_that_breaks_when_it_is_imported_is_one_warning_and_the_other_goes_on(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setitem(sys.modules, "tensorboardX", stand_in("tensorboardX", SummaryWriter=lambda folder: folder))
    with capture_logs() as logs:
        boards = opened(tmp_path, MetricsConfig(tensorboard=True, wandb="loop"), {})
    assert [board.name for board in boards] == ["tensorboard"]
    (warning,) = warnings_of(logs)
    assert (warning["name"], warning["remedy"]) == ("wandb", "pip install 'loop-rl[tracking]'")


def stand_in(name, **has):
    module = ModuleType(name)
    for attribute, value in has.items():
        setattr(module, attribute, value)
    return module


class Wandb:
    """As much of W&B as is used; `unreachable` raises where the mode is online."""

    def __init__(self, *, unreachable=False, key=None):
        self.begun, self.logged, self.defined, self.finished = [], [], [], 0
        self.api = SimpleNamespace(api_key=key)
        self._unreachable = unreachable

    def init(self, **how):
        self.begun.append(how)
        if self._unreachable and how["mode"] == "online":
            raise OSError("api.wandb.ai: no address")
        return SimpleNamespace(log=self.logged.append, define_metric=self.define, finish=self.finish)

    def define(self, *names, step_metric):
        self.defined.append((*names, step_metric))

    def finish(self):
        self.finished += 1


@pytest.fixture
def wandb(monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)

    def use(**how):
        made = Wandb(**how)
        monkeypatch.setitem(sys.modules, "wandb", made)
        return made

    return use


def test_wandb_without_a_key_keeps_its_figures_here(tmp_path, wandb):
    made = wandb()
    board = WeightsAndBiases(tmp_path, "loop", {"learner": 1})
    board.write({"train/loss": 0.5}, 3)
    board.close()
    (begun,) = made.begun
    assert (begun["mode"], begun["project"], begun["config"]) == ("offline", "loop", {"learner": 1})
    assert made.logged == [{"train/loss": 0.5, "step": 3}]
    assert made.defined == [("*", "step")]
    assert made.finished == 1


def test_wandb_that_is_not_reached_goes_on_offline(tmp_path, wandb):
    made = wandb(unreachable=True, key="k" * 40)
    with capture_logs() as logs:
        WeightsAndBiases(tmp_path, "loop", {}).write({"train/loss": 0.5}, 1)
    assert [begun["mode"] for begun in made.begun] == ["online", "offline"]
    assert [entry["event"] for entry in warnings_of(logs)] == ["wandb_goes_on_offline"]
    assert len(made.logged) == 1
    assert "k" * 40 not in json.dumps(logs)


def test_a_learner_that_is_started_again_goes_on_in_the_same_run_of_wandb(tmp_path, wandb):
    made = wandb()
    for _ in range(2):
        WeightsAndBiases(tmp_path, "loop", {}).close()
    first, second = made.begun
    assert first["id"] == second["id"]
    assert {begun["resume"] for begun in made.begun} == {"allow"}


def records(file):
    """Of an event file: a length, its checksum, that many bytes, their checksum; again and again."""
    data, at = file.read_bytes(), 0
    while at < len(data):
        (length,) = struct.unpack("<Q", data[at : at + 8])
        yield data[at + 12 : at + 12 + length]
        at += 12 + length + 4


def test_tensorboards_own_files_have_the_figures(tmp_path):
    from tensorboardX.proto.event_pb2 import Event

    board = TensorBoard(tmp_path)
    MetricsFile(tmp_path / "metrics.jsonl").write("step", step=3, loss=0.5, seconds={"wait": 1.5})
    Follower(tmp_path, board).close()
    (file,) = (tmp_path / "tensorboard").glob("events.out.tfevents.*")
    found = {
        value.tag: (event.step, value.simple_value)
        for event in map(Event.FromString, records(file))
        for value in event.summary.value
    }
    assert found == {"train/loss": (3, 0.5), "train/seconds/wait": (3, 1.5)}
