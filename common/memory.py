"""How many bytes of this process are in use: what the C library has given out and not got back (stage 4).

The resident size is no measure of a queue: what was freed may stay in it for long.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path
from typing import Any


class _Mallinfo(ctypes.Structure):
    """`struct mallinfo2` of the GNU C library (2.33 and later)."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
        )
    ]  # fmt: skip


@cache
def _mallinfo() -> Any:
    function = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if function is not None:
        function.restype = _Mallinfo
    return function


def in_use() -> int:
    """Bytes; with another C library, those that are resident."""
    function = _mallinfo()
    if function is None:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    found = function()
    return int(found.uordblks) + int(found.hblkhd)
