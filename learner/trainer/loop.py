"""The trainer's wiring: the process that holds the model. Started by `loop learner`; talks to the gateway alone.

    gateway ── next_groups ──► groups.admit ─► advantage.score ─► update: batch ─► model ─► loss ─► optimizer
       ▲   (waits, in words, until a step's groups are complete)                                       │
       │                                                                                                ▼
       └── published(version, digest, consumed, dropped) ◄── publish.publish_version ◄── resume.save_state

Order of a step, and what a crash between its parts leaves behind:

1. `save_state`: weights, moments, step, version, what was trained on, as one unit. A crash before it is complete
   leaves a draft, which nobody reads: the older state holds, the gateway hands the same trajectories out again, and the
   weights that had seen them are gone. So nothing is trained on twice.
2. `publish_version`. A crash before it leaves a state whose version is missing: it is published on restart from the
   very weights that the state holds. The folder never existed before, so the number gets its one content.
3. `published`. A crash before it leaves a version that the gateway has not heard of: it is told on restart, the same
   words again, which change nothing if it had heard them.

In several processes every rank runs this file, takes the same turns, and holds its share of the weights (ranks.py).
Rank 0 alone asks the gateway, decides what the run folder says, and writes.

So a version's state always exists before the version does. A version newer than the newest state can only mean that
somebody took a state away; then that number is spent, perhaps sampled from, and the next version takes the number after
the highest that lies in the folder. Version 0 goes the same way: state of step 0, then the folder, then the word.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from common.checkpoint import folder_of, published_versions, read_manifest, verify
from common.config import LinkConfig, RunConfig, parse_command_line
from common.errors import RunError, UsageError
from common.log import Stopwatch, configure, get_logger, identify
from common.metrics import MetricsFile, MetricsReader
from common.notify import Notifier
from common.processes import parent_of_this
from common.run_lock import only_one
from learner.config import SECTIONS, LearnerConfig
from learner.gateway.trainer_beats import TrainerBeats
from learner.gateway.trainer_port import GroupRecord, Resume, TrainerPort, Waiting
from learner.rank_processes import LOST_EXIT, name_of, stem_of
from learner.trainer import resume
from learner.trainer.advantage import Scored, score
from learner.trainer.card import SHOWN_EVALUATION, model_card
from learner.trainer.groups import Limits, admit
from learner.trainer.model import load_policy
from learner.trainer.optimizer import Optimizer
from learner.trainer.port import Port, SharedPort
from learner.trainer.publish import Retention, manifest_of, probe_tokens, publish_version, retire
from learner.trainer.ranks import ALONE, Ranks, here, is_lost, joined, leave
from learner.trainer.resume import TrainerState, utc_now
from learner.trainer.retained import Kept, recompute
from learner.trainer.step_figures import step_figures
from learner.trainer.update import Update, update

log = get_logger("learner.trainer.loop")  # by name: the module runs as __main__

Doing = Callable[[str, int], None]  # told what the trainer is at, and of which step
USAGE = "usage: python -m learner.trainer.loop [--config FILE] [--resume] [--section.key value ...]"
WAIT_LOGGED_EVERY = 30  # answers of the gateway, a second each
PARENT_LOOKED_AT_EVERY = 0.3  # seconds
SLOWEST_DISK = 50e6  # bytes a second; slower, and a load or a save counts as stuck
LEAST_PATIENCE = 120.0  # seconds, for one
STATE_BYTES = 16  # of a trained parameter: weights and two moments in a state, weights in a version


def _tell_nobody(_doing: str, _step: int) -> None:
    """For a trainer that nobody watches, and for all ranks but the first."""


class Trainer:
    """One policy in one run folder; one of its ranks, where they are several."""

    def __init__(
        self,
        run: RunConfig,
        config: LearnerConfig,
        port: Port,
        ranks: Ranks = ALONE,
        doing: Doing = _tell_nobody,
        *,
        notifier: Notifier | None = None,
    ) -> None:
        self._run, self._config, self._port, self._ranks, self._doing = run, config, port, ranks, doing
        self._notifier = notifier or Notifier()
        self._checkpoints, self._states = run.folder / "checkpoints", run.folder / "state"
        self._metrics = MetricsFile(run.folder / "metrics.jsonl")
        self._reader, self._evaluations = MetricsReader(run.folder / "metrics.jsonl"), dict[str, dict[str, Any]]()

    def start(self, *, resumed: bool) -> None:
        """Load the policy, take up or begin the run, and make sure that the gateway knows the current version.

        Raises:
            UsageError: a model folder that is none, a run folder that holds a run already, another model's state.
            RunError: a damaged state.
        """
        found: str | None = self._ranks.first(lambda: self._saved(resumed=resumed))
        saved = None if found is None else Path(found)
        self._start_folder = Path(self._ranks.first(lambda: str(self._folder_of_start(resumed=saved is not None))))
        sizes = (file.stat().st_size for file in self._start_folder.glob("*.safetensors") if file.is_file())
        self._busy(f"loads {self._start_folder}", sum(sizes))
        policy = load_policy(self._config.model, self._start_folder, self._run.seed, self._ranks)
        self.policy = replace(policy, on_pass=self._notifier.alive)
        self._probe = probe_tokens(self._start_folder, self.policy.context)
        self.optimizer = Optimizer(self.policy.trainable(), self._config.optimizer, self._ranks)
        self._trained = trained = sum(value.numel() for value in self.policy.trainable().values())
        self._busy("takes up or writes the state", trained * STATE_BYTES)
        log.info("model_loaded", path=str(self._start_folder), parameters=trained, device=str(self.policy.device))
        if saved is None:
            if resumed:
                log.warning("nothing_to_resume", folder=str(self._states))
            welcome = self._port.hello(None)
            self.state = TrainerState(
                run_id=welcome.run_id,
                seed=self._run.seed,
                model=resume.fingerprint(self.policy),
                step=0,
                policy_version=0,
                made_at=utc_now(),
            )
            resume.save_state(self._states, self.state, self.policy, self.optimizer)
        else:
            self.state = resume.load_state(saved, self.policy, self.optimizer, self._run.seed)
            log.info("state_taken_up", step=self.state.step, policy_version=self.state.policy_version)
            self._port.hello(self._resume_words())
        identify(run=self.state.run_id)
        self._tell_version()
        if self.state.figures and self._ranks.is_first:
            self._metrics.write("step", **self.state.figures)
        self._notifier.ready()

    def _busy(self, doing: str, bytes_on_disk: int) -> None:
        """Before what no pass through the model interrupts."""
        self._notifier.status(doing)
        self._notifier.extend(LEAST_PATIENCE + bytes_on_disk / SLOWEST_DISK)

    def _saved(self, *, resumed: bool) -> str | None:
        """The newest state's folder, after what crashes left is cleared away; None where a run begins."""
        for folder in (self._checkpoints, self._states):
            folder.mkdir(parents=True, exist_ok=True)
            resume.clear_drafts(folder)
        saved = resume.newest_state(self._states)
        if saved is not None and not resumed:
            raise UsageError(f"{self._run.folder}: holds a run already: add --resume, or set another run.folder")
        if saved is None and published_versions(self._checkpoints):
            raise UsageError(f"{self._states}: has no state, but versions were published: restore it, or begin anew")
        return None if saved is None else str(saved)

    def run(self) -> None:
        """All steps that are left, then `finished`.

        Raises:
            RunError: too many steps in a row were refused because they were not finite.
        """
        while self.state.step < self._config.rollout.steps:
            self._step()
        self._port.finished()
        log.info("training_finished", step=self.state.step, policy_version=self.state.policy_version)

    def _folder_of_start(self, *, resumed: bool) -> Path:
        """Where the start's weights and tokenizer are. An adapter's base is what the run published as version 0."""
        published = folder_of(self._checkpoints, 0)
        if not (resumed and self._config.model.training == "lora" and 0 in published_versions(self._checkpoints)):
            return self._config.model.path
        verify(published)
        return published

    def _resume_words(self) -> Resume | None:
        state = self.state
        if state.step == 0:
            return None
        return Resume(
            policy_version=state.policy_version, step=state.step, consumed=state.consumed, dropped=state.dropped
        )

    def _step(self) -> None:
        watch = Stopwatch()
        step = self.state.step + 1
        self._doing("wait", step)
        records = self._wait_for_groups(step)
        watch.lap("wait")
        self._doing("forward_backward", step)
        made, consumed, dropped = self._train(step, records)
        watch.lap("forward_backward")
        before = self.state.policy_version
        version = self._ranks.first(lambda: max(before, *published_versions(self._checkpoints)) + 1)
        figures = step_figures(records, made, consumed, dropped)
        self.state = TrainerState(
            run_id=self.state.run_id,
            seed=self._run.seed,
            model=self.state.model,
            step=step,
            policy_version=version,
            made_at=utc_now(),
            consumed=tuple(consumed),
            dropped=dropped,
            skips_in_a_row=self.state.skips_in_a_row + 1 if made.refused else 0,
            figures={"step": step, "policy_version": version, **figures, "seconds": dict(watch.seconds)},
            evaluations=self._evaluations_so_far(),
        )
        self._keep(watch)
        if self.state.skips_in_a_row >= self._config.optimizer.most_skips:
            raise RunError(
                f"{self.state.skips_in_a_row} steps in a row were not finite, the last was {step}: lower "
                "learner.optimizer.learning_rate, or look at the trajectories that trainer.jsonl names"
            )

    def _train(self, step: int, records: Sequence[GroupRecord]) -> tuple[Update, list[str], dict[str, str]]:
        """Stages 5 to 9: what was done, ids of the trajectories trained on, and those passed over with reasons."""
        limits = Limits(
            policy_version=self.state.policy_version,
            staleness_bound=self._config.rollout.staleness_bound,
            vocabulary=self.policy.vocabulary,
            context=self.policy.context,
        )
        groups, dropped = admit(records, limits)
        scored, without_signal = score(groups, self._config.objective.advantage, self._config.objective.least_advantage)
        dropped.update(without_signal)
        if not scored:
            log.warning("step_without_signal", step=step, passed_over=len(dropped))
            return Update(), [], dropped
        recomputed = self._recompute(step, scored)
        made = update(
            self.policy,
            self.optimizer,
            scored,
            self._config,
            step=step,
            policy_version=self.state.policy_version,
            seed=self._run.seed,
        )
        made.recomputed = recomputed
        ids = [one.trajectory.trajectory_id for one in scored]
        if made.refused:
            shown = {"loss": made.refused_loss, "gradient_norm": made.refused_norm}
            log.warning("step_refused", step=step, optimizer_steps=made.optimizer_steps, trajectories=ids, **shown)
        if made.optimizer_steps:
            return made, ids, dropped
        return made, [], {**dropped, **dict.fromkeys(ids, "not_finite")}

    def _recompute(self, step: int, scored: Sequence[Scored]) -> dict[str, Any]:
        """Staleness told from mismatch, before the step; the newest state holds the weights as they are."""
        state = resume.newest_state(self._states)
        assert state is not None
        if self._config.diagnostics.recomputed_share:
            self._busy(f"step {step}: scores again under the versions that sampled", self._trained * STATE_BYTES)
        kept = Kept(self._checkpoints, state / resume.WEIGHTS)
        now = {"step": step, "policy_version": self.state.policy_version, "seed": self._run.seed}
        return recompute(self.policy, scored, self._config, kept, **now)

    def _wait_for_groups(self, step: int) -> list[GroupRecord]:
        said, answers = "", 0
        while isinstance(answer := self._port.next_groups(step), Waiting):
            if answer.reason != said and answers % WAIT_LOGGED_EVERY == 0:
                said = answer.reason
                log.info("step_waits", step=step, waiting_for=said)
            answers += 1
            self._notifier.status(f"step {step} waits for {answer.reason}")
            self._notifier.alive()
        self._notifier.status(f"step {step}: trains on {len(answer)} groups")
        return answer

    def _evaluations_so_far(self) -> tuple[dict[str, Any], ...]:
        """Those that the gateway has written to metrics.jsonl, the newest of each label."""
        for event in self._reader.new():
            if event.get("event") == "evaluation":
                self._evaluations[str(event.get("label"))] = {
                    name: event[name] for name in SHOWN_EVALUATION if name in event
                }
        return tuple(self._evaluations.values())

    def _keep(self, watch: Stopwatch) -> None:
        """What was trained reaches the disk, the gateway and metrics.jsonl, in this order."""
        self._doing("save_state", self.state.step)
        self._busy(f"step {self.state.step}: writes state and version", self._trained * STATE_BYTES)
        resume.save_state(self._states, self.state, self.policy, self.optimizer)
        watch.lap("save_state")
        self._doing("publish", self.state.step)
        in_use = self._tell_version()
        watch.lap("publish")
        if not self._ranks.is_first:
            return
        figures = {**self.state.figures, "seconds": {name: round(s, 4) for name, s in watch.seconds.items()}}
        self._metrics.write("step", **figures)
        shown = ("step", "policy_version", "mean_reward", "loss", "gradient_norm", "seconds")
        log.info("step_made", **{name: figures[name] for name in shown})
        resume.retire_states(self._states, self._config.checkpoints.keep_states)
        retention = Retention(
            newest=self._config.kept_versions,
            hours=self._config.checkpoints.keep_hours,
            every=self._config.checkpoints.keep_every,
            in_use=in_use | ({0} if self.policy.is_adapter else set()),
        )
        retire(self._checkpoints, retention, time.time())

    def _tell_version(self) -> frozenset[int]:
        """Publish the state's version, unless its folder is there and whole, and tell the gateway (again).

        Returns the versions that actors use.
        """
        state = self.state
        digest: str | None = self._ranks.first(self._digest_if_whole)
        if digest is None:
            manifest = manifest_of(
                self.policy,
                run_id=state.run_id,
                policy_version=state.policy_version,
                step=state.step,
                tokens=self._probe,
            )
            card = model_card(state, self._config, self._start_folder, adapter=manifest.kind == "adapter")
            digest = publish_version(self.policy, self._checkpoints, self._start_folder, manifest, card=card)
        return self._port.published(state.policy_version, digest, state.step, state.consumed, state.dropped)

    def _digest_if_whole(self) -> str | None:
        folder = folder_of(self._checkpoints, self.state.policy_version)
        if not folder.exists():
            return None
        try:
            verify(folder)
        except RunError as error:
            log.warning("version_published_again", reason=str(error))
            return None
        return read_manifest(folder)[1]


def main(argv: Sequence[str]) -> int:
    """Train as configured. Raises UsageError and RunError."""
    resolved, flags = parse_command_line(
        SECTIONS,
        argv,
        usage=USAGE,
        flags={
            "resume": "go on from the newest complete state",
            "stop-with-parent": "stop when the process that started this one is gone",
        },
    )
    run, config, notifier = resolved.section("run", RunConfig), resolved.section("learner", LearnerConfig), Notifier()
    rank, name = here().rank, stem_of(_name())
    configure(name, **run.log(name), to="output", run=run.folder.name)
    if flags["stop-with-parent"] or "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun's agent, killed, leaves its ranks
        threading.Thread(target=_end_with_parent, args=(parent_of_this(),), daemon=True).start()
    torch.set_num_threads(config.model.threads)
    lock = contextlib.nullcontext() if rank else only_one(run.folder / "trainer.lock")
    with lock, joined() as ranks, contextlib.ExitStack() as closing:
        own_port = None
        if ranks.is_first:
            own_port = TrainerPort(run.folder)
            closing.callback(own_port.close)
        port = own_port if own_port is not None and ranks.is_alone else SharedPort(own_port, ranks)
        doing: Doing = _tell_nobody
        if ranks.is_first:
            every = resolved.section("link", LinkConfig).heartbeat_seconds
            beats = TrainerBeats(run.folder, every, "load_model")
            closing.callback(beats.close)
            doing = beats.at
        trainer = Trainer(run, config, port, ranks, doing, notifier=notifier)
        trainer.start(resumed=flags["resume"])
        trainer.run()
    return 0


def _name() -> str:
    return name_of(here().rank, here().count)


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(PARENT_LOOKED_AT_EVERY)
    os._exit(1)  # at once: whatever is half-written is a draft


def _exit_code(argv: Sequence[str]) -> int:
    try:
        return main(argv)
    except (UsageError, RunError) as error:
        log.error("trainer_failed", reason=str(error))
        sys.stderr.write(f"{_name()}: {error}\n")
        return 2 if isinstance(error, UsageError) else 1
    except RuntimeError as error:
        if not is_lost(error):
            raise
        reason = " ".join(str(error).split())[:200]
        log.error("rank_lost", reason=reason)
        sys.stderr.write(f"{_name()}: another rank is gone: {reason}\n")
        return LOST_EXIT


if __name__ == "__main__":
    leave(_exit_code, sys.argv[1:])
