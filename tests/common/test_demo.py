"""What `loop demo` does before it starts anything; its whole way is tested in tests/system."""

import json

import pytest

from common import table
from common.config import all_sections, dump, load
from common.curve import draw
from common.demo import TINY, main
from common.errors import UsageError
from common.figures import collect
from common.processes import Children, ending, last_line


def evaluation(label, tgc):
    by_scenario = {"payFriend": {"tgc": tgc, "mean_reward": tgc, "tasks": 2}}
    figures = {"tgc": tgc, "sgc": tgc, "mean_reward": tgc, "by_scenario": by_scenario, "policy_version": 0}
    return {"event": "evaluation", "time": 1.0, "label": label, **figures}


def test_a_folder_that_holds_a_run_is_refused_and_resume_is_named(tmp_path):
    (tmp_path / "config.yaml").write_text(dump(load(all_sections(), TINY, [])))
    with pytest.raises(UsageError, match="a run is there already; go on with --resume"):
        main(["--run.folder", str(tmp_path)])


def test_resuming_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(UsageError, match="not the folder of a run"):
        main(["--resume", str(tmp_path)])


@pytest.mark.parametrize("option", ["--seed", "--resume"])
def test_a_shorthand_without_its_value_is_refused(option):
    with pytest.raises(UsageError, match=f"{option}: a value is missing"):
        main([option])


def test_an_unknown_option_of_any_part_is_refused_by_name():
    with pytest.raises(UsageError, match=r"did you mean '--learner\.rollout\.steps'"):
        main(["--learner.rollout.step", "3"])


def test_the_picture_is_drawn_for_a_run_without_any_step_too(tmp_path):
    for name, events in (("empty", []), ("evaluated", [evaluation("before.t0", 0.25)])):
        draw(collect(events), tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG"


def test_the_picture_holds_steps_that_trained_on_nothing(tmp_path):
    step = {"event": "step", "time": 2.0, "step": 1, "policy_version": 1, "lags": {}, "ratios": {}}
    draw(collect([{**step, "mean_reward": 0.5, "success_share": 0.25}]), tmp_path / "one.png")
    assert (tmp_path / "one.png").stat().st_size > 1000


def test_a_child_that_fails_is_known_by_its_last_words(tmp_path):
    children = Children()
    output = tmp_path / "child.out"
    process = children.start("child", ["json.tool", str(tmp_path / "none.json")], output=output)
    assert process.wait(30) == 2
    assert children.ended() == {"child": 2}
    assert "No such file" in last_line(output)
    assert ending("child", 2, output) == f"the child ended with exit code 2: {last_line(output)}"
    assert ending("child", -9, output) == "the child was ended by SIGKILL"


def test_stopping_ends_a_child_that_does_not_listen(tmp_path):
    script = "import signal,time,pathlib;signal.signal(signal.SIGTERM,signal.SIG_IGN);"
    ready = tmp_path / "ready"
    (tmp_path / "deaf.py").write_text(f"{script}pathlib.Path({json.dumps(str(ready))}).touch();time.sleep(600)")
    children = Children()
    process = children.start("deaf", ["deaf"], output=tmp_path / "out", environment={"PYTHONPATH": str(tmp_path)})
    while not ready.exists():
        assert process.poll() is None
    children.stop(0.2)
    assert process.returncode == -9


def test_a_list_beside_the_main_one_is_shown_beside_it_and_not_in_it(tmp_path, capsys):
    labels = ("after.t1", "after.t0", "before.t0", "before.t0.test_challenge", "after.t0.test_challenge", "before.t0.7")
    shares = (0.7, 0.75, 0.25, 0.1, 0.2, 0.3)
    online = {**evaluation("dev.v5", 0.42), "asked_version": 5, "policy_version": 5, "newest_version": 7}
    figures = collect([*(evaluation(label, share) for label, share in zip(labels, shares, strict=True)), online])
    assert list(figures.of_list()) == ["before.t0", "after.t0", "before.t0.7", "after.t1"]
    assert list(figures.of_list("test_challenge")) == ["before.t0.test_challenge", "after.t0.test_challenge"]
    assert figures.lists_beside == ["test_challenge"]
    table.show(figures, {}, 1.0, tmp_path)
    printed = capsys.readouterr().out
    normal, challenge = printed.split("held-out tasks (test_challenge)")
    assert "held-out tasks (test_normal)" in normal
    assert "75.0%" in normal
    assert "20.0%" not in normal
    assert "20.0%" in challenge
    assert "42.0%" not in normal
    assert list(figures.online) == [5]
    assert "5 to 7" in challenge.split("dev, on the way")[1]
    draw(figures, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 1000


def test_the_last_lines_tell_how_old_the_trained_tokens_were_over_all_steps(capsys, tmp_path):
    steps = [
        {"event": "step", "time": 2.0, "step": number, "policy_version": number, "lags": lags}
        for number, lags in enumerate(({"0": 30, "1": 10}, {"1": 50, "10": 10}, {}), start=1)
    ]
    figures = collect(steps)
    assert figures.lags == {0: 0.3, 1: 0.6, 10: 0.1}
    table.show(figures, {}, 1.0, tmp_path)
    assert "lag 0: 30.0%, lag 1: 60.0%, lag 10: 10.0%" in capsys.readouterr().out.replace("\n", " ")
    assert collect([{**steps[2], "lags": {}}]).lags == {}
