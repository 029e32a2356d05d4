"""What /metrics says of steps is what metrics.jsonl says, each step once."""

from common.measures import Counts, Split
from common.metrics import MetricsFile
from learner.gateway.step_counts import MOST_NAMES, StepCounts


def make_counts(folder):
    return MetricsFile(folder / "metrics.jsonl"), StepCounts(folder / "metrics.jsonl")


def write_step(metrics, step, **figures):
    whole = {
        "policy_version": step,
        "mean_reward": 0.5,
        "trajectories": 10,
        "groups": 4,
        "dropped": {"stale": 1, "no_signal": 2},
        "sampled_tokens": 100,
        "trained_tokens": 90,
        "optimizer_steps": 1,
        "refused": False,
        "loss": 0.25,
        "lags": {"0": 30, "2": 5},
        "ratios": {"ratio_mean": 1.5, "by_lag": {"0": {"ratio_mean": 9.0}}},
        "seconds": {"wait": 1.5, "publish": 0.5},
    }
    metrics.write("step", step=step, **{**whole, **figures})


def test_steps_are_summed_and_the_last_ones_figures_are_gauges(tmp_path):
    metrics, counts = make_counts(tmp_path)
    write_step(metrics, 1)
    metrics.write("rollouts", episodes_done=3)
    write_step(metrics, 2, loss=0.5, refused=True, mean_reward=0.75)
    found = counts.read()
    assert found["loop_learner_steps_total"] == 2
    assert found["loop_learner_steps_refused_total"] == 1
    assert found["loop_learner_trained_trajectories_total"] == 20
    assert found["loop_learner_forward_tokens_total"] == 180
    assert found["loop_learner_passed_over_total"] == Split({("stale",): 2, ("no_signal",): 4})
    assert found["loop_learner_step_seconds_total"] == Split({("wait",): 3.0, ("publish",): 1.0})
    assert found["loop_learner_token_lag_versions"] == Counts({0: 60, 2: 10})
    assert (found["loop_learner_loss"], found["loop_learner_mean_reward"]) == (0.5, 0.75)
    assert found["loop_learner_mean_policy_ratio"] == 1.5
    # not told in these steps
    assert found["loop_learner_mismatch_nats"] is None


def test_a_step_that_is_made_or_told_again_is_counted_once(tmp_path):
    metrics, counts = make_counts(tmp_path)
    for step in (1, 2, 2):
        write_step(metrics, step)
    assert counts.read()["loop_learner_steps_total"] == 2
    write_step(metrics, 2, loss=0.75)
    write_step(metrics, 3)
    found = counts.read()
    assert found["loop_learner_steps_total"] == 3
    assert found["loop_learner_trained_groups_total"] == 12


def test_a_restarted_gateway_counts_the_whole_run(tmp_path):
    metrics, counts = make_counts(tmp_path)
    for step in (1, 2, 3):
        write_step(metrics, step)
    assert counts.read() == StepCounts(tmp_path / "metrics.jsonl").read()


def test_online_evaluations_share_one_label_however_many_there_are(tmp_path):
    metrics, counts = make_counts(tmp_path)
    metrics.write("evaluation", label="before.t0", tgc=0.25, sgc=0.0)
    for version in range(5, 50, 5):
        metrics.write("evaluation", label=f"dev.v{version}", tgc=version / 100, sgc=0.0)
    assert counts.read()["loop_learner_evaluation_tgc_ratio"] == Split({("before.t0",): 0.25, ("dev",): 0.45})


def test_reports_of_reloads_are_counted_by_outcome(tmp_path):
    metrics, counts = make_counts(tmp_path)
    for accepted in (True, True, False):
        metrics.write("reload", actor="actor-0", policy_version=1, accepted=accepted)
    assert counts.read()["loop_learner_reload_reports_total"] == Split({("accepted",): 2, ("refused",): 1})


def test_a_run_without_steps_has_counts_of_none(tmp_path):
    found = StepCounts(tmp_path / "metrics.jsonl").read()
    assert found["loop_learner_steps_total"] == 0
    assert found["loop_learner_loss"] is None
    assert found["loop_learner_token_lag_versions"] == Counts({})


def test_foreign_lines_cost_nothing_but_themselves(tmp_path):
    metrics, counts = make_counts(tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(
            '{"event":"step"}\n{"event":"step","step":"x","dropped":3,"lags":[],"ratios":null}\n{"event":"step",\n'
        )
    write_step(metrics, 1, loss=None, lags={"-1": 4, "1": None})
    found = counts.read()
    assert found["loop_learner_steps_total"] == 1
    assert found["loop_learner_loss"] is None
    assert found["loop_learner_token_lag_versions"] == Counts({1: 0})


def test_labels_stay_few_whatever_the_file_names(tmp_path):
    metrics, counts = make_counts(tmp_path)
    write_step(metrics, 1, dropped={f"reason-{number}": 1 for number in range(1000)})
    assert len(counts.read()["loop_learner_passed_over_total"].values) == MOST_NAMES
