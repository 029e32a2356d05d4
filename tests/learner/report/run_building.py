"""A run folder for the report's tests, written by the real ledger, journal and metrics file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml
from test_prompt import ME, make_prompt

from common.checkpoint import TOKENIZER
from common.evaluation import Scored, summarise
from common.messages import Lease, Sampling, Trajectory
from common.metrics import MetricsFile
from common.wire import encode
from learner.gateway.ledger import Ledger, Version
from learner.gateway.records import Group, LeaseRecord, Member

FINISH = "apis.supervisor.complete_task(answer='1')"
TURNS = (("n = 1  # é\nprint(n)", "1\n"), (FINISH, None))
SCENARIOS = ("likeSong", "payFile")


def make_lease(group: str, member: int, task: str, *, label: str = "", version: int = 0) -> Lease:
    sampling = Sampling(temperature=0.0 if label else 1.0, max_turns=5, max_turn_tokens=90, max_context_tokens=900)
    return Lease(
        lease_id=f"{group}.{member}.0", group_id=group, member=member, epoch=0, task_id=task,
        purpose="evaluate" if label else "train", label=label, minimum_version=version, sampling=sampling,
        time_to_live=60.0,
    )  # fmt: skip


def make_trajectory(
    lease: Lease,
    prompt,
    *,
    instruction: str = "Like the song 'Silver River'.",
    turns: Sequence[tuple[str, str | None]] = TURNS,
    reward: float = 1.0,
    versions: Sequence[int] = (0,),
    failures: Sequence[str] = (),
    started_at: float = 1.7e9,
) -> Trajectory:
    """Of turns (what was sampled, what was seen); each takes the next of `versions`, the last serves all after."""
    ids, bounds = prompt.opening(instruction, ME), []
    mask, of_token = [0] * len(ids), [-1] * len(ids)
    for number, (said, seen) in enumerate(turns):
        sampled = prompt.reply(said)
        bounds += [len(ids), len(ids) + len(sampled)]
        after = [] if seen is None else prompt.observation(seen, 500)
        ids += sampled + after
        mask += [1] * len(sampled) + [0] * len(after)
        version = versions[min(number, len(versions) - 1)]
        of_token += [version] * len(sampled) + [-1] * len(after)
    sampled_at = np.array(mask, "u1")
    log_probs = np.where(sampled_at == 1, -0.25 * (1 + np.arange(len(ids)) % 8), 0.0)
    return Trajectory(
        trajectory_id=lease.lease_id, lease=lease, actor="actor-0", token_bytes=np.array(ids, "<i4").tobytes(),
        sampled_bytes=sampled_at.tobytes(), log_prob_bytes=log_probs.astype("<f4").tobytes(),
        version_bytes=np.array(of_token, "<i4").tobytes(), turn_bytes=np.array(bounds, "<i4").tobytes(),
        reward=reward, success=reward == 1.0, failures=tuple(failures), tags=("turn_limit",), started_at=started_at,
        seconds=3.0, engine_seconds=2.0, world_seconds=0.5,
    )  # fmt: skip


class RunBuilder:
    """Writes a run: groups of trajectories, each with its fate, and the lines of metrics.jsonl that belong to them."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.prompt, self.now = folder, make_prompt(), 1.7e9
        (folder / "model").mkdir()
        self.prompt._tokenizer.save(str(folder / "model" / TOKENIZER))
        self.ledger, self.metrics = Ledger(folder / "ledger.sqlite"), MetricsFile(folder / "metrics.jsonl")
        self.metrics.write("session", resumed=False)
        self.ledger.publish(Version(0, "0" * 64, 0), 0, 0)

    def group(self, name: str, trajectories: Sequence[Trajectory], *, step: int = 0, state: str = "trained") -> None:
        leases = [one.lease for one in trajectories]
        records = [
            LeaseRecord(lease, "actor-0", 0, state=state, reason="no_signal" * (state == "dropped"), oldest_version=0)
            for lease in leases
        ]
        first = leases[0]
        group = Group(
            name, -1 if first.label else step, first.task_id, first.purpose, first.label, 0, first.sampling,
            [Member([record]) for record in records], state=state, step=step,
        )  # fmt: skip
        self.ledger.save([group], records)
        for one in trajectories:
            self.ledger.journal(one, encode(one))

    def step(self, step: int, groups: Sequence[Sequence[Trajectory]], *, of: Sequence[Trajectory] = ()) -> None:
        """A step that was trained on these groups; `of`: a group without signal."""
        for members in groups:
            self.group(members[0].lease.group_id, members, step=step)
        if of:
            self.group(of[0].lease.group_id, of, step=step, state="dropped")
        trained = [one for members in groups for one in members]
        self.ledger.publish(Version(step, f"{step:064x}", step), len(trained), len(of))
        rewards = [one.reward for one in [*trained, *of]]
        ratios = {"tokens": 100, "ratio_mean": 1.0 + step / 1e3, "ratio_max": 1.4, "clip_share": 0.01 * step,
                  "kl_k1": 1e-4, "kl_k3": 2e-4, "ess": 0.999, "entropy": 0.5 / step}  # fmt: skip
        self.metrics.write(
            "step", step=step, policy_version=step, mean_reward=float(np.mean(rewards)),
            success_share=float(np.mean([one == 1.0 for one in rewards])), mean_turns=2.0, groups=len(groups),
            trajectories=len(trained), dropped={}, sampled_tokens=1000, trained_tokens=800,
            lags={"0": 60, "1": 40}, ratios={**ratios, "by_lag": {"0": ratios, "1": ratios}},
            seconds={"wait": 3.0, "forward_backward": 1.5, "publish": 0.2},
        )  # fmt: skip
        self.metrics.write(
            "rollouts", episodes_done=6 * step, leased=4, ready_groups=1, actors=1, tokens_per_second=90.0
        )
        self.metrics.write("reload", actor="actor-0", policy_version=step, accepted=True, probe_difference=1e-6,
                           seconds=0.8, pause_seconds=0.3)  # fmt: skip

    def evaluation(self, label: str, trajectories: Sequence[Trajectory]) -> None:
        for one in trajectories:
            self.group(one.lease.group_id, [one], state="evaluated")
        scored = [Scored(one.lease.task_id, 0, one.reward, one.success, one.oldest_version) for one in trajectories]
        self.metrics.write("evaluation", label=label, **summarise(scored))

    def config(self, **sections: object) -> None:
        (self.folder / "config.yaml").write_text(yaml.safe_dump(sections))

    def done(self) -> Path:
        self.ledger.commit()
        self.ledger.close()
        self.metrics.close()
        return self.folder


def make_run(folder: Path, *, steps: int = 4, groups: int = 2, members: int = 3, **options: object) -> Path:
    """Steps that reward more and more, evaluations before (nothing solved) and after (half of it), a world's folder."""
    run = RunBuilder(folder)
    root = folder.parent / "world"
    for number in range(1, 5):
        for level, scenario in enumerate(SCENARIOS, 1):
            truth = root / "full" / "data" / "tasks" / f"{scenario}_{number}" / "ground_truth"
            truth.mkdir(parents=True, exist_ok=True)
            (truth / "metadata.json").write_text(json.dumps({"difficulty": level}))
    run.config(
        run={"seed": 3}, world={"root": str(root)}, prompt={"form": "compact"}, link={"keys": "a/secret/place"},
        learner={"objective": {"advantage": "leave_one_out", "ratio": "token"}, "rollout": {"train_tasks": "x/train"}},
    )  # fmt: skip
    run.metrics.write("phase", name="evaluate_before")
    for label, solved in (("before.t0", 0), ("after.t0", 1)):
        if label == "after.t0":
            for step in range(1, steps + 1):
                made = [
                    [
                        _member(run, step, number, member, members=members, steps=steps, **options)
                        for member in range(members)
                    ]
                    for number in range(groups + 1)
                ]
                run.step(step, made[:-1], of=made[-1])
            run.metrics.write("phase", name="evaluate_after")
        evaluated = []
        for number in range(1, 5):
            for level, scenario in enumerate(SCENARIOS):
                lease = make_lease(f"{label}-{scenario}-{number}", 0, f"{scenario}_{number}", label=label)
                won = solved and level == 0
                failed = () if won else ("assert the song is liked",)
                reward = 1.0 if won else 0.5
                evaluated.append(
                    make_trajectory(lease, run.prompt, reward=reward, failures=failed, versions=[steps * solved])
                )
        run.evaluation(label, evaluated)
    run.metrics.write("phase", name="done")
    return run.done()


def _member(run: RunBuilder, step: int, number: int, member: int, *, members: int, steps: int, **options: object):
    won = member < round(members * step / steps)
    task = f"{SCENARIOS[number % 2]}_{1 + (step + number) % 4}"
    lease = make_lease(f"g{step:04d}{number}", member, task, version=step - 1)
    turns = options.get("turns", TURNS)
    options["turns"] = turns(lease.lease_id) if callable(turns) else turns
    failed = () if won else ("assert answer matches", f"assert step {step} <b>is done</b>")
    return make_trajectory(
        lease, run.prompt, reward=1.0 if won else 0.25, failures=failed, versions=[max(0, step - 2), step - 1],
        started_at=1.7e9 + 60 * step + 5 * number + member, **options,
    )  # fmt: skip
