"""`loop report` on small run folders: what stands in the file, how it is bounded, what it refuses."""

import base64
import gzip
import hashlib
import json
import re
import sqlite3
from pathlib import Path

import pytest
from run_building import RunBuilder, make_lease, make_run, make_trajectory

from common.cli import main as loop
from common.errors import RunError, UsageError
from common.evaluation import resampled
from learner.report.cli import main
from learner.report.gather import gather
from learner.report.page import SCRIPTS
from learner.report.sections import by_step
from learner.report.transcripts import _span

EVIL = "print('</script><script>alert(1)</script><img src=x onerror=alert(2)>')"


def report(capsys, run, *words):
    """What `--json` says, and the page."""
    assert main([str(run), "--json", *map(str, words)]) == 0
    facts = json.loads(capsys.readouterr().out)
    return facts, Path(facts["report"]).read_text(encoding="utf-8")


def unpacked(page, name):
    text = re.search(rf'<script type="application/octet-stream" id="{name}">([^<]*)</script>', page)[1]
    return json.loads(gzip.decompress(base64.b64decode(text)))


def column(index, name):
    values = index["columns"][name]
    return values if isinstance(values, list) else [values["values"][row] for row in values["rows"]]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("report") / "small")


def test_every_trajectory_of_the_run_is_in_the_page_with_its_fate_and_failed_tests(run, capsys):
    facts, page = report(capsys, run)
    index = unpacked(page, "index")
    # 4 steps of 3 groups of 3, and 2 evaluations of 8
    assert facts["trajectories"] == facts["of"] == index["count"] == 36 + 16
    assert facts["damage"] == []
    rows = dict(zip(column(index, "id"), range(index["count"]), strict=True))
    at = rows["g00021.2.0"]
    assert column(index, "state")[at] == "trained"
    assert column(index, "step")[at] == 2
    assert column(index, "lag")[at] == 1  # sampled by version 0, trained on by the learner at version 1
    assert column(index, "failures")[at] == "assert answer matches\nassert step 2 <b>is done</b>"
    assert column(index, "state")[rows["g00022.0.0"]] == "dropped: no_signal"
    assert column(index, "difficulty")[at] == 2
    told = unpacked(page, f"block-{index['block'][at]}")
    trajectory = told["trajectories"][index["place"][at]]
    assert "".join(trajectory["u"][0]["p"]) == "n = 1  # é\nprint(n)<|im_end|>"
    assert trajectory["u"][0]["c"] == [0, 19]
    assert trajectory["u"][0]["v"] == 0
    assert trajectory["u"][1]["v"] == 1
    assert len(trajectory["u"][0]["l"]) == len(trajectory["u"][0]["p"])
    assert set(trajectory["u"][0]["l"]) <= {-250 * number for number in range(1, 9)}
    assert "1<|im_end|>" in trajectory["u"][0]["s"]
    assert trajectory["u"][1]["s"] is None
    assert "Like the song 'Silver River'." in told["openings"][trajectory["o"]]


def test_a_place_in_a_text_is_counted_as_the_browser_counts():
    assert _span("\N{GRINNING FACE} print(1)", "print(1)") == [3, 11]
    assert _span("other", "print(1)") is None


def test_the_page_needs_nothing_from_elsewhere_and_its_policy_lets_nothing_else_run(run, capsys):
    _, page = report(capsys, run)
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)[1].replace("&#39;", "'")
    script = page[page.rindex("<script>") + 8 : page.rindex("</script>")]
    style = page[page.index("<style>") + 7 : page.index("</style>")]
    for text, name in ((script, "script-src"), (style, "style-src")):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{name} 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; ")
    assert re.findall(r"(?:https?:)?//[a-z]", page) == []
    assert re.findall(r'<[^>]*\s(?:src|style|on[a-z]+)="', page) == []
    assert len(SCRIPTS) == 4


def test_no_key_and_no_place_of_the_configuration_is_told(run, capsys):
    _, page = report(capsys, run)
    assert "leave_one_out" in page
    assert "a/secret/place" not in page
    assert "x/train" not in page


def test_what_a_policy_printed_never_becomes_html(tmp_path, capsys):
    made = RunBuilder(tmp_path / "run")
    lease = make_lease("g1", 0, "likeSong_1")
    evil = make_trajectory(lease, made.prompt, instruction=EVIL, turns=[(EVIL, EVIL)], failures=[EVIL], reward=0.0)
    made.group("g1", [evil, make_trajectory(make_lease("g1", 1, "likeSong_1"), made.prompt)], step=1)
    made.metrics.write("evaluation", label=EVIL, policy_version=0, tgc=0, sgc=0, mean_reward=0, by_scenario={EVIL: {}})
    _, page = report(capsys, made.done())
    assert "&lt;script&gt;alert(1)" in page
    assert "<img" not in page
    assert page.count("<script") == 3  # index, one block, the page's own
    assert EVIL in "".join(unpacked(page, "block-0")["trajectories"][0]["u"][0]["p"])


def test_the_books_and_the_figures_are_those_of_the_run(run, capsys):
    _, page = report(capsys, run)
    assert "<dd>balance</dd>" in page
    assert re.search(r'<th scope="row">trained</th><td>24</td>', page)
    assert re.search(r'<th scope="row">dropped: no signal</th><td>12</td>', page)
    assert re.search(r'<th scope="row">evaluated</th><td>16</td>', page)
    assert "0.0% → 50.0%" in page
    # TGC before and after at each difficulty: the scenario of difficulty 1 alone was learned
    assert re.search(r'<th scope="row">difficulty 1</th><td>0.0% \([^)]*\)</td><td>100.0%', page)
    assert re.search(r'<th scope="row">difficulty 2</th><td>0.0% \([^)]*\)</td><td>0.0%', page)
    assert re.search(r'<th scope="row">1</th><td>60</td><td>40</td><td>0.40</td>', page)


def test_a_steps_interval_is_of_its_groups_and_its_mean_that_of_the_metrics(run):
    found = gather(run)
    made = by_step(found.training, [1, 2, 3, 4], lambda one: one.reward)
    means = {step["step"]: step["mean_reward"] for step in found.figures.steps}
    assert {step: round(value[0], 9) for step, value in made.items()} == {s: round(m, 9) for s, m in means.items()}
    assert made[2][1:] == tuple(resampled([2.25, 2.25, 2.25], [3, 3, 3]))


def test_of_more_trajectories_than_allowed_whole_groups_are_drawn_and_the_page_says_so(run, capsys):
    facts, page = report(capsys, run, "--trajectories", 20, "--seed", 5)
    index = unpacked(page, "index")
    assert facts["trajectories"] == index["count"] == 20
    sizes = {}
    for group, kind in zip(column(index, "group"), column(index, "set"), strict=True):
        sizes.setdefault(kind == "train", {}).setdefault(group, []).append(1)
    assert {len(members) for members in sizes[True].values()} == {3}
    assert "20 of 52 trajectories are here: whole groups, drawn at random with seed 5" in page
    again, _ = report(capsys, run, "--trajectories", 20, "--seed", 5)
    assert again["bytes"] == facts["bytes"]
    other = unpacked(report(capsys, run, "--trajectories", 20, "--seed", 6)[1], "index")
    assert column(other, "id") != column(index, "id")
    assert "<td>24</td>" in page  # the books are of the whole run


def test_the_text_of_trajectories_is_bounded(run, capsys, monkeypatch):
    from learner.report import pack

    monkeypatch.setattr(pack, "BLOCK_TRAJECTORIES", 5)
    whole, page = report(capsys, run)
    assert whole["blocks"] > 5
    blocks = pack.Blocks(2000)
    for number in range(30):
        text = hashlib.sha256(str(number).encode()).hexdigest() * 3
        told = {"o": text, "u": [{"p": [text], "l": [-1], "v": 0, "s": None}]}
        blocks.add([(f"rollout {number}", told)])
    blocks.finish()
    assert blocks.full
    assert 0 < sum(map(len, blocks.texts)) <= 2000
    assert len(blocks.kept) == 5 * len(blocks.texts)
    index = unpacked(page, "index")
    ids = set()
    for block in range(whole["blocks"]):
        ids |= {(block, place) for place in range(len(unpacked(page, f"block-{block}")["trajectories"]))}
    assert ids == set(zip(index["block"], index["place"], strict=True))


def test_a_run_that_has_just_begun_has_a_report_that_says_so(tmp_path, capsys):
    folder = tmp_path / "run"
    RunBuilder(folder).done()
    facts, page = report(capsys, folder)
    assert facts["of"] == 0
    for told in (
        "No step was made yet",
        "No evaluation was made",
        "No trajectory was recorded yet",
        "Nothing was rolled",
    ):
        assert told in page
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "metrics.jsonl").write_text("")
    assert "This run has no ledger." in report(capsys, bare)[1]


def test_what_is_no_run_is_refused(tmp_path, capsys):
    with pytest.raises(UsageError, match=r"not a run's folder: it has neither metrics.jsonl nor ledger.sqlite"):
        main([str(tmp_path)])
    with pytest.raises(UsageError, match="no such folder"):
        main([str(tmp_path / "absent")])
    assert loop(["report", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_run_of_an_older_version_is_refused_by_its_ledger_and_read_where_its_lines_lack_something(tmp_path, capsys):
    run = make_run(tmp_path / "run", steps=1)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        for name in ("ratios", "seconds", "lags", "tgc_interval", "newest_version", "by_scenario", "mean_turns"):
            line.pop(name, None)
    torn = b'{"event": "step", "st'
    text = "\n".join(["no JSON at all", *map(json.dumps, lines)]).encode() + b"\n" + torn
    (run / "metrics.jsonl").write_bytes(text)
    assert "This run recorded no ratios." in report(capsys, run)[1]
    database = sqlite3.connect(run / "ledger.sqlite")
    database.execute("PRAGMA user_version=1")
    database.close()
    with pytest.raises(RunError, match="ledger of schema 1, this version reads 2"):
        main([str(run)])
    assert loop(["report", str(run)]) == 1
    (run / "ledger.sqlite").write_bytes(b"no database at all" * 100)
    with pytest.raises(RunError, match="cannot be opened as a ledger"):
        main([str(run)])


def test_a_torn_frame_and_one_of_another_version_are_named_and_the_rest_is_shown(tmp_path, capsys):
    run = make_run(tmp_path / "run", steps=1)
    file = run / "journal" / "000001.frames"
    file.write_bytes(file.read_bytes().replace(b"world_seconds", b"world_secondz", 1)[:-7])
    facts, page = report(capsys, run)
    assert facts["trajectories"] == facts["of"] == 25 - 2
    assert "journal/000001.frames: the frame at byte 0 cannot be read: KeyError(&#39;world_seconds&#39;)" in page
    assert "is not whole" in page


def test_without_a_tokenizer_the_stored_numbers_are_shown(tmp_path, capsys):
    run = make_run(tmp_path / "run", steps=1)
    (run / "model" / "tokenizer.json").unlink()
    facts, page = report(capsys, run)
    assert facts["trajectories"] == facts["of"]
    assert "Tokens are shown as their numbers: " in page
    assert "Behaviour cannot be counted without" in page
    pieces = unpacked(page, "block-0")["trajectories"][0]["u"][0]["p"]
    assert all(piece.strip().isdecimal() for piece in pieces)
    with pytest.raises(UsageError, match="no such file"):
        main([str(run), "--model", str(tmp_path)])


def test_a_report_that_cannot_be_written_leaves_nothing(run, tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(RunError, match=r"cannot be written: .*; name another place with --out"):
        main([str(run), "--out", str(tmp_path / "folder")])
    assert list(tmp_path.iterdir()) == [tmp_path / "folder"]


def test_a_person_is_told_where_it_is_and_how_large(run, capsys):
    assert main([str(run)]) == 0
    out = capsys.readouterr().out
    assert f"{run / 'report.html'}: 0." in out
    assert "52 of 52 trajectories to read" in out
