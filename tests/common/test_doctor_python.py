"""The interpreter, packages, GPUs, and programs that hang, die or say something else."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import pytest

from common import doctor_gpu, doctor_python
from common.doctor_gpu import Gpu, Gpus
from common.doctor_python import ask

CARD = Gpu(0, "NVIDIA H100", 80 << 30, 79 << 30)


def test_this_interpreter_and_its_packages_will_do():
    assert [check.run().state for check in doctor_python.checks()] == ["ok", "ok"]


def test_an_old_python_is_an_error(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 10, 4, "final", 0))
    found = doctor_python.python()
    assert (found.state, found.text.split()[0]) == ("error", "3.10.4")


@pytest.mark.parametrize(
    ("versions", "said"),
    [({"numpy": "1.26"}, "numpy is 1.26, wanted is >=2"), ({"numpy": None}, "numpy is not installed")],
)
def test_a_package_that_lacks_or_is_too_old_is_named(monkeypatch, versions, said):
    real = importlib.metadata.version

    def version(name):
        if name not in versions:
            return real(name)
        if versions[name] is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = doctor_python.packages()
    assert (found.state, found.text) == ("error", said)


def test_a_project_that_is_not_installed_is_an_error(monkeypatch):
    monkeypatch.setattr(doctor_python, "PACKAGE", "loop-rl-that-nobody-installed")
    assert doctor_python.packages().state == "error"


@pytest.mark.parametrize(
    ("program", "failure"),
    [
        ("import time; time.sleep(60)", "no answer in 0.5 s"),
        ("import os; os.kill(os.getpid(), 11)", "killed by signal 11"),
        ("import no_such_package", "ModuleNotFoundError: No module named 'no_such_package' (exit code 1)"),
        ("print('hello')", "it said something else than it was asked for: 'hello\\n'"),
    ],
)
def test_a_program_that_hangs_or_dies_costs_its_line_alone(program, failure):
    limit = 0.5 if "sleep" in program else 60.0
    assert ask(program, limit).failure == failure


def test_a_program_that_is_not_there_is_told():
    assert ask("", 1.0, Path("/no/such/python")).failure == "No such file or directory"


def smi(monkeypatch, tmp_path, script):
    """An nvidia-smi of this text."""
    file = tmp_path / "nvidia-smi"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")


def test_gpus_are_what_nvidia_smi_lists(monkeypatch, tmp_path):
    smi(monkeypatch, tmp_path, "echo '0, NVIDIA H100, 81920, 80896, 570.86'; echo '1, NVIDIA H100, 81920, 1, 570.86'")
    found = doctor_gpu.look()
    assert (found.found, found.driver) == ([CARD, Gpu(1, "NVIDIA H100", 80 << 30, 1 << 20)], "570.86")


def test_a_driver_that_was_upgraded_under_way_is_told(monkeypatch, tmp_path):
    smi(monkeypatch, tmp_path, "echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18")
    found = doctor_gpu.judge(doctor_gpu.look(), None, cuda=True, what="vLLM")
    assert found.state == "error"
    assert "version mismatch (exit code 18)" in found.text
    assert doctor_gpu.judge(doctor_gpu.look(), None, cuda=False, what="vLLM").state == "warning"


def test_an_nvidia_smi_that_says_something_else_is_a_failure(monkeypatch, tmp_path):
    smi(monkeypatch, tmp_path, "echo what")
    assert doctor_gpu.look().failure == "it said 'what\\n'"


def test_no_nvidia_smi_means_no_gpu(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor_gpu.look() == Gpus()


@pytest.mark.parametrize(
    ("gpus", "wanted", "cuda", "state"),
    [
        (Gpus(), None, True, "error"),  # built for CUDA, and there are none
        (Gpus([CARD]), None, False, "warning"),  # there are some, and they lie idle
        (Gpus([CARD]), [0, 3], True, "error"),  # one is named that is not there
        (Gpus([CARD]), [0], True, None),
        (Gpus(), None, False, None),
    ],
)
def test_gpus_and_the_build_must_fit(gpus, wanted, cuda, state):
    found = doctor_gpu.judge(gpus, wanted, cuda=cuda, what="vLLM")
    assert (found and found.state) == state


def test_gpus_that_torch_does_not_see_are_an_error():
    gpus = Gpus([CARD], "470.1")
    found = doctor_gpu.usable(gpus, {"torch": "2.13.0", "cuda": "13.0", "gpus": 0}, "vLLM")
    assert found.state == "error"
    assert "driver 470.1, built for CUDA 13.0" in found.text
    assert doctor_gpu.usable(gpus, {"torch": "2.13.0", "cuda": "13.0", "gpus": 1}, "vLLM").state == "ok"
    assert doctor_gpu.usable(Gpus(), {"torch": "2.13.0", "cuda": None, "gpus": 0}, "vLLM").state == "ok"
