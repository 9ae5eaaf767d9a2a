"""Bounds of what a record may hold, so that one from outside can always be shown."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

LONGEST_NAME = 100
LONGEST_TEXT = 10_000
DEEPEST = 8
"""Levels of nested values."""
LARGEST = 3.5e38
"""Largest absolute value of a number: a little more than float32 can hold."""
MOST_COST = 1e18
"""Largest cost in its own unit: seconds, bytes or operations."""
Natural = Annotated[int, Field(ge=0, le=2**63)]
Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]
Category = Annotated[str, Field(min_length=1, max_length=255)]


def small_value(value: Any) -> Any:
    """Check that a table can show a nested value.

    A ValueError is raised if it is nested too deeply, or holds a text that is too long or a number that is too large.

    Args:
        value: A JSON value.

    Returns:
        The same value.
    """
    _check(value, DEEPEST)
    return value


def _check(value: Any, depth: int) -> None:
    if depth == 0:
        raise ValueError(f"expected at most {DEEPEST} levels within each other")
    if isinstance(value, str) and len(value) > LONGEST_TEXT:
        raise ValueError(f"expected texts of at most {LONGEST_TEXT} letters")
    if isinstance(value, int | float) and abs(value) > LARGEST:
        raise ValueError(f"expected numbers up to {LARGEST:g}")
    for inner in (
        (*value.keys(), *value.values()) if isinstance(value, dict) else value if isinstance(value, list) else ()
    ):
        _check(inner, depth - 1)
