"""The table of events, part two: what the actor logs, of its episodes, engine, versions, spool, and worlds."""

from __future__ import annotations

from common.event import Event

REASON = "why, in words"
SECONDS = "how long, seconds"
WAITING = "for what, in words"
ROOT = "the data root's folder"

WORKER: dict[str, Event] = {
    # --- the actor's life
    "tasks_agreed": Event("info", "every task that the run may ask for is in this actor's data", {"tasks": "count"}),
    "ready": Event(
        "info", "engine and worlds are warm: leases are asked for", {"episodes": "at a time at most, count"}
    ),
    "concurrency_changed": Event(
        "info",
        "the engine's cache holds more or fewer episodes than it was given",
        {
            "episodes": "at a time from now on, count",
            "before": "until now, count",
            "reason": "full, preempted or room",
            "kv_cache": "share of the cache in use, 0 to 1",
        },
    ),
    "actor_pauses": Event(
        "warning", "nothing is rolled out though engine and worlds are ready", {"waiting_for": WAITING}
    ),
    "actor_idle": Event(
        "info",
        "the learner has given no lease for ten seconds; said again every minute",
        {"waiting_for": WAITING, "seconds": "so far, seconds"},
    ),
    "actor_goes_on": Event("info", "the pause is over", {"seconds": SECONDS}),
    "signal_received": Event("info", "told to end: it leaves politely", {"signal": "SIGTERM or SIGINT"}),
    "ended_at_once": Event(
        "warning", "told to end a second time: it does, without leaving", {"signal": "its name", "reason": REASON}
    ),
    "leaving": Event("info", "episodes end, leases go back", {"reason": REASON, "episodes": "under way, count"}),
    "draining": Event(
        "info",
        "waits for episodes to end by themselves",
        {"waiting_for": WAITING, "seconds_left": "until the rest is cancelled, seconds"},
    ),
    "left": Event(
        "info",
        "the learner was told goodbye",
        {"spooled": "trajectories that wait for the next start, count", "leases": "not given back, count"},
    ),
    "left_unfinished": Event(
        "warning", "something did not end in time; the process ends all the same", {"reason": REASON}
    ),
    "closed": Event("info", "engine, worlds and spool are closed", {"seconds": "it took, seconds"}),
    "actor_failed": Event("error", "the actor ends", {"reason": REASON}),
    # --- episodes
    "episode_finished": Event(
        "info",
        "an episode was played, graded and spooled as a trajectory",
        {
            "reward": "share of the task's tests passed, 0 to 1",
            "turns": "count",
            "tokens": "of all contexts, count",
            "tags": "how it ended, and what happened on the way",
            "seconds": "in engine and world, seconds",
            "engine_seconds": "of it, waiting for tokens, seconds",
            "world_seconds": "of it, waiting for the world, seconds",
        },
    ),
    "episode_failed": Event(
        "warning",
        "something around the policy broke: the lease goes back; in `loop eval` it is played again",
        {"reason": REASON, "rollout": "which of its task, from 0", "attempt": "from 1"},
    ),
    "episode_began": Event("debug", "an episode has its slot and samples"),
    "turn_sampled": Event(
        "debug",
        "the policy sampled a turn",
        {"turn": "from 1", "tokens": "sampled, count", "seconds": "in the engine, seconds"},
    ),
    "trajectory_spooled": Event("debug", "a trajectory is on the actor's disk", {"bytes": "size, bytes"}),
    "trajectory_sent": Event("debug", "a trajectory is on its way to the learner"),
    "trajectory_acknowledged": Event("debug", "the learner answered", {"outcome": "as `Ack.outcome`"}),
    "episode_cancelled": Event("info", "the learner wants this lease no longer"),
    "lease_return_not_taken": Event(
        "info", "the learner had given up a returned lease already", {"outcome": "as `Ack.outcome`", "reason": REASON}
    ),
    # --- spool and outbox
    "spool_taken_up": Event("info", "trajectories of before wait to be sent", {"trajectories": "count"}),
    "spool_of_other_runs": Event(
        "warning",
        "the spool holds trajectories of other runs, which stay there",
        {"trajectories": "count", "file": "the spool"},
    ),
    "spool_damaged": Event("error", "a file of the spool is damaged: what it held is lost", {"reason": REASON}),
    "spool_keeps_what_was_acknowledged": Event(
        "warning",
        "the disk did not take that trajectories were acknowledged; tried again",
        {"trajectories": "count", "reason": REASON},
    ),
    "spool_takes_no_more": Event(
        "warning",
        "the spool's disk is full: the trajectory waits in memory, no more leases are asked for",
        {"file": "the spool", "reason": REASON},
    ),
    "outbox_waits": Event(
        "warning", "trajectories are not acknowledged", {"waiting_for": WAITING, "trajectories": "in the spool, count"}
    ),
    "trajectory_unreadable": Event(
        "error", "a spooled trajectory cannot be read, here or by the learner: its lease goes back", {"reason": REASON}
    ),
}
ENGINE: dict[str, Event] = {
    "engine_started": Event(
        "info", "vLLM's engine is up", {"seconds": "it took, seconds", "slots": "requests at a time, count"}
    ),
    "engine_failed": Event(
        "error",
        "the engine died or stands still: its episodes are lost, it is started again",
        {"reason": REASON, "failures": "in a row, count"},
    ),
    "swap_waits": Event(
        "info", "a new version waits for what is sampled to end", {"waiting_for": WAITING, "count": "of them"}
    ),
    "adapter_slots_exceeded": Event(
        "warning",
        "more adapters are in use than the engine samples with at a time",
        {"versions": "in use", "slots": "count", "effect": "what comes of it"},
    ),
    "policy_version_in_use": Event(
        "info",
        "a version was loaded and probed, and is sampled with from now on",
        {
            "probe_difference": "largest difference of the probe's log-probs from the learner's, nats",
            "seconds": "fetch to use, seconds",
            "pause_seconds": "of it, with the engine paused, seconds",
        },
    ),
    "policy_version_refused": Event(
        "error",
        "a version could not be fetched, loaded or verified: the one before is sampled with; tried again",
        {"reason": REASON, "failures": "of this version, count"},
    ),
    "version_passed_over": Event("info", "a newer version replaced it before it was there", {"reason": REASON}),
    # --- versions on their way
    "version_downloaded": Event(
        "info",
        "a version's files are here and verified",
        {
            "bytes": "fetched, bytes",
            "bytes_of_before": "that an interrupted download had left, bytes",
            "seconds": "it took, seconds",
        },
    ),
    "version_fetched_again": Event("warning", "a version's files are damaged: fetched anew", {"reason": REASON}),
    "draft_was_damaged": Event(
        "warning", "a part of an interrupted download is damaged: fetched anew", {"file": "its name in the version"}
    ),
    "no_room_for_version": Event(
        "error",
        "the disk cannot hold the version beside the one in use; the download waits for room",
        {
            "folder": "where",
            "missing": "wanted besides, bytes",
            "free": "there are, bytes",
            "reason": "where it lies, and what to do",
        },
    ),
    "version_removed": Event("info", "files of a version that nobody uses were removed", {"folder": "which"}),
    "waiting_for_download": Event(
        "info", "another actor of this machine downloads the version", {"by": "who", "bytes_there": "so far, bytes"}
    ),
    "download_stands_still": Event(
        "warning",
        "another's download does not go on: this actor makes one of its own",
        {"draft": "folder", "seconds": "without a byte, seconds"},
    ),
    "waiting_for_shared_folder": Event("info", "the version is not in the shared folder yet", {"reason": REASON}),
}
WORLD: dict[str, Event] = {
    "data_root": Event(
        "info", "which data the worlds open", {"root": ROOT, "chosen_by": "the option that named it, or the default"}
    ),
    "another_count_than_published": Event(
        "warning",
        "AppWorld's own data have another count of tasks than its paper",
        {
            "dataset": "its name",
            "tasks": "there, count",
            "scenarios": "there, count",
            "published_tasks": "count",
            "published_scenarios": "count",
        },
    ),
    "official_data_viewed": Event(
        "info",
        "AppWorld's own data were laid out as a data root",
        {"data": "their folder", "root": ROOT, "files": "count"},
    ),
    "world_host_ready": Event(
        "info",
        "AppWorld is warm in a process that forks one for each episode",
        {"seconds": "it took, seconds", "guards": "that hold what a policy runs", "missing": "guards that do not"},
    ),
    "world_grader_ready": Event(
        "info",
        "the process that grades is warm",
        {"guards": "that hold it", "missing": "guards that do not"},
    ),
    "world_host_died": Event(
        "error",
        "the host ended, and with it the episodes that it played; another is started",
        {"returncode": "exit code, negative: signal", "restarts": "so far, count"},
    ),
    "world_grader_died": Event("warning", "the grader ended while it graded; another grades again", {"reason": REASON}),
    "world_tampered": Event(
        "warning", "a policy laid hands on its world's insides: the task counts as failed; `tampering_found` tells how"
    ),
    "tampering_found": Event("debug", "what it did, which may quote it", {"reason": "in words"}),
    "grading_failed": Event(
        "debug", "the tests of a task broke down", {"reason": "the error, which may quote a policy"}
    ),
    "world_engine_said": Event(
        "warning",
        "AppWorld's processes print nothing as a rule: a warning or a traceback, a line an event",
        {
            "source": "appworld",
            "part": "actor.world.host or actor.world.grade",
            "text": "the line, 2000 characters at most",
        },
    ),
    # --- commands
    "appworld_install": Event("info", "a step of AppWorld's installation", {"step": "which, in words"}),
    "world_progress": Event(
        "info",
        "how far the generator, the verification or the demonstrations are",
        {"what": "tasks_written, tasks_graded, ... as the step calls itself"},
        more="done, of, tasks, count, right (counts), seconds, and reason where it failed",
    ),
    "world_built": Event(
        "info", "a world was generated and verified", {"root": ROOT}, more="the generator's last counts, and seconds"
    ),
    "evaluation_begins": Event(
        "info",
        "`loop eval` plays",
        {"episodes": "in all, count", "finished_before": "by an interrupted start, count", "out": "folder"},
    ),
    "probe_agrees": Event(
        "info",
        "the engine computes the policy that the learner published",
        {"probe_difference": "largest difference of the probe's log-probs, nats"},
    ),
    "episodes_finished": Event(
        "info",
        "how far `loop eval` is",
        {"episodes": "finished, count", "of": "in all, count", "success_share": "of the finished, 0 to 1"},
    ),
    "episode_lost": Event(
        "error",
        "every attempt at an episode failed: it is missing in the result",
        {"rollout": "which of its task, from 0", "reason": REASON},
    ),
    "cross_check_begins": Event(
        "info",
        "AppWorld's own evaluation looks at the outputs",
        {"experiment": "its name for them", "tasks": "count"},
    ),
}
ACTOR: dict[str, Event] = {**WORKER, **ENGINE, **WORLD}
