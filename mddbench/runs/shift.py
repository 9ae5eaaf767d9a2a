"""Results on changed test images, in a file beside the record of a finished cell."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from mddbench.errors import InputError
from mddbench.metrics.names import MAD, MEAN, SEVEN
from mddbench.runs.bounds import LONGEST_NAME, Category
from mddbench.runs.records import Hash, Label, Record, Value
from mddbench.settings import Strict, read_json, validated

SHIFT = "shift.json"
"""Name of the file in a cell's folder and among a run's artifacts."""
Values = dict[Category, dict[Label, Value]]
"""'mean' and each category -> metric -> value; None where it is not defined."""
Level = Annotated[str, Field(pattern=r"^[1-9]$")]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z-]*$", max_length=LONGEST_NAME)]
AGAIN = "remove it and run `mddbench shift` again"


class Shifts(Strict):
    """What a finished model does on changed test images.

    Attributes:
        version: Version of the format.
        changes_version: Version of the changes.
        model_sha256: Hash of the learned tensors.
        fingerprint: Fingerprint of the dataset.
        metrics: Version of the metrics.
        clean: The values on the images as they are.
        changed: Name of a change -> level -> the values on the changed images.
    """

    version: Literal[1] = 1
    changes_version: int
    model_sha256: Hash
    fingerprint: Hash
    metrics: Annotated[str, Field(max_length=LONGEST_NAME)]
    clean: Values
    changed: dict[Name, dict[Level, Values]] = Field(default_factory=dict)

    @property
    def points(self) -> tuple[tuple[str, int], ...]:
        """The changes and levels that were measured, in the order of the file."""
        return tuple((change, int(level)) for change, levels in self.changed.items() for level in levels)

    def of(self, point: tuple[str, int] | None) -> Values:
        """Return the values at a change and level; those of the images as they are for None."""
        return self.clean if point is None else self.changed[point[0]][str(point[1])]

    def value(self, point: tuple[str, int] | None, key: str, group: str = MEAN) -> float:
        """Return the value of a metric.

        Args:
            point: A change and a level of `points`; None for the images as they are.
            key: Key of the metric.
            group: 'mean' or the name of a category.

        Returns:
            The value, NaN if it is not defined or was not measured.
        """
        value = self.of(point).get(group, {}).get(key)
        return math.nan if value is None else value

    def belongs_to(self, record: Record) -> bool:
        """True if these are values of a record's model on the record's data and categories."""
        same = (self.model_sha256, self.fingerprint) == (record.model_sha256, record.fingerprint)
        return same and all(set(values) == {MEAN, *record.categories} for values in self._all())

    def with_point(self, point: tuple[str, int], values: Values) -> Shifts:
        """Return the same results and those of one more change and level."""
        change, level = point
        levels = {**self.changed.get(change, {}), str(level): values}
        return self.model_copy(update={"changed": {**self.changed, change: dict(sorted(levels.items()))}})

    def _all(self) -> Iterable[Values]:
        return (self.clean, *(values for levels in self.changed.values() for values in levels.values()))

    def lacks(self) -> str:
        """Name a metric that should be there and is not; '' if all are."""
        for values in self._all():
            for group, row in values.items():
                expected = (*SEVEN, *((MAD.key,) if group == MEAN else ()))
                missing = [key for key in expected if key not in row]
                if missing:
                    return f"{missing[0]} of {group}"
        return ""


def write_shifts(shifts: Shifts, file: Path) -> None:
    """Write results whole or not at all.

    Args:
        shifts: The results.
        file: The file.
    """
    partial = file.with_name(f"{file.name}.part")
    partial.write_text(json.dumps(shifts.model_dump(), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(partial, file)


def load_shifts(file: Path) -> tuple[Shifts]:
    """Read a file of `write_shifts`, of any origin. Its content is checked.

    Args:
        file: The file.

    Returns:
        The results, as the one element of a tuple.

    Raises:
        InputError: If it cannot be used. The message is one line.
    """
    shifts = validated(Shifts, read_json(file, "results on changed images", AGAIN), str(file))
    if lacking := shifts.lacks():
        raise InputError(f"{file}: expected results on changed images, found none for {lacking}; {AGAIN}")
    return (shifts,)
