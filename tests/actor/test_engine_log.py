"""What vLLM says in its own process stands in the actor's log, and says which process said it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
ACTOR = """
import logging, os, sys
from pathlib import Path
from actor.engine_process import forked_engine
from common import log
log.configure("actor", file=Path(sys.argv[1]), to="file", run="tiny", actor="actor-0", most_bytes=4096, kept=9)
with forked_engine():
    engine = os.fork()
    if engine == 0:
        for number in range(100):
            logging.getLogger("vllm.v1.worker").warning("of the engine: %d", number)
        os._exit(0)
own = log.get_logger("actor")
for number in range(100):
    own.info("of_the_actor", number=number)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(engine, 0)[1]))
"""


def test_the_engines_warnings_stand_in_the_actors_log_under_its_own_name(tmp_path):
    file = tmp_path / "log"
    subprocess.run(
        [sys.executable, "-c", ACTOR, str(file)], cwd=ROOT, env={**os.environ, "LOOP_PARENT": ""}, check=True
    )
    lines = [json.loads(line) for one in tmp_path.iterdir() for line in one.read_text().splitlines()]
    assert {(line["process"], line["event"], line["run"], line["actor"]) for line in lines} == {
        ("actor", "of_the_actor", "tiny", "actor-0"),
        ("engine", "library_warning", "tiny", "actor-0"),
    }
    said = sorted(line["text"] for line in lines if line["process"] == "engine")
    assert said == sorted(f"of the engine: {number}" for number in range(100))
    assert {line["source"] for line in lines if line["process"] == "engine"} == {"vllm"}
    assert len(lines) == 200
    assert len(list(tmp_path.iterdir())) > 5, "both set the file aside"


TOLD = """
import logging, os, sys
from pathlib import Path
from actor.engine_process import forked_engine
from common import log
from common.last_errors import NewErrors, last_errors
log.configure("actor", file=Path(sys.argv[1]), to="file", run="tiny", actor="actor-0")
new = NewErrors()
with forked_engine():
    engine = os.fork()
    if engine == 0:
        worker = os.fork()
        if worker == 0:
            logging.getLogger("vllm.v1.worker").warning("of a worker that it forked")
            os._exit(0)
        os.waitpid(worker, 0)
        logging.getLogger("vllm.v1.engine").error("it broke")
        assert [one.event for one in last_errors()] == ["library_error"], "a child hears nobody"
        for number in range(int(sys.argv[2])):
            logging.getLogger("vllm.v1.engine").warning("more: %d", number)
        os._exit(0)
code = os.waitstatus_to_exitcode(os.waitpid(engine, 0)[1])
log.get_logger("actor").warning("actor_pauses")
for one in new.take(1000):
    print(one.source, one.level, one.event, one.told, sep="|")
assert new.take(5) == ()
sys.exit(code)
"""


def what_the_actor_tells(tmp_path, more):
    done = subprocess.run(
        [sys.executable, "-c", TOLD, str(tmp_path / "log"), str(more)],
        cwd=ROOT,
        env={**os.environ, "LOOP_PARENT": ""},
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.splitlines()


def test_the_engines_errors_and_its_workers_are_told_with_the_actors_own(tmp_path):
    assert set(what_the_actor_tells(tmp_path, 0)) == {
        "engine|warning|library_warning|actor: actor-0, source: vllm, text: of a worker that it forked",
        "engine|error|library_error|actor: actor-0, source: vllm, text: it broke",
        "actor|warning|actor_pauses|actor: actor-0",
    }


def test_an_engine_that_says_more_than_anybody_reads_is_not_held_up(tmp_path):
    told = what_the_actor_tells(tmp_path, 5000)
    assert len(told) == 20, "as many as are kept"
    assert len((tmp_path / "log").read_text().splitlines()) == 5003, "the log has them all"
