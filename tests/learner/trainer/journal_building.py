"""A run folder whose ledger holds the trajectories of all its steps, made by the gateway's own parts; lives on it."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import yaml
from safetensors.torch import load_file
from trainer_building import make_model_folder, random_trajectory

from common.keys import new_keys
from common.wire import encode
from learner.config import LearnerConfig
from learner.gateway.evaluation import EvaluationLists
from learner.gateway.run_state import RunState
from learner.gateway.trainer_desk import TrainerDesk
from learner.gateway.trainer_port import Published, TrainerHello
from learner.trainer.resume import MOMENTS, WEIGHTS, folder_of_step, read_state

ROOT = Path(__file__).resolve().parents[3]
TASKS = ("a_1", "a_2", "b_1", "b_2")
WITHOUT_SIGNAL = {3, 8, 9}  # draws whose rewards are all equal; with two a step, all of step 5
PATIENCE = 300.0  # seconds that a whole run may take on a busy machine


def make_journalled_run(folder: Path, *, steps: int, training: str = "full", dropout: float = 0.0) -> Path:
    """A folder with `base`, `config.yaml` and `journalled`, a run folder that lacks nothing but a trainer."""
    model = make_model_folder(folder / "base")
    new_keys(folder / "keys", "learner")
    (folder / "train.txt").write_text("\n".join(TASKS))
    tree = {
        "link": {"port": 0, "files_port": 0, "keys": str(folder / "keys")},
        "learner": {
            "model": {
                "path": str(model),
                "training": training,
                "lora": {"rank": 4, "dropout": dropout},
                "device": "cpu",
            },
            "rollout": {
                "train_tasks": str(folder / "train.txt"),
                "steps": steps,
                "groups_per_step": 2,
                "group_size": 3,
                "staleness_bound": steps,
            },
            "batch": {"micro_batch_tokens": 100, "epochs": 2, "minibatch": 4},
            "optimizer": {"schedule": "cosine", "warm_up": 3},
            "checkpoints": {"keep_states": steps + 1},
            "evaluation": {"before": False, "after": False},
        },
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(tree))
    learner = LearnerConfig.model_validate(tree["learner"])
    run = RunState(
        folder / "journalled",
        learner.rollout,
        learner.evaluation,
        seed=1,
        train_tasks=TASKS,
        lists=EvaluationLists(),
        now=0.0,
    )
    desk = TrainerDesk(run)
    desk.answer(TrainerHello(resume=None))
    desk.answer(Published(policy_version=0, manifest_digest="00" * 32, step=0, consumed=(), dropped={}))
    leases, _ = run.book.grant("actor-0", 6 * steps, now=0.0)
    assert len(leases) == 6 * steps
    rng = np.random.default_rng(0)
    for lease in leases:
        number = int(lease.group_id.removeprefix("g"))
        reward = 0.5 if number in WITHOUT_SIGNAL else float((lease.member + number) % 3) / 2
        made = random_trajectory(rng, lease.lease_id, length=int(rng.integers(8, 60)), reward=reward)
        trajectory = made.model_copy(update={"lease": lease})
        assert run.inbox.receive("actor-0", trajectory, encode(trajectory)).outcome == "ok"
    run.commit()
    run.close()
    return folder


def events(folder: Path, name: str, event: str) -> list[dict]:
    """What a process of a run logged under this name."""
    file = folder / "logs" / f"{name}.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    found = [json.loads(line) for line in lines if line.endswith("\n")]
    return [entry for entry in found if entry["event"] == event]


class Life:
    """A real gateway process and a real trainer process on a run folder, each started and killed as one likes.

    The trainer is forked from a process that has imported torch: a start costs a second less than thirty times ten.
    """

    def __init__(self, parent: Path, folder: Path) -> None:
        self.words = ["--config", str(parent / "config.yaml"), "--run.folder", str(folder)]
        self.folder = folder
        self.gateway: subprocess.Popen | None = None
        self.trainer: multiprocessing.Process | None = None
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["learner.trainer.loop", "peft"])

    def start_gateway(self) -> None:
        arguments = [sys.executable, "-m", "learner.gateway.service", *self.words]
        (self.folder / "logs").mkdir(exist_ok=True)
        with (self.folder / "logs" / "gateway.out").open("ab") as output:
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            self.gateway = subprocess.Popen(arguments, stdout=output, stderr=output, env=environment)

    def start_trainer(self) -> None:
        arguments = [*self.words, "--resume"]
        self.loaded_before = len(events(self.folder, "trainer", "model_loaded"))
        self.trainer = self._context.Process(target=be_trainer, args=(arguments, self.folder / "logs" / "trainer.out"))
        self.trainer.start()

    def kill(self, *names: str) -> None:
        """SIGKILL to all of them, then wait for their ends."""
        for name in names:
            os.kill(getattr(self, name).pid, signal.SIGKILL)
        if "trainer" in names:
            self.trainer.join()
            assert self.trainer.exitcode == -signal.SIGKILL, "it had ended by itself"
        if "gateway" in names:
            assert self.gateway.wait() == -signal.SIGKILL, "it had ended by itself"

    def end_well(self) -> None:
        """Let both come to the run's end by themselves."""
        self.until(lambda: self.trainer.exitcode == 0 and self.gateway.poll() == 0)

    def until(self, condition) -> None:
        """Wait for a condition, as long as neither of them fails."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            for name, code in (("trainer", self.trainer.exitcode), ("gateway", self.gateway.poll())):
                printed = (self.folder / "logs" / f"{name}.out").read_text()[-2000:] if code else ""
                assert code in (None, 0), f"the {name} ended with {code}: {printed}"
            assert time.monotonic() < deadline
            time.sleep(0.003)

    def clear(self) -> None:
        """End whatever a failed test left."""
        if self.trainer is not None and self.trainer.is_alive():
            self.trainer.kill()
            self.trainer.join()
        if self.gateway is not None and self.gateway.poll() is None:
            self.gateway.kill()
            self.gateway.wait()


def be_trainer(arguments: list[str], output: Path) -> None:
    """What a forked process does: it is `python -m learner.trainer.loop`."""
    from learner.gateway import trainer_port
    from learner.trainer import loop

    stream = os.open(output, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    trainer_port.ANSWER_WITHIN = 0.5  # a gateway that was killed lost the question; it is asked again sooner
    sys.exit(loop._exit_code(arguments))


def state_after(folder: Path, step: int) -> tuple[dict, dict, dict]:
    """Weights, moments and figures of a state; of the figures all but what a clock said."""
    where = folder_of_step(folder / "state", step)
    state = read_state(where).model_dump(exclude={"files", "made_at"})
    for figures in (state["figures"], state["figures"].get("recomputed", {})):
        figures.pop("seconds", None)
    return load_file(where / WEIGHTS), load_file(where / MOMENTS), state
