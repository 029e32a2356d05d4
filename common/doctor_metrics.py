"""For `loop doctor`: where the figures of both sides are to be served (section `metrics`): the port, and who may read.

A run goes on without, so nothing here is an error but a port that the learner itself needs.
"""

from __future__ import annotations

import errno
import ipaddress
import json
import socket
from collections.abc import Collection
from pathlib import Path

from common.config import LinkConfig, is_loopback
from common.finding import Check, Finding, error, ok, warning
from common.metrics_config import MetricsConfig

EXPORTERS = "exporters"  # in the run's folder: a file for each process that serves
FILES = "exporters/NAME.json in the run's folder says which"


def metrics_checks(metrics: MetricsConfig, link: LinkConfig, run: Path, sides: Collection[str]) -> list[Check]:
    """Of what this machine is to be: `sides`."""
    return [
        Check("port for metrics", lambda: port(metrics, link if "learner" in sides else None, run)),
        Check("readers of metrics", lambda: readers(metrics)),
    ]


def port(metrics: MetricsConfig, learner: LinkConfig | None, run: Path) -> Finding:
    """Whether a process can serve its figures there. `learner`: where this machine's learner is to listen, if any."""
    host, number = metrics.host, metrics.port
    if not metrics.serve:
        return ok("none: metrics.serve is false")
    if learner is not None and number and number in (learner.port, learner.files_port):
        option = "link.port" if number == learner.port else "link.files_port"
        return error(f"metrics.port and {option} are both {number}", "give them different numbers")
    try:
        # as the exporter does
        socket.create_server((host, number), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as problem:
        return _cannot_listen(host, number, problem, run)
    return ok(f"{host}:{number} is free" if number else f"chosen when a process starts; {FILES}")


def _cannot_listen(host: str, number: int, problem: OSError, run: Path) -> Finding:
    if isinstance(problem, socket.gaierror) or problem.errno == errno.EADDRNOTAVAIL:
        text = f"{host} is not an address of this machine: no metrics will be served"
        return warning(text, "set metrics.host to one that it has (`ip address`), or metrics.serve to false")
    if problem.errno == errno.EADDRINUSE and (name := _exporter_at(run, number)):
        return ok(f"{host}:{number} is taken, as this run's {EXPORTERS}/{name}.json says")
    why = "another process listens there" if problem.errno == errno.EADDRINUSE else str(problem.strerror)
    remedy = f"let Prometheus read {EXPORTERS}/*.json (file_sd_configs), or choose another with --metrics.port"
    return warning(f"{host}:{number}: {why}; a free port is taken instead, {FILES}", remedy)


def _exporter_at(run: Path, number: int) -> str:
    """The process of this run that wrote down that it serves at this port; empty: none."""
    for file in sorted((run / EXPORTERS).glob("*.json")):
        try:
            targets = [target for group in json.loads(file.read_text(encoding="utf-8")) for target in group["targets"]]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if any(str(target).endswith(f":{number}") for target in targets):
            return file.stem
    return ""


def readers(metrics: MetricsConfig) -> Finding:
    """Who may read: there is no password, so loopback, or the address that this machine has in a closed network."""
    host = metrics.host
    if not metrics.serve or is_loopback(host):
        return ok("nobody: metrics.serve is false" if not metrics.serve else "this machine alone (loopback)")
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        remedy = "set metrics.host to 127.0.0.1, or to an address of a closed network"
        return warning(f"whoever reaches the address of {host}: there is no password", remedy)
    if address.is_private and not address.is_unspecified:
        return ok(f"whoever is in the network of {host}: there is no password")
    whose = "every network of this machine" if address.is_unspecified else f"{host}, which is no private network's"
    remedy = "set metrics.host to 127.0.0.1 if Prometheus is on this machine, else to its address in a closed network"
    return warning(f"whoever reaches {whose}: there is no password", remedy)
