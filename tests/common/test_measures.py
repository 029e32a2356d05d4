"""Values as Prometheus has them: names, labels, buckets."""

import re

import pytest

import actor.gauges
import learner.gateway.gauges
from common.measures import Counts, Figures, Measure, Split, families, rows

TABLES = {"actor": actor.gauges.MEASURES, "learner": learner.gateway.gauges.MEASURES}
ALL = [pytest.param(side, measure, id=measure.name) for side, table in TABLES.items() for measure in table]
UNITS = ("seconds", "bytes", "ratio", "nats", "versions", "total", "info")


def told(measure, value, **labels):
    (family,) = families((measure,), Figures({measure.name: value}, labels))
    return {(sample.name, *sample.labels.values()): sample.value for sample in family.samples}


def test_a_gauge_has_the_labels_that_all_have():
    assert told(Measure("loop_x", "gauge", "x"), 2, run="tiny") == {("loop_x", "tiny"): 2}


def test_a_counter_keeps_its_name():
    split = Split({("finished",): 3.0, ("failed",): 1.0})
    assert told(Measure("loop_x_total", "counter", "x", ("outcome",)), split, run="tiny") == {
        ("loop_x_total", "tiny", "finished"): 3.0,
        ("loop_x_total", "tiny", "failed"): 1.0,
    }


def test_a_histograms_buckets_are_cumulative():
    measure = Measure("loop_lag_versions", "histogram", "lag", (), (0, 1, 4))
    assert told(measure, Counts({0: 5, 1: 3, 3: 2, 9: 1})) == {
        ("loop_lag_versions_bucket", "0"): 5,
        ("loop_lag_versions_bucket", "1"): 8,
        ("loop_lag_versions_bucket", "4"): 10,
        ("loop_lag_versions_bucket", "+Inf"): 11,
        ("loop_lag_versions_count",): 11,
        ("loop_lag_versions_sum",): 5 * 0 + 3 * 1 + 2 * 3 + 9,
    }


def test_what_is_not_known_has_no_sample():
    assert told(Measure("loop_x", "gauge", "x"), None) == {}


def test_a_value_without_its_measure_is_a_mistake():
    with pytest.raises(AssertionError, match="loop_y"):
        list(families((Measure("loop_x", "gauge", "x"),), Figures({"loop_y": 1.0})))


def test_a_row_says_all_of_a_measure():
    assert rows((Measure("loop_x_total", "counter", "what it is", ("outcome",)),))[-1] == (
        "| `loop_x_total` | counter | `outcome` | what it is |"
    )


@pytest.mark.parametrize(("side", "measure"), ALL)
def test_names_follow_prometheus_conventions(side, measure):
    assert re.fullmatch(rf"loop_{side}_[a-z]+(_[a-z]+)*", measure.name)
    assert measure.name.endswith("_total") == (measure.kind == "counter")
    assert bool(measure.bounds) == (measure.kind == "histogram")
    # a unit stands at the end, and seconds are never called ms
    words = measure.name.removesuffix("_total").split("_")
    assert all(word not in UNITS or word == words[-1] or words[-2:] == ["per", "second"] for word in words[3:])
    assert not {"ms", "milliseconds", "kb", "mb", "percent"} & set(words)


@pytest.mark.parametrize(("side", "measure"), ALL)
def test_no_label_grows_with_the_run(side, measure):
    assert set(measure.labels) <= {
        *("version", "protocol", "source", "outcome", "part", "state", "phase", "actor", "column", "detail", "reason"),
        "evaluation",
    }


def test_no_name_is_used_twice():
    names = [measure.name for table in TABLES.values() for measure in table]
    assert len(names) == len(set(names))
