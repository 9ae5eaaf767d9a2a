"""The processors that this process may use, which can be fewer than the machine has."""

from __future__ import annotations

import os


def usable_processors() -> tuple[int, ...]:
    """Their numbers; () where the system cannot tell."""
    return tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else ()


def processor_count() -> int:
    """How many they are; all of the machine's where the system cannot tell."""
    return len(usable_processors()) or os.cpu_count() or 1
