"""The dashboard, the page of metrics and what both sides export say the same."""

import asyncio
import json
import re
from pathlib import Path
from types import SimpleNamespace

import metrics_page
import pytest
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

import actor.gauges
import learner.gateway.gauges
from actor.concurrency import Concurrency, Load
from actor.slots import Slots
from actor.standing import Standing
from actor.tally import Tally
from common.exporter import Exporter
from common.metrics import MetricsFile
from common.metrics_config import MetricsConfig
from common.pulse import Pulse
from common.status_messages import Status
from learner.gateway.step_counts import StepCounts

ROOT = Path(__file__).resolve().parents[2]
BOARD = json.loads((ROOT / "configs" / "dashboards" / "loop.json").read_text(encoding="utf-8"))
PAGE = metrics_page.FILE.read_text(encoding="utf-8")
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
NAME = re.compile(r"\b(?:loop|process)_[a-z_]+\b")
QUERIES = [
    *(target["expr"] for panel in PANELS for target in panel["targets"]),
    *(one["definition"] for one in BOARD["templating"]["list"] if one["type"] == "query"),
]
MATCHERS = re.compile(r"\b([a-z_]+)\{([^}]*)\}")  # a metric and what of it is taken
MATCHER = re.compile(r'([a-z_]+)(=~|!~|!=|=)"([^"]*)"')
GROUPING = re.compile(r"\b(by|without|on|ignoring|group_left|group_right) ?\(([^)]*)\)")
LEGEND = re.compile(r"\{\{ *(\w+) *\}\}")
VARIABLE = re.compile(r"\$\{?(\w+)")
OF_PROMETHEUS = {"instance", "job", "process"}  # labels that it gives by itself, or from exporters/NAME.json
OF_GRAFANA = {"__rate_interval"}
# units as Grafana names them
KNOWN_UNITS = {"none", "s", "bytes", "percentunit"}


def of_actor(folder):
    """An actor's registry, with a value for all that it may have."""
    leases = SimpleNamespace(waiting_for="", withheld="", running=1, ids=("a", "b"))
    standing, tally = Standing(leases), Tally()
    standing.outbox = SimpleNamespace(ids=("t",), size=10, waiting_for="")
    standing.versions = SimpleNamespace(target=3)
    standing.slots = Slots(Concurrency(1, 4, 0.9))
    standing.policy = SimpleNamespace(version=2, sampled_tokens=7)
    tally.load, tally.probe_difference = Load(0.5, 1, running=2), 1e-6
    gauges = actor.gauges.Gauges("actor-0", folder, standing, tally, lambda: 0.0)
    asyncio.run(gauges._ask_disk())
    pulse = Pulse("actor", gauges.look())
    return Exporter(MetricsConfig(), folder, "actor-0", actor.gauges.MEASURES, pulse).registry


def of_learner(folder, status):
    """The learner's registry, likewise."""
    metrics = MetricsFile(folder / "metrics.jsonl")
    ratios = dict.fromkeys(("ratio_mean", "ratio_max", "clip_share", "kl_k3", "ess", "entropy"), 0.5)
    means = dict.fromkeys(("mean_reward", "success_share", "mean_turns", "loss", "gradient_norm", "learning_rate"), 0.5)
    seconds, mismatch = {"wait": 1.0}, {"mismatch": {"mean": 1e-6}}
    more = {"dropped": {"stale": 1}, "lags": {"1": 5}, "ratios": ratios, "recomputed": mismatch, "seconds": seconds}
    metrics.write("step", step=1, **means, **more)
    metrics.write("evaluation", label="before.t0", tgc=0.5, sgc=0.25)
    metrics.close()
    counts = StepCounts(folder / "metrics.jsonl")
    pulse = Pulse("learner.gateway", learner.gateway.gauges.figures_of(status))
    table = learner.gateway.gauges.MEASURES
    return Exporter(MetricsConfig(), folder, "learner", table, pulse, more=counts.read).registry


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """What both sides serve: labels with their values, by the samples' names."""
    folder, found = tmp_path_factory.mktemp("run"), {}
    for registry in (of_actor(folder), of_learner(folder, picture())):
        for family in text_string_to_metric_families(generate_latest(registry).decode()):
            for sample in family.samples:
                for label, value in sample.labels.items():
                    found.setdefault(sample.name, {}).setdefault(label, set()).add(value)
                found.setdefault(sample.name, {})
    return found


@pytest.fixture(scope="module")
def exported(samples):
    """Names of samples that have a value, of both sides."""
    return set(samples)


def picture():
    """A status with an actor, a group and books, out of the messages' own examples."""

    def example(model):
        return model(
            **{name: field.examples[0] for name, field in model.model_fields.items() if field.examples is not None}
        )

    actors = (example(Status.model_fields["actors"].annotation.__args__[0]),)
    groups = (example(Status.model_fields["oldest_groups"].annotation.__args__[0]),)
    books = example(Status.model_fields["books"].annotation)
    return example(Status).model_copy(update={"actors": actors, "oldest_groups": groups, "books": books})


def test_every_metric_in_the_dashboard_is_exported(exported):
    named = {name for query in QUERIES for name in NAME.findall(query)}
    assert len(named) > 60
    assert named - exported == set()


def test_every_metric_exported_is_in_the_dashboard_or_on_the_page(exported):
    written = set(NAME.findall(" ".join(QUERIES))) | set(NAME.findall(PAGE))
    parts = ("_bucket", "_sum", "_count")
    families = {next((name.removesuffix(part) for part in parts if name.endswith(part)), name) for name in exported}
    assert families - written == set()


def test_every_measure_in_the_tables_has_a_value_somewhere(exported):
    tables = {measure.name for measure in (*actor.gauges.MEASURES, *learner.gateway.gauges.MEASURES)}
    assert {name for name in tables if name not in exported and f"{name}_count" not in exported} == set()


def test_every_measure_of_ours_is_drawn():
    drawn = " ".join(QUERIES)
    tables = {measure.name for measure in (*actor.gauges.MEASURES, *learner.gateway.gauges.MEASURES)}
    assert {name for name in tables if name not in drawn} == set()


def test_the_pages_tables_are_those_of_the_code():
    """To renew them: PYTHONPATH=. python tests/common/metrics_page.py"""
    assert PAGE.split(metrics_page.MARK)[1] == metrics_page.tables()


def test_the_dashboard_has_its_rows_and_each_panel_its_unit_and_words():
    rows = [panel["title"] for panel in BOARD["panels"] if panel["type"] == "row"]
    assert rows == ["Health", "Learning", "Staleness", "Throughput", "Worlds", "Books", "Disks and memory"]
    for panel in PANELS:
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"] in KNOWN_UNITS
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["targets"]
        assert all(target["legendFormat"] for target in panel["targets"])


def test_the_dashboard_can_be_imported_anywhere():
    """No datasource, no id of another Grafana; panels have ids of their own and do not overlap."""
    assert "id" not in BOARD
    assert [one["name"] for one in BOARD["templating"]["list"]] == ["datasource", "run", "actor"]
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])
    taken = set()
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells


def test_expressions_are_balanced_and_filter_by_run():
    for query in QUERIES:
        for opening, closing in ("()", "{}", "[]"):
            assert query.count(opening) == query.count(closing), query
        assert 'run=~"$run"' in query or query == "label_values(loop_learner_step, run)"


def test_every_label_that_is_asked_for_is_served_with_its_metric(samples):
    asked = [(query, *found) for query in QUERIES for found in MATCHERS.findall(query)]
    assert len(asked) > 80
    for query, name, matchers in asked:
        taken = MATCHER.findall(matchers)
        assert MATCHER.sub("", matchers).strip(", ") == "", query
        assert {label for label, _, _ in taken} <= samples[name].keys(), query
        for label, sign, value in taken:
            if sign == "=":
                assert value in samples[name][label], query


def test_every_label_that_is_grouped_by_or_shown_is_served_by_a_metric_of_its_expression(samples):
    shown = 0
    for target in (target for panel in PANELS for target in panel["targets"]):
        query = target["expr"]
        served = set().union(*(samples[name].keys() for name in NAME.findall(query))) | OF_PROMETHEUS
        grouped = [(kind, {word.strip() for word in labels.split(",")}) for kind, labels in GROUPING.findall(query)]
        for _, labels in grouped:
            assert labels <= served, query
        kept = served
        if query.split(" ")[:2][-1] == "by":  # the outermost: no other label is left
            kept = grouped[0][1]
        shown += len(LEGEND.findall(target["legendFormat"]))
        assert set(LEGEND.findall(target["legendFormat"])) <= kept, query
    assert shown > 30


def test_the_dashboard_has_what_an_import_wants():
    """https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/."""
    assert BOARD["schemaVersion"] >= 36  # datasources are named by type and uid since then
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,40}", BOARD["uid"])
    assert BOARD["title"]
    assert "__inputs" not in BOARD, "a variable says which Prometheus, so nothing is asked for at the import"
    ids = [panel["id"] for panel in BOARD["panels"]]
    assert all(type(one) is int and one > 0 for one in ids)
    assert len(set(ids)) == len(ids)
    for panel in PANELS:
        letters = [target["refId"] for target in panel["targets"]]
        assert len(set(letters)) == len(letters), panel["title"]
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}
        assert panel["type"] in ("stat", "timeseries", "heatmap")


def test_variables_are_defined_before_they_are_used_and_the_first_chooses_a_prometheus():
    first, *queried = BOARD["templating"]["list"]
    assert (first["name"], first["type"], first["query"]) == ("datasource", "datasource", "prometheus")
    known = {first["name"]}
    for variable in queried:
        assert variable["type"] == "query"
        assert variable["query"]["query"] == variable["definition"]
        assert set(VARIABLE.findall(variable["definition"] + variable["datasource"]["uid"])) <= known
        known.add(variable["name"])
    assert set(VARIABLE.findall(json.dumps(BOARD["panels"]))) <= known | OF_GRAFANA


def test_a_variables_values_are_those_of_a_label(samples):
    for definition in (one["definition"] for one in BOARD["templating"]["list"] if one["type"] == "query"):
        name, label = re.fullmatch(r"label_values\((\w+)(?:\{.*\})?, (\w+)\)", definition).groups()
        assert label in samples[name]
