"""The table of events, part three: what the learner logs, of its gateway, its trainer, their parent, the warm start."""

from __future__ import annotations

from common.event import Event

REASON = "why, in words"
SECONDS = "how long, seconds"
WAITING = "for what, in words"
STEP = "of training, from 1"
FREED = "leases that others may have now, count"
LABEL = "which evaluation, such as after.t0"
EVALUATION = {
    "label": LABEL,
    "newest_version": "newest policy version that sampled",
    "tasks": "finished, count",
    "lost": "whose every episode failed to be rolled out, count",
    "tgc": "task goal completion, 0 to 1",
    "sgc": "scenario goal completion, 0 to 1",
    "mean_reward": "0 to 1",
}

GATEWAY: dict[str, Event] = {
    # --- its life
    "gateway_listens": Event(
        "info",
        "actors may come",
        {"phase": "of the run's course", "host": "bound address", "port": "of messages", "files_port": "of files"},
    ),
    "gateway_waits": Event("info", "the run is over but for its end", {"waiting_for": WAITING}),
    "gateway_done": Event(
        "info", "the run is over, and whoever was there has heard so", {"actors_left": "whether all actors are gone"}
    ),
    "gateway_failed": Event("error", "the gateway ends", {"reason": REASON}),
    "gateway_was_stopped": Event(
        "warning", "this process did not run for a while: nobody's lease lapses for it", {"seconds": SECONDS}
    ),
    "parent_gone": Event("error", "the learner's parent was killed: the gateway ends", {"parent": "its process id"}),
    # --- actors
    "actor_welcomed": Event(
        "info",
        "an actor said Hello, or said it again",
        {
            "instance": "which start of it",
            "slots": "episodes at a time, count",
            "holds": "leases that it has, count",
            "unclaimed": "leases that it should have and does not name, count",
        },
    ),
    "actor_refused": Event("warning", "an actor does not fit this run", {"reason": REASON}),
    "actor_left": Event("info", "an actor said goodbye", {"reason": REASON, "leases_freed": FREED}),
    "actor_dismissed": Event(
        "warning", "an actor's key was taken off the list", {"reason": REASON, "leases_freed": FREED}
    ),
    "actor_silent": Event(
        "warning", "an actor has not been heard for too long; its leases lapse by and by", {"seconds": SECONDS}
    ),
    "actor_heard_again": Event("info", "its silence is over", {"seconds": SECONDS}),
    "connection_cut": Event(
        "warning",
        "a connection took more than its share, or was silent",
        {
            "address": "its end",
            "port": "main or files",
            "reason": REASON,
            "times": "since it was last said, count",
        },
    ),
    "connection_not_taken": Event(
        "warning", "the system refused a connection", {"port": "which", "reason": REASON, "times": "as above"}
    ),
    "connections_limited": Event(
        "warning",
        "the limit of open files allows fewer connections than configured",
        {"connections": "allowed, count", "wanted": "configured, count", "reason": "what to do"},
    ),
    "frame_unreadable": Event(
        "warning",
        "what an actor sent is no message; it is put aside",
        {"bytes": "size, bytes", "reason": REASON, "so_far": "of this actor, count", "kept": "file, or why not"},
    ),
    "chunk_missing": Event(
        "warning", "an actor asked for a piece of a file that is not there", {"file": "its name", "reason": REASON}
    ),
    # --- leases and trajectories
    "lease_granted": Event("debug", "an actor is to roll out one member of a group", {"purpose": "train or evaluate"}),
    "lease_dropped": Event(
        "info", "a member's lease came to nothing", {"reason": "as the books name it", "detail": "in words"}
    ),
    "trajectory_journalled": Event(
        "debug",
        "a trajectory is on the disk",
        {"reward": "share of the task's tests passed, 0 to 1", "oldest_version": "that sampled in it"},
    ),
    "trajectory_trained": Event(
        "info",
        "a trajectory was trained on",
        {"step": STEP, "reward": "share of the task's tests passed, 0 to 1", "oldest_version": "that sampled in it"},
    ),
    "trajectory_evaluated": Event(
        "info",
        "a trajectory counts for an evaluation",
        {"label": LABEL, "reward": "share of the task's tests passed, 0 to 1"},
    ),
    "group_ready": Event(
        "debug", "a group is complete, or closed", {"members": "count", "trajectories": "that came, count"}
    ),
    "lease_returned": Event("info", "an actor gave back a lease in good order", {"reason": REASON}),
    "lease_failed": Event("warning", "an actor could not fulfil a lease: its episode broke down", {"reason": REASON}),
    "lease_lapsed": Event("warning", "a lease was not renewed: another actor may have it", {"state": "it was in"}),
    "leases_freed": Event(
        "info", "an actor does not know leases that it was granted: others may have them", {"leases": "count"}
    ),
    "leases_withheld": Event(
        "info",
        "fewer leases were granted than asked for",
        {"waiting_for": WAITING, "asked": "count", "granted": "count"},
    ),
    "trajectory_received": Event(
        "debug", "a trajectory came in and counts for its group", {"reward": "share of the task's tests passed, 0 to 1"}
    ),
    "journal_behind": Event(
        "warning",
        "the run folder's disk is slow: actors may send less at a time",
        {"waiting_for": WAITING, "seconds": "of the last write, seconds", "credit_bytes": "to all together, bytes"},
    ),
    "disk_has_room": Event("info", "the disk takes again", {"folder": "where", "free_bytes": "bytes"}),
    # --- what it says of itself
    "figures_failed": Event("error", "the figures of /metrics could not be made; said once", {"reason": REASON}),
    # --- the run's course
    "phase_began": Event("info", "the run's course goes on", {"phase": "evaluate_before, train, evaluate_after, done"}),
    "online_evaluation_began": Event("info", "an evaluation beside training", {"label": LABEL, "tasks": "count"}),
    "evaluation_skipped": Event(
        "warning", "the one before is not over: this version's falls out", {"label": LABEL, "waiting_for": "which one"}
    ),
    "evaluation_finished": Event("info", "an evaluation is over", EVALUATION),
    "version_reloaded": Event(
        "info",
        "an actor samples with a version now",
        {
            "probe_difference": "largest difference of the probe's log-probs, nats",
            "seconds": "fetch to use, seconds",
            "pause_seconds": "of it, with the engine paused, seconds",
        },
    ),
    "version_refused": Event(
        "error",
        "an actor could not use a version, and samples with the one before",
        {"reason": REASON, "probe_difference": "as above", "seconds": "it took, seconds"},
    ),
    # --- the trainer's desk
    "trainer_welcomed": Event("info", "the trainer is there", {"step": "it has made, count"}),
    "trainer_waits": Event("info", "the trainer waits for groups", {"waiting_for": WAITING}),
    "steps_undone": Event(
        "warning",
        "the trainer's state is older than the ledger: what it does not know is trained on again",
        {"ledger_step": "steps in the ledger", "trainer_step": "steps in its state", "groups": "undone, count"},
    ),
    "group_handed": Event("debug", "a group went to the trainer", {"step": STEP, "trajectories": "count"}),
    "groups_handed": Event(
        "info",
        "the groups of a step went to the trainer",
        {"step": STEP, "groups": "count", "trajectories": "count", "stragglers_cut": "members cut, count"},
    ),
    "version_published": Event(
        "info",
        "a version is announced to the actors",
        {"step": STEP, "trained": "trajectories, count", "passed_over": "trajectories, count"},
    ),
}
TRAINER: dict[str, Event] = {
    "model_loaded": Event(
        "info",
        "the policy is in memory",
        {"path": "from", "parameters": "trained, count", "device": "cpu, cuda:0, ..."},
    ),
    "nothing_to_resume": Event(
        "warning", "--resume was given, but there is no state: the run begins", {"folder": "of states"}
    ),
    "state_taken_up": Event("info", "training goes on from a state", {"step": "it has made"}),
    "rank_joins": Event(
        "info", "a process of the trainer looks for the others", {"rank": "which", "waiting_for": WAITING}
    ),
    "rank_joined": Event("info", "they are together", {"rank": "which", "count": "of them", "backend": "gloo or nccl"}),
    "rank_lost": Event("error", "another process of the trainer is gone: this one ends", {"reason": REASON}),
    "step_waits": Event("info", "the next step cannot begin", {"step": STEP, "waiting_for": WAITING}),
    "step_made": Event(
        "info",
        "a step was made and published",
        {
            "step": STEP,
            "mean_reward": "0 to 1",
            "loss": "of the policy",
            "gradient_norm": "before clipping",
            "seconds": "by part of the step, seconds",
        },
    ),
    "step_without_signal": Event(
        "warning", "no group of the step teaches anything", {"step": STEP, "passed_over": "trajectories, count"}
    ),
    "step_refused": Event(
        "warning",
        "a loss or gradient was not finite: parameters stay as they were",
        {
            "step": STEP,
            "optimizer_steps": "that were made before it, count",
            "trajectories": "ids",
            "loss": "it was",
            "gradient_norm": "it was",
        },
    ),
    "version_published_again": Event(
        "warning", "a published version's folder is damaged: written anew", {"reason": REASON}
    ),
    "version_unavailable": Event(
        "warning", "an older version's weights are gone: its log-probs are not recomputed", {"reason": REASON}
    ),
    "waiting_for_gateway": Event(
        "warning", "the gateway does not answer the trainer", {"at": "its socket", "attempt": "from 1"}
    ),
    "training_finished": Event(
        "info", "all steps are made; said by trainer and gateway", {"step": "steps made, count"}
    ),
    "trainer_failed": Event("error", "the trainer ends", {"reason": REASON}),
}
PARENT: dict[str, Event] = {
    "child_silent": Event(
        "error",
        "the gateway or the trainer has shown no progress for too long: systemd is not told that all is well",
        {"name": "which of them", "seconds": SECONDS, "doing": "what it said last that it does"},
    ),
    "child_heard_again": Event("info", "its silence is over", {"name": "which of them"}),
    "tracking_is_off": Event(
        "warning",
        "TensorBoard or W&B gets nothing; the run goes on, and metrics.jsonl has everything",
        {"name": "which of them", "reason": REASON, "remedy": "what to do"},
    ),
    "tracking_ended": Event(
        "warning", "the process that feeds them ended before the run", {"code": "its exit code", "output": "its file"}
    ),
    "wandb_began": Event(
        "info", "W&B is fed", {"mode": "online or offline", "project": "its name", "folder": "where it writes"}
    ),
    "wandb_goes_on_offline": Event("warning", "W&B cannot be reached: it is written to disk alone", {"reason": REASON}),
    "run_goes_on": Event(
        "info",
        "what metrics.jsonl tells of the run's course, for whoever watches the learner",
        {
            "what": "phase, step or evaluation",
            "name": "of the phase",
            "step": STEP,
            "success_share": "of the step's episodes, 0 to 1",
            **{name: EVALUATION[name] for name in ("label", "tasks", "tgc", "sgc", "mean_reward")},
            "loss": "of the policy",
        },
    ),
    "child_ended": Event("info", "gateway or trainer ended well", {"name": "which"}),
    "learner_stopped": Event("info", "told to end: gateway and trainer were ended", {"signal": "its name"}),
    "learner_done": Event("info", "the run is over", {"folder": "the run's"}),
    "learner_failed": Event("error", "the learner ends", {"reason": REASON}),
    "warm_start_begins": Event(
        "info",
        "a policy to start from is made",
        {"seed": "of every random choice", "threads": "count"},
        more="out, parameters, vocabulary, demonstrations, steps",
    ),
    "warm_start_step": Event(
        "info",
        "how far it is",
        {"step": "supervised, from 1", "steps": "in all, count", "loss": "nats a token", "rate": "of learning"},
    ),
    "warm_start_done": Event(
        "info",
        "the policy is there",
        more="as above, with loss, held_out_loss, held_out_accuracy, by_scenario, seconds",
    ),
}
LEARNER: dict[str, Event] = {**GATEWAY, **TRAINER, **PARENT}
