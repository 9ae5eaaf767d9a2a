"""Published numbers: one file, `paper_tables/reported.csv`, each row with its source, and with what is doubtful about it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import pandas as pd

from mddbench.errors import InputError
from mddbench.metrics.names import SEVEN

FIELDS = ("dataset", "method", "category", "setting", "epochs", *SEVEN, "source", "doubt")
MEAN = "mean"


@dataclass(frozen=True)
class Published:
    """A published row. values: metric -> value in [0, 1], those that the source gives; epochs: as it says them, '' if not;
    doubt: what speaks against the row, '' if nothing does.
    """

    dataset: str
    method: str
    category: str
    setting: str
    epochs: str
    values: dict[str, float]
    source: str
    doubt: str = ""


def find(dataset: str, method: str, source: str, epochs: str, setting: str) -> dict[str, Published]:
    """Category, or 'mean' -> the one row of a source, which is named by how it begins, without doubtful ones.

    Raises InputError if several rows of a category fit: the words do not say which is meant.
    """
    found: dict[str, Published] = {}
    for row in load_reported():
        fits = (row.dataset, row.method, row.epochs, row.setting) == (dataset, method, epochs, setting)
        if fits and row.source.startswith(source) and not row.doubt:
            if row.category in found and found[row.category].values != row.values:
                raise InputError(
                    f"{dataset}, {method}: two rows of '{row.category}' begin with source '{source}' at epochs '{epochs}'; "
                    "say more of it"
                )
            found.setdefault(row.category, row)
    return found


def category_count(dataset: str) -> int:
    """Of how many categories sources report a dataset; 0 if they tell means only."""
    return len({row.category for row in load_reported() if row.dataset == dataset and row.category != MEAN})


def means(dataset: str, setting: str) -> list[Published]:
    """The rows of a dataset's means under a setting, without doubtful ones, and without those that repeat another's numbers."""
    rows: dict[tuple[str, str, tuple[tuple[str, float], ...]], Published] = {}
    for row in load_reported():
        if (row.dataset, row.setting, row.category) == (dataset, setting, MEAN) and not row.doubt:
            rows.setdefault((row.method, row.epochs, tuple(sorted(row.values.items()))), row)
    return list(rows.values())


@lru_cache
def load_reported() -> tuple[Published, ...]:
    """All published rows. Raises InputError if the file is not as it should be."""
    return tuple(parse(Path(str(files("mddbench.paper_tables"))) / "reported.csv"))


def parse(file: Path) -> Iterable[Published]:
    """The rows of a file. Raises InputError, naming the line, for a value that is none."""
    table = pd.read_csv(file, dtype=str, keep_default_na=False)
    if tuple(table.columns) != FIELDS:
        raise InputError(f"{file.name}: expected the columns {', '.join(FIELDS)}, found {', '.join(table.columns)}")
    for number, row in enumerate(table.to_dict("records"), 2):
        values = {key: _value(row[key], f"{file.name}, line {number}: {key}") for key in SEVEN if row[key]}
        if not row["source"] or not values or row["setting"] not in ("unified", "separate"):
            raise InputError(f"{file.name}, line {number}: expected a source, a value and a setting; found {row}")
        rest = {key: row[key] for key in FIELDS if key not in SEVEN}
        yield Published(**rest, values=values)


def _value(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 100:
        raise InputError(f"{where}: expected a percentage, found {text!r}")
    return value / 100
