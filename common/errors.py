"""The two ways in which the system says no to a person; everything else is a defect and keeps its traceback."""

from __future__ import annotations


class UsageError(Exception):
    """Bad input or configuration: one line that says what was wrong, where, and what to do. Exit code 2."""


class RunError(Exception):
    """Something failed while running: one line that says what, where, and what to do. Exit code 1."""
