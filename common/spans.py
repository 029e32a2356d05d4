"""Spans of time and sizes in words: 3m12s, 1.4 GiB."""

from __future__ import annotations

UNITS = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))
SIZES = ("bytes", "KiB", "MiB", "GiB", "TiB")


def span(seconds: float) -> str:
    """The two largest units that it has: 0.4s, 12s, 3m12s, 2h05m, 3d04h."""
    if seconds < 0.95:
        return f"{max(0.0, seconds):.1f}s"
    left = round(seconds)
    for place, (unit, worth) in enumerate(UNITS[:-1]):
        if left >= worth:
            below, of_it = UNITS[place + 1]
            return f"{left // worth}{unit}{left % worth // of_it:02d}{below}"
    return f"{left}s"


def size(count: float) -> str:
    """Bytes in the largest unit in which they are one or more."""
    for unit in SIZES[:-1]:
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} {SIZES[-1]}"
