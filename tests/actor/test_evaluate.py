"""`loop eval` around the policy: words, checkpoints, what is kept, what is tried again, what is lost."""

import asyncio
import json

import pytest
from scripted import CharacterPrompt, letters, turn

from actor.chosen_checkpoint import choose, run_of
from actor.engine import EngineFailure, RequestFailure
from actor.evaluate import _without_shorthands, main
from actor.evaluation import EPISODES, Job, Parts, Records, Terms, play_all
from actor.world.client import Observation, Verdict
from actor.world.outputs import outputs_folder
from actor.world.root import TaskText
from actor.world_protocol import UnusableTask, WorldFailure
from common.checkpoint import Manifest, Probe, folder_of, publish
from common.errors import RunError, UsageError
from common.messages import Sampling

RIGHT, WRONG = Verdict(1.0, True, ("paid",), ()), Verdict(0.5, False, ("paid",), ("no collateral damage",))
JOBS = [Job(rollout, task) for task in ("pay_1", "pay_2") for rollout in (0, 1)]


class OneWorld:
    """Ends at its first cell. `verdicts` are taken one by one; an error is raised where it stands."""

    changes = (b'{"changes": {"venmo": [["INSERT INTO x VALUES (?)", [1], false]]}, "hashes": {"venmo": {"X": 1}}}',)
    calls = b'{"method": "get"}\n'

    def __init__(self, task_id, verdicts):
        self.task = TaskText(task_id, "Pay Ann.", "Bo", "Lee", "bo@x.org", "123", "2023-05-18T12:00:00")
        self.verdicts = verdicts

    async def execute(self, code):
        return Observation(f"saw {code}", failed=False, completed=True)

    async def grade(self):
        verdict = self.verdicts.pop(0)
        if isinstance(verdict, Exception):
            raise verdict
        return verdict

    async def close(self):
        pass


class Worlds:
    def __init__(self, verdicts):
        self.verdicts, self.opened = verdicts, []

    async def open(self, task_id):
        self.opened.append(task_id)
        return OneWorld(task_id, self.verdicts)


class AlwaysSays:
    """A policy that writes one cell, or raises what it is given to raise once."""

    def __init__(self, *errors):
        self.errors = list(errors)

    def episode(self):
        from contextlib import nullcontext

        return nullcontext()

    async def generate(self, ids, *, temperature, max_tokens, pinned=None, max_seconds=None):
        if self.errors:
            raise self.errors.pop(0)
        return turn(*letters("go"), version=7)


@pytest.fixture
def root(tmp_path):
    for task in ("pay_1", "pay_2"):
        folder = tmp_path / "root" / "full" / "data" / "tasks" / task
        (folder / "dbs").mkdir(parents=True)
        (folder / "dbs" / "venmo.jsonl").write_text('["UPDATE y",[],false]\n')
        (folder / "specs.json").write_text(json.dumps({"db_version": "0.1.0"}))
    return tmp_path / "root"


def play(tmp_path, root, verdicts, *errors, attempts=2):
    """The records afterwards, what was lost, and the tasks whose worlds were opened."""
    out, worlds = tmp_path / "out", Worlds(list(verdicts))
    records = Records(out, {"name": "e"})
    sampling = Sampling(temperature=0.0, max_turns=3, max_turn_tokens=9, max_context_tokens=99)
    terms = Terms(out, root, "e", 7, sampling, longest=99, attempts=attempts, at_once=1)
    parts = Parts(AlwaysSays(*errors), worlds, CharacterPrompt(), RequestFailure, EngineFailure)
    lost = asyncio.run(play_all(JOBS, terms, records, parts))
    return records, lost, worlds.opened


def test_every_rollout_of_every_task_is_played_kept_and_laid_out(tmp_path, root):
    records, lost, _ = play(tmp_path, root, [RIGHT, WRONG, WRONG, RIGHT])
    assert lost == []
    found = {(job.task_id, job.rollout): one for job, one in records.finished.items()}
    assert [found[key].success for key in sorted(found)] == [True, False, False, True]
    one = found["pay_1", 1]
    assert (one.reward, one.version, one.turns, one.tags, one.failures) == (
        0.5,
        7,
        1,
        ("completed",),
        ("no collateral damage",),
    )
    first, second = (outputs_folder(tmp_path / "out", name, "pay_2") for name in ("e", "e-r1"))
    assert (first / "dbs" / "venmo.jsonl").read_text().splitlines() == [
        '["UPDATE y",[],false]',
        '["INSERT INTO x VALUES (?)",[1],false]',
    ]
    assert json.loads((second / "dbs" / "model_hashes.json").read_text()) == {"venmo": {"X": 1}}
    assert "```python\ngo\n```\n\n```\nsaw go\n```" in (second / "logs" / "environment_io.md").read_text()
    assert (second / "logs" / "api_calls.jsonl").read_bytes() == OneWorld.calls


def test_what_breaks_down_around_the_policy_is_tried_again(tmp_path, root):
    verdicts = [WorldFailure("the grader broke down"), RIGHT, RIGHT, RIGHT, RIGHT]
    records, lost, opened = play(tmp_path, root, verdicts, RequestFailure("too long"), attempts=3)
    assert lost == []
    assert [records.finished[job].attempts for job in JOBS] == [3, 1, 1, 1]
    assert opened == ["pay_1"] * 4 + ["pay_2"] * 2


def test_what_breaks_down_too_often_is_lost_and_named_and_no_wrong_answer(tmp_path, root):
    failures = [WorldFailure("no world opened")] * 2
    records, lost, opened = play(tmp_path, root, [*failures, RIGHT, RIGHT, RIGHT])
    assert [(one.task_id, one.rollout, one.reason) for one in lost] == [
        ("pay_1", 0, "2 times, last: WorldFailure: no world opened")
    ]
    assert [one.success for one in records.finished.values()] == [True] * 3
    assert opened == ["pay_1", "pay_1", "pay_1", "pay_2", "pay_2"]


def test_a_task_that_cannot_be_had_at_all_is_not_tried_again(tmp_path, root):
    _, lost, opened = play(tmp_path, root, [UnusableTask("its data are broken"), RIGHT, RIGHT, RIGHT])
    assert [(one.task_id, one.reason) for one in lost] == [("pay_1", "its data are broken")]
    assert len(opened) == 4


def test_an_evaluation_that_was_interrupted_goes_on_where_it_was(tmp_path, root):
    with pytest.raises(RunError, match="ValueError: odd; what is finished is kept: the same command goes on"):
        play(tmp_path, root, [RIGHT], ValueError("odd"))
    play(tmp_path, root, [RIGHT, RIGHT, RIGHT, RIGHT])
    file = tmp_path / "out" / EPISODES
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join([*lines[:2], lines[2][:20]]))  # as a kill leaves it
    records, _, opened = play(tmp_path, root, [WRONG, WRONG])
    assert opened == ["pay_2", "pay_2"]
    assert [one.success for one in records.finished.values()] == [True, True, False, False]
    assert [json.loads(line)["success"] for line in file.read_text().splitlines()] == [True, True, False, False]


def test_a_folder_of_another_evaluation_is_refused(tmp_path):
    Records(tmp_path, {"dataset": "dev", "temperature": 0.0})
    with pytest.raises(UsageError, match=r"another evaluation is there \(temperature: 0.0, not 1.0\): name another"):
        Records(tmp_path, {"dataset": "dev", "temperature": 1.0})


def version(folder, number, *, base=None):
    kind = "full" if base is None else "adapter"

    def write(draft):
        if base is None:
            (draft / "tokenizer.json").write_text("{}")
        else:
            (draft / "adapter_config.json").write_text('{"r": 4}')

    manifest = Manifest(
        run_id="r",
        policy_version=number,
        kind=kind,
        base_version=base,
        step=number,
        files={},
        probe=Probe(tokens=(1, 2), log_probs=(-1.0,)),
    )
    publish(folder, manifest, write)


def test_a_run_its_versions_and_an_adapters_base_are_found(tmp_path):
    versions = tmp_path / "run" / "checkpoints"
    version(versions, 0)
    version(versions, 3, base=0)
    newest, first = choose(str(tmp_path / "run")), choose(f"{tmp_path}/run@0")
    assert (newest.version, newest.adapter_rank, newest.name) == (3, 4, "v000003")
    assert (newest.full, newest.adapter) == (folder_of(versions, 0), folder_of(versions, 3))
    assert (first.version, first.adapter, first.adapter_rank) == (0, None, 0)
    assert choose(str(folder_of(versions, 3))) == newest
    assert run_of(f"{tmp_path}/run@0") == run_of(str(folder_of(versions, 3))) == tmp_path / "run"


def test_a_model_folder_that_no_run_published_is_version_0(tmp_path):
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_text("{}")
    chosen = choose(str(tmp_path))
    assert (chosen.version, chosen.manifest, chosen.name) == (0, None, tmp_path.name)


def test_what_is_no_checkpoint_is_named_with_what_there_is(tmp_path):
    version(tmp_path / "run" / "checkpoints", 2)
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    for checkpoint, wrong in (
        (f"{tmp_path}/run@5", "has no version 5; it has 2"),
        (f"{tmp_path}/empty", "no version was published yet"),
        (f"{tmp_path}/none", "is neither a run, nor a version, nor a model folder"),
        (f"{tmp_path}/none@1", "is not the folder of a run"),
    ):
        with pytest.raises(UsageError, match=wrong):
            choose(checkpoint)
    (folder_of(tmp_path / "run" / "checkpoints", 2) / "tokenizer.json").write_text("[]")
    with pytest.raises(UsageError, match=r"tokenizer\.json: sha256 differs from the manifest"):
        choose(str(tmp_path / "run"))


def test_short_options_stand_for_those_of_the_section():
    words = _without_shorthands(["--rollouts", "4", "--difficulty", "1,2", "--temperature=0.5", "--json"])
    assert words == [
        "--evaluate.rollouts",
        "4",
        "--evaluate.difficulty",
        "[1,2]",
        "--evaluate.temperature=0.5",
        "--json",
    ]
    assert _without_shorthands(["--difficulty=3"]) == ["--evaluate.difficulty=[3]"]


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        ([], "--checkpoint is missing"),
        (["--checkpoint", "x"], "--dataset is missing"),
        (["--rollout", "2"], "unknown option '--rollout'"),
        (["--checkpoint", "x", "--dataset", "dev", "--rollouts", "0"], "evaluate.rollouts"),
        (["--checkpoint", "/none", "--dataset", "dev"], "is neither a run, nor a version, nor a model folder"),
    ],
)
def test_words_that_cannot_be_are_refused_before_anything_starts(words, wrong):
    with pytest.raises(UsageError, match=wrong):
        main(words)
