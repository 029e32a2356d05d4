"""What a run's processes hold, read from /proc over minutes, and the rule that tells growth from noise.

A footprint is one look at a process: resident bytes, the private part of them, open files, threads. Who is who stands
in command lines; what an actor forks has its words, so the oldest of that name is the actor and the others its own.
"""

from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

# the name of a process by a word of its command line; the first that fits
ROLES = {
    "VLLM::": "engine",
    "learner.gateway.service": "gateway",
    "learner.trainer.loop": "trainer",
    "cli\0learner": "learner",
    "cli\0actor": "actor",
    "actor.world.host": "world host",
    "actor.world.grade": "grader",
}
SHARE, SLACK = 0.03, 4.0  # growth that is none: of what was held, and MiB
COUNT_SLACK = 4  # more open files or threads than before, count


@dataclass(frozen=True)
class Footprint:
    """One process at one moment, or several of one kind in sum."""

    resident: float  # MiB
    private: float  # MiB, anonymous memory alone
    descriptors: int
    threads: int


@dataclass
class Series:
    """Looks at one process, or one figure, in the order of time; `minutes` since the first look of all."""

    minutes: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, minute, value):
        self.minutes.append(minute)
        self.values.append(value)

    def fifth(self, number):
        """The median of a fifth of the looks, 0 to 4."""
        size = len(self.values) / 5
        return median(self.values[int(number * size) : max(int((number + 1) * size), int(number * size) + 1)])

    def growth(self):
        """From the second fifth to the last: the first is the warm-up."""
        return self.fifth(4) - self.fifth(1)

    def by_minute(self):
        """The median of each minute's looks."""
        found = {}
        for minute, value in zip(self.minutes, self.values, strict=True):
            found.setdefault(int(minute), []).append(value)
        return [round(median(values), 2) for _, values in sorted(found.items())]


def grows(series, *, share=SHARE, slack=SLACK):
    """Whether the last fifth lies above the second by more than a share of it and a slack."""
    return series.growth() > series.fifth(1) * share + slack


def descendants(roots):
    """Ids of processes and all their children, those of the roots first."""
    children = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError, ValueError):  # it ended meanwhile
            continue
        children.setdefault(parent, []).append(int(folder.name))
    found = list(roots)
    for pid in found:
        found += sorted(children.get(pid, []))
    return found


def role_of(pid):
    """What a process is in the run; empty when it is gone, "other" when it is none of those above."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""
    return next((role for word, role in ROLES.items() if word in words), "other" if words else "")


def footprint(pid):
    """What a process holds now; None when it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        descriptors = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    if "VmRSS" not in fields:  # a zombie holds nothing
        return None
    kilobytes = {name: int(fields[name].split()[0]) for name in ("VmRSS", "RssAnon")}
    return Footprint(kilobytes["VmRSS"] / 1024, kilobytes["RssAnon"] / 1024, descriptors, int(fields["Threads"]))


def footprints(roots):
    """By name: each long-lived process, and the short-lived ones of a kind in sum (`actor's own`, `world host's own`).

    A second process of a name is a fork of the first (a member of a group, a cell, vLLM's engine).
    """
    found = {}
    for pid in descendants(roots):
        role, held = role_of(pid), footprint(pid)
        if not role or held is None:
            continue
        if role in found:
            role = f"{role}'s own"
        before = found.get(role)
        if before is not None:
            pairs = ((getattr(before, name), getattr(held, name)) for name in vars(held))
            held = Footprint(*(one + other for one, other in pairs))
        found[role] = held
    return found
