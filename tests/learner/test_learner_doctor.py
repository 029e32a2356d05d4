"""What the doctor says of torch, of the model, of an update's memory and of task lists: as they are, and broken."""

from __future__ import annotations

import json

import pytest

from common import doctor_gpu, doctor_machine
from common.config import RunConfig, all_sections, load
from common.doctor_gpu import Gpu, Gpus
from common.doctor_python import Answer
from learner import doctor

GIB = 1 << 30
FOR_CPU = Answer({"torch": "2.13.0+cpu", "cuda": None, "gpus": 0})
FOR_CUDA = Answer({"torch": "2.13.0+cu130", "cuda": "13.0", "gpus": 1})
BROKEN = Answer(None, "ImportError: libcudart.so (exit code 1)")
CARD = Gpus([Gpu(0, "NVIDIA H100", 80 * GIB, 79 * GIB)], "570.86")
SHAPE = {
    "model_type": "qwen2",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "vocab_size": 1000,
}


@pytest.fixture
def base(tmp_path):
    """A model folder, whole as far as files are."""
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(SHAPE))
    for name in ("tokenizer.json", "model.safetensors"):
        (folder / name).write_text("{}")
    return folder


@pytest.fixture
def lists(tmp_path):
    for name, ids in (("train", "a_1\na_2\n"), ("dev", "b_1\n")):
        (tmp_path / f"{name}.txt").write_text(ids)
    return tmp_path


def learner(*words):
    return load(all_sections(), None, words)["learner"]


def test_a_torch_that_does_not_import_is_an_error():
    assert doctor.torch(lambda: FOR_CPU).state == "ok"
    found = doctor.torch(lambda: BROKEN)
    assert (found.state, "libcudart" in found.text) == ("error", True)


@pytest.mark.parametrize(
    ("device", "answer", "gpus", "state"),
    [
        ("auto", FOR_CPU, Gpus(), "ok"),
        ("auto", FOR_CUDA, Gpus(), "ok"),
        ("auto", FOR_CUDA, CARD, "ok"),
        ("cpu", FOR_CUDA, CARD, "ok"),
        ("cuda", FOR_CUDA, CARD, "ok"),
        ("auto", FOR_CPU, CARD, "warning"),
        ("cuda", FOR_CPU, CARD, "error"),
        ("cuda", FOR_CUDA, Gpus(), "error"),
        ("cuda", Answer({**FOR_CUDA.said, "gpus": 0}), CARD, "error"),
        ("cuda", BROKEN, CARD, "warning"),
    ],
)
def test_the_device_of_the_model_must_be_there(monkeypatch, device, answer, gpus, state):
    monkeypatch.setattr(doctor_gpu, "look", lambda: gpus)
    assert doctor.gpus(learner("--learner.model.device", device), lambda: answer).state == state


@pytest.mark.parametrize(("lacking", "wanted", "state"), [("", True, "ok"), ("tokenizer.json", False, "error")])
def test_a_model_folder_must_be_whole(base, lacking, wanted, state):
    if lacking:
        (base / lacking).unlink()
    found = doctor.model(learner("--learner.model.path", str(base)), wanted=wanted)
    assert found.state == state
    assert lacking in found.text


@pytest.mark.parametrize(("wanted", "state"), [(True, "error"), (False, "warning")])
def test_a_model_that_is_not_there_is_an_error_once_there_is_a_run(tmp_path, wanted, state):
    found = doctor.model(learner("--learner.model.path", str(tmp_path / "none")), wanted=wanted)
    assert (found.state, "warm-start" in found.remedy) == (state, True)


@pytest.mark.parametrize(("free", "state"), [(8 * GIB, "ok"), (1 << 20, "warning")])
def test_an_update_must_fit_into_the_memory(monkeypatch, base, free, state):
    monkeypatch.setattr(doctor_gpu, "look", Gpus)
    monkeypatch.setattr(doctor_machine, "available_memory", lambda: (free, 64 * GIB))
    assert doctor.memory(learner("--learner.model.path", str(base)), lambda: FOR_CPU).state == state


def test_on_a_gpu_its_own_memory_counts(monkeypatch, base):
    monkeypatch.setattr(doctor_machine, "available_memory", lambda: (0, 64 * GIB))
    given = learner("--learner.model.path", str(base))
    for free, state in ((79 * GIB, "ok"), (1 << 20, "warning")):
        monkeypatch.setattr(doctor_gpu, "look", lambda free=free: Gpus([Gpu(0, "H100", 80 * GIB, free)], "570"))
        assert doctor.memory(given, lambda: FOR_CUDA).state == state


def test_versions_and_states_must_fit_on_the_disk(monkeypatch, base, tmp_path):
    (base / "config.json").write_text(json.dumps({**SHAPE, "hidden_size": 4096, "intermediate_size": 16384}))
    given, run = learner("--learner.model.path", str(base)), RunConfig(folder=tmp_path)
    real = doctor_machine.os.statvfs(tmp_path)
    for gib, state in ((500, "ok"), (5, "warning")):
        blocks = gib * GIB // real.f_frsize

        class Found:
            f_frsize, f_files, f_favail, f_bavail = real.f_frsize, 0, 0, blocks

        monkeypatch.setattr(doctor_machine.os, "statvfs", lambda _, found=Found: found)
        assert doctor.room(given, run).state == state


def test_figures_of_a_model_that_is_not_there_are_not_made_up(tmp_path):
    given = learner("--learner.model.path", str(tmp_path / "none"))
    assert doctor.memory(given, lambda: FOR_CPU).text.startswith("not known")
    assert doctor.room(given, RunConfig(folder=tmp_path)).text.startswith("not known")


def test_lists_are_counted(lists):
    words = ["--learner.rollout.train_tasks", str(lists / "train.txt"), "--learner.evaluation.tasks"]
    found = doctor.lists(learner(*words, str(lists / "dev.txt")), wanted=True)
    assert (found.state, found.text) == ("ok", "2 tasks to train on, 1 to evaluate")


@pytest.mark.parametrize(
    ("train", "dev", "state"),
    [
        ("a_1\na_1\n", "b_1\n", "error"),
        ("", "b_1\n", "error"),
        ("a_1\n", "no id!\n", "error"),
        ("a_1\n", "a_1\n", "warning"),
    ],
)
def test_a_broken_list_is_an_error_and_one_that_is_trained_on_a_warning(lists, train, dev, state):
    (lists / "train.txt").write_text(train)
    (lists / "dev.txt").write_text(dev)
    words = ["--learner.rollout.train_tasks", str(lists / "train.txt"), "--learner.evaluation.tasks"]
    assert doctor.lists(learner(*words, str(lists / "dev.txt")), wanted=False).state == state


@pytest.mark.parametrize(("wanted", "state"), [(True, "error"), (False, "warning")])
def test_a_list_that_lacks_is_told_with_what_writes_it(tmp_path, wanted, state):
    file = tmp_path / "none.txt"
    found = doctor.lists(learner("--learner.rollout.train_tasks", str(file)), wanted=wanted)
    assert (found.state, found.remedy) == (state, f"`loop world tasks --dataset train --out {file}`")


def test_all_lines_of_a_learner_have_names_of_their_own():
    found = doctor.checks(load(all_sections(), None, []), wanted=True, alone=True)
    names = [check.name for check in found]
    assert len(set(names)) == len(names)
    assert {"torch", "model", "task lists", "learner's key", "port for actors", "port for files"} <= set(names)
