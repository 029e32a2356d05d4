"""`python -m learner.trainer.loop` without torch, as the same command: the real port, real checkpoints, its own state.

Order of a step, as the real one's: the state with the consumed ids is durable, then the version, then the word to the
gateway. Every state is kept: together they are the record of what was ever trained on. The run ends when a file named
`enough` lies in the run folder, or after `learner.rollout.steps`.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import threading
import time
from pathlib import Path

from light_policy import PROBE, WEIGHTS, digest_after, log_probs, settings, weights_of

from common.checkpoint import (
    MANIFEST,
    Manifest,
    Probe,
    folder_of,
    publish,
    published_versions,
    read_manifest,
    sync,
    verify,
)
from common.config import LinkConfig, RunConfig, parse_command_line
from common.errors import RunError, UsageError
from common.log import configure, get_logger
from common.notify import Notifier
from common.processes import parent_of_this
from common.run_lock import only_one
from learner.config import LearnerConfig
from learner.gateway import trainer_port
from learner.gateway.trainer_beats import TrainerBeats
from learner.gateway.trainer_port import Resume, TrainerPort, Waiting

log = get_logger("light_trainer")
KEPT = 4  # newest versions


def states(folder: Path) -> list[dict]:
    """All states of a run, by step."""
    return [json.loads(file.read_text()) for file in sorted((folder / "state").glob("step*.json"))]


class LightTrainer:
    def __init__(self, folder: Path, steps: int, beat_seconds: float) -> None:
        self._folder, self._steps, self._port = folder, steps, TrainerPort(folder)
        self._beats = TrainerBeats(folder, beat_seconds, "load_model")
        self._chance = random.Random(f"{settings()['seed']} {os.getpid()}")
        self._notifier = Notifier()

    def run(self) -> None:
        (self._folder / "state").mkdir(parents=True, exist_ok=True)
        (self._folder / "checkpoints").mkdir(exist_ok=True)
        for draft in (self._folder / "checkpoints").glob(".draft-*"):
            shutil.rmtree(draft)
        saved = states(self._folder)
        if saved:
            self._state = saved[-1]
            words = {name: self._state[name] for name in ("policy_version", "step")}
            consumed = tuple(self._state["consumed"])
            self._port.hello(Resume(**words, consumed=consumed) if self._state["step"] else None)
        else:
            run_id = self._port.hello(None).run_id
            self._save({"run_id": run_id, "step": 0, "policy_version": 0, "weights": "0" * 64, "consumed": []})
        self._tell_version()
        self._notifier.ready()
        while self._state["step"] < self._steps and not (self._folder / "enough").exists():
            self._step()
        self._port.finished()
        log.info("training_finished", step=self._state["step"])
        self._beats.close()
        self._port.close()

    def _step(self) -> None:
        step = self._state["step"] + 1
        self._beats.at("wait", step)
        groups = self._port.next_groups(step)
        self._notifier.alive()
        if isinstance(groups, Waiting):
            self._notifier.status(f"step {step} waits for {groups.reason}")
            log.info("step_waits", step=step, waiting_for=groups.reason)
            return
        self._beats.at("forward_backward", step)
        consumed = [member.trajectory_id for group in groups for member in group.members]
        weights = digest_after(self._state["weights"], consumed)
        time.sleep(self._chance.uniform(0.0, settings()["step_seconds"]))
        self._save(
            {**self._state, "step": step, "policy_version": step, "weights": weights, "consumed": consumed},
        )
        self._beats.at("publish", step)
        self._tell_version()
        log.info("step_made", step=step, trajectories=len(consumed))

    def _save(self, state: dict) -> None:
        file = self._folder / "state" / f"step{state['step']:06d}.json"
        draft = file.with_suffix(".draft")
        try:
            draft.write_text(json.dumps(state))
            sync(draft)
            draft.rename(file)
            sync(file.parent)
        except OSError as error:
            raise RunError(f"{file}: cannot be written: {error.strerror}; make room, then --resume") from error
        self._state = state

    def _tell_version(self) -> None:
        """Published from the state when it is not there; told in any case."""
        state, checkpoints = self._state, self._folder / "checkpoints"
        version = state["policy_version"]
        digest = self._digest_if_whole(folder_of(checkpoints, version))
        if not digest:
            weights = weights_of(state["weights"], settings()["weight_bytes"])
            probe = Probe(tokens=PROBE, log_probs=tuple(log_probs(weights, PROBE)))
            named = {"run_id": state["run_id"], "policy_version": version, "step": state["step"]}
            manifest = Manifest(**named, kind="full", files={}, probe=probe)
            if version >= settings().get("altered_from", version + 1):
                # the digests will be of these, the probe is of the true ones
                weights = bytes([weights[0] ^ 1]) + weights[1:]
            digest = publish(checkpoints, manifest, lambda folder: (folder / WEIGHTS).write_bytes(weights))
        in_use = self._port.published(version, digest, state["step"], state["consumed"], {})
        for old in published_versions(checkpoints)[:-KEPT]:
            if old not in in_use:
                (folder_of(checkpoints, old) / MANIFEST).unlink()
                shutil.rmtree(folder_of(checkpoints, old))

    def _digest_if_whole(self, folder: Path) -> str:
        """As the real trainer: a version that is torn is published again."""
        if not folder.exists():
            return ""
        try:
            verify(folder)
        except RunError as error:
            log.warning("version_published_again", reason=str(error))
            return ""
        return read_manifest(folder)[1]


def main() -> int:
    flags = {"resume": "go on", "stop-with-parent": "stop when the process that started this one is gone"}
    sections = {"run": RunConfig, "link": LinkConfig, "learner": LearnerConfig}
    resolved, given = parse_command_line(sections, sys.argv[1:], usage="light_trainer.py", flags=flags)
    folder = resolved["run"].folder
    configure("trainer", file=folder / "logs" / "trainer.jsonl", to="file")
    if given["stop-with-parent"]:
        threading.Thread(target=end_with_parent, args=(parent_of_this(),), daemon=True).start()
    trainer_port.ANSWER_WITHIN = 1.5  # a gateway that was killed lost the question; it is asked again sooner
    try:
        with only_one(folder / "trainer.lock"):
            LightTrainer(folder, resolved["learner"].rollout.steps, resolved["link"].heartbeat_seconds).run()
    except (UsageError, RunError) as error:
        log.error("trainer_failed", reason=str(error))
        sys.stderr.write(f"trainer: {error}\n")
        return 2 if isinstance(error, UsageError) else 1
    return 0


def end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.1)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
