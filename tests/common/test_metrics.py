from common.figures import collect
from common.metrics import MetricsFile, MetricsReader


def test_a_reader_sees_each_line_once_and_waits_for_an_unfinished_one(tmp_path):
    path = tmp_path / "metrics.jsonl"
    reader = MetricsReader(path)
    assert list(reader.new()) == []
    MetricsFile(path).write("step", step=1)
    assert [event["step"] for event in reader.new()] == [1]
    with path.open("a") as stream:
        stream.write('{"event":"st')
        stream.flush()
        assert list(reader.new()) == []
        stream.write('ep","step":2}\n')
    assert [event["step"] for event in reader.new()] == [2]
    assert list(reader.new()) == []


def test_a_broken_line_is_passed_over(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('nonsense\n[1]\n{"event":"step","step":7}\n')
    assert [event["step"] for event in MetricsReader(path).new()] == [7]


def step(number, at, version=None):
    return {"event": "step", "time": at, "step": number, "policy_version": version or number, "trajectories": 10}


def test_a_line_that_an_earlier_life_left_in_part_does_not_spoil_the_first_of_the_next(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"event":"step","time":1.0}\n{"event":"st')
    file = MetricsFile(path)
    file.write("step", step=2)
    file.close()
    assert [event.get("step") for event in MetricsReader(path).new()] == [None, 2]


def test_phases_are_summed_over_sessions_and_a_cut_session_ends_at_its_last_sign_of_life():
    events = [
        {"event": "session", "time": 0.0},
        {"event": "phase", "time": 1.0, "name": "evaluate_before"},
        {"event": "evaluation", "time": 5.0, "label": "before.t0", "tgc": 0.25},
        {"event": "phase", "time": 6.0, "name": "train"},
        step(1, 10.0),
        step(2, 14.0),
        {"event": "session", "time": 100.0},
        {"event": "phase", "time": 110.0, "name": "train"},
        step(2, 115.0),
        step(3, 120.0),
        {"event": "phase", "time": 121.0, "name": "evaluate_after"},
        {"event": "evaluation", "time": 125.0, "label": "after.t0", "tgc": 0.75},
        {"event": "phase", "time": 126.0, "name": "done"},
    ]
    figures = collect(events)
    assert figures.phase_seconds == {"evaluate_before": 5.0, "train": 8.0 + 11.0, "evaluate_after": 5.0}
    assert figures.success("before.t0") == 0.25
    assert figures.success("after.t0") == 0.75
    assert figures.success("after.t1") is None
    assert [event["step"] for event in figures.steps] == [1, 2, 3]
    assert figures.trajectories == 30
    assert figures.versions == 3


def test_a_run_without_events_has_figures_too():
    figures = collect([])
    assert figures.versions == 0
    assert figures.phase_seconds == {}
    assert figures.success("before.t0") is None
