"""Asking a process that serves /metrics and /health, found as Prometheus finds it: through the file in its run."""

import json
import time
import urllib.error
import urllib.request

from prometheus_client.parser import text_string_to_metric_families


def address_of(folder, name, *, goes_on=lambda: True):
    """Where a process of the run listens; waits for it as long as `goes_on` says."""
    file = folder / "exporters" / f"{name}.json"
    while not file.exists():
        assert goes_on()
        time.sleep(0.01)
    return json.loads(file.read_text())[0]["targets"][0]


def health(address):
    """The status, and what is said."""
    try:
        with urllib.request.urlopen(f"http://{address}/health", timeout=20) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def samples(address):
    """Values by name and the values of labels in the order of their names."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=20) as answer:
        text = answer.read().decode()
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
