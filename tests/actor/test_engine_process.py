import asyncio
import contextvars
import os
import select
import signal
import subprocess
import sys
import threading

import pytest

from actor import engine_process
from actor.config import EngineConfig
from actor.engine_process import check_names, check_place, cores, engine_arguments, in_thread, prepare_environment
from common.errors import UsageError

PARENT = """
import os, time
from actor.engine_process import forked_engine
with forked_engine():
    child = os.fork()
if child == 0:
    print(os.getpid(), flush=True)
time.sleep(600)
"""


def start_parent():
    """A process that forked an engine's stand-in; gives it and a descriptor of the child."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    return parent, child, os.pidfd_open(child)


def has_ended(pidfd, seconds):
    return bool(select.select([pidfd], [], [], seconds)[0])


def test_the_engine_process_ends_with_the_actor_even_when_that_is_killed():
    parent, _, pidfd = start_parent()
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert has_ended(pidfd, 20)
    os.close(pidfd)


def test_a_terminals_interrupt_does_not_reach_the_engine_process():
    parent, child, pidfd = start_parent()
    assert os.getpgid(child) != os.getpgid(parent.pid)
    os.kill(child, signal.SIGINT)
    assert not has_ended(pidfd, 0.2)
    os.kill(child, signal.SIGTERM)
    assert has_ended(pidfd, 20)
    os.close(pidfd)
    parent.kill()
    parent.wait()
    parent.stdout.close()


@pytest.fixture
def environment(monkeypatch):
    """The environment as it is, put back afterwards."""
    monkeypatch.setattr(os, "environ", dict(os.environ))
    return os.environ


def test_switches_that_would_open_the_engine_are_taken_out_of_the_environment(environment):
    environment |= {"VLLM_SERVER_DEV_MODE": "1", "VLLM_ALLOW_INSECURE_SERIALIZATION": "1"}
    prepare_environment(EngineConfig(cpu_threads=1))
    assert not {"VLLM_SERVER_DEV_MODE", "VLLM_ALLOW_INSECURE_SERIALIZATION"} & set(environment)


def test_on_cpus_the_engine_has_the_threads_of_the_configuration_and_they_do_not_spin(environment, monkeypatch):
    monkeypatch.setattr(engine_process, "built_for_cpu", lambda: True)
    prepare_environment(EngineConfig(cpu_threads=3))
    assert (environment["OMP_NUM_THREADS"], environment["OMP_WAIT_POLICY"]) == ("3", "PASSIVE")


def test_on_cpus_the_kernels_that_are_kept_for_lengths_of_batches_are_few(environment, monkeypatch):
    monkeypatch.setattr(engine_process, "built_for_cpu", lambda: True)
    prepare_environment(EngineConfig(cpu_threads=1))
    assert int(environment["ONEDNN_PRIMITIVE_CACHE_CAPACITY"]) < 1024


def test_on_gpus_the_environment_of_cpus_is_left_alone(environment, monkeypatch):
    for name in ("OMP_NUM_THREADS", "TORCHDYNAMO_DISABLE"):
        environment.pop(name, None)
    monkeypatch.setattr(engine_process, "built_for_cpu", lambda: False)
    prepare_environment(EngineConfig(cpu_threads=3))
    assert not {"OMP_NUM_THREADS", "TORCHDYNAMO_DISABLE"} & set(environment)


def test_engine_arguments_follow_the_configuration(tmp_path, monkeypatch):
    monkeypatch.setattr(engine_process, "built_for_cpu", lambda: False)
    config = EngineConfig(
        dtype="bfloat16",
        context_tokens=32768,
        memory_fraction=0.8,
        tensor_parallel=4,
        data_parallel=2,
        adapter_rank=12,
        adapter_slots=3,
        arguments={"enable_expert_parallel": True},
    )
    arguments = engine_arguments(tmp_path, config, slots=64, seed=7)
    expected = {
        "model": str(tmp_path),
        "dtype": "bfloat16",
        "max_model_len": 32768,
        "gpu_memory_utilization": 0.8,
        "tensor_parallel_size": 4,
        "data_parallel_size": 2,
        "enable_lora": True,
        "max_lora_rank": 16,  # the next that vLLM knows
        "max_loras": 3,
        "max_num_seqs": 64,
        "seed": 7,
        "kv_cache_memory_bytes": None,
        "enable_expert_parallel": True,
    }
    assert {name: arguments[name] for name in expected} == expected
    assert "enforce_eager" not in arguments


def test_on_cpus_keys_and_values_get_a_stated_amount_of_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(engine_process, "built_for_cpu", lambda: True)
    assert engine_arguments(tmp_path, EngineConfig(), slots=4, seed=1)["kv_cache_memory_bytes"] == 256 << 20


def test_work_in_a_thread_gives_its_result_its_error_and_sees_the_callers_context():
    word = contextvars.ContextVar("word")

    async def main():
        word.set("said")
        where, said = await in_thread(lambda: (threading.current_thread().name, word.get()))
        with pytest.raises(KeyError, match="gone"):
            await in_thread(lambda: {}["gone"])
        return where, said

    assert asyncio.run(main()) == ("engine-start", "said")


def test_work_that_nobody_waits_for_any_more_holds_up_no_end():
    release = threading.Event()

    async def main():
        waiting = asyncio.create_task(in_thread(release.wait))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        return waiting.cancelled()

    assert asyncio.run(main())
    release.set()


def test_gpus_are_the_engines_alone_and_numbered_as_nvidia_smi_does(environment, monkeypatch):
    monkeypatch.setattr(engine_process, "built_for_cpu", lambda: False)
    prepare_environment(EngineConfig(gpus="2,3"))
    assert (environment["CUDA_VISIBLE_DEVICES"], environment["CUDA_DEVICE_ORDER"]) == ("2,3", "PCI_BUS_ID")


def test_gpus_for_a_vllm_without_them_are_refused(monkeypatch):
    monkeypatch.setattr(engine_process, "built_for_cpu", lambda: True)
    with pytest.raises(UsageError, match=r"actor\.engine\.gpus: 0: the installed vLLM is the build for CPUs"):
        check_place(EngineConfig(gpus="0"))


def test_a_gpu_that_is_named_twice_is_refused(monkeypatch):
    monkeypatch.setattr(engine_process, "built_for_cpu", lambda: False)
    with pytest.raises(UsageError, match="names a GPU twice"):
        check_place(EngineConfig(gpus="1,1"))


@pytest.mark.parametrize("text", ["0,", "a", "0-1", " 0"])
def test_gpus_that_are_no_numbers_are_refused(text):
    with pytest.raises(ValueError, match="gpus"):
        EngineConfig(gpus=text)


def test_cores_are_numbers_and_ranges():
    assert [cores(text) for text in ("", "3", "0-2,5")] == [set(), {3}, {0, 1, 2, 5}]


def test_cores_that_are_not_there_are_refused_with_those_that_are():
    there = sorted(os.sched_getaffinity(0))
    with pytest.raises(UsageError, match=f"no core 9999 for this process; it may use {', '.join(map(str, there))}"):
        check_place(EngineConfig(cpus=f"{there[0]},9999"))


def test_a_range_of_cores_that_goes_backwards_is_refused():
    with pytest.raises(UsageError, match="the range 3-1 goes backwards"):
        check_place(EngineConfig(cpus="3-1"))


def test_an_engine_argument_may_have_dashes_and_an_unknown_one_is_named_with_the_nearest(tmp_path):
    arguments = engine_arguments(tmp_path, EngineConfig(arguments={"block-size": 32}), slots=4, seed=1)
    assert arguments["block_size"] == 32
    with pytest.raises(UsageError, match=r"arguments\.blok_size: .*no such engine argument; did you mean 'block_size'"):
        check_names(["blok_size"], ["block_size", "seed"])


def test_what_the_actor_sets_itself_is_refused_with_dashes_too(tmp_path):
    with pytest.raises(UsageError, match=r"max_num_seqs: the actor sets this one itself"):
        engine_arguments(tmp_path, EngineConfig(arguments={"max-num-seqs": 3}), slots=4, seed=1)
