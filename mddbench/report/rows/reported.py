"""Published numbers from `paper_tables/reported.csv`. Each row names its source, and any doubt about it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.resources import files
from pathlib import Path

from mddbench.errors import InputError
from mddbench.metrics.names import MEAN, SEVEN

SETTINGS = ("unified", "separate", "unified, category given", "several datasets")
"""One model for all categories; one for each; one that is told the category at test; one for several datasets."""
FIELDS = ("dataset", "method", "category", "setting", "epochs", *SEVEN, "source", "doubt")


def paper_tables() -> Path:
    """Return the folder of the table specs and the published numbers."""
    return Path(str(files("mddbench.paper_tables")))


@dataclass(frozen=True)
class Published:
    """A published row.

    Attributes:
        dataset: Name of the dataset.
        method: Name of the method.
        category: Name of the category, or 'mean'.
        setting: One of SETTINGS.
        epochs: Number of epochs in the words of the source; empty if it does not say.
        values: Metric -> value in [0, 1], as far as the source has them.
        source: Where the numbers come from.
        doubt: What speaks against the row; empty if nothing does.
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
    """Find the rows of one source. Doubtful rows do not count.

    Args:
        dataset: Name of the dataset.
        method: Name of the method.
        source: Start of the source's text.
        epochs: Number of epochs in the words of the source.
        setting: 'unified' or 'separate'.

    Returns:
        Category, or 'mean' -> row.

    Raises:
        InputError: If several rows of a category fit, so that `source` does not say which is meant.
    """
    rows: dict[str, Published] = {}
    for row in load_reported():
        fits = (row.dataset, row.method, row.epochs, row.setting) == (dataset, method, epochs, setting)
        if fits and row.source.startswith(source) and not row.doubt:
            if row.category in rows and rows[row.category].values != row.values:
                raise InputError(
                    f"{dataset}, {method}: two rows of '{row.category}' begin with source '{source}' at epochs '{epochs}'; "
                    "say more of it"
                )
            rows.setdefault(row.category, row)
    return rows


def category_count(dataset: str) -> int:
    """Count the categories that sources report for a dataset.

    Args:
        dataset: Name of the dataset.

    Returns:
        The number; 0 if they report means only.
    """
    return len({row.category for row in load_reported() if row.dataset == dataset and row.category != MEAN})


def means(dataset: str, setting: str) -> list[Published]:
    """Find the published means of a dataset.

    Args:
        dataset: Name of the dataset.
        setting: 'unified' or 'separate'.

    Returns:
        The rows, without doubtful rows and repeated numbers.
    """
    rows: dict[tuple[str, str, tuple[tuple[str, float], ...]], Published] = {}
    for row in load_reported():
        if (row.dataset, row.setting, row.category) == (dataset, setting, MEAN) and not row.doubt:
            rows.setdefault((row.method, row.epochs, tuple(sorted(row.values.items()))), row)
    return list(rows.values())


@lru_cache
def load_reported(file: Path | None = None) -> tuple[Published, ...]:
    """Load published rows.

    Args:
        file: CSV file with the columns FIELDS and metrics in percent; None for the package's own.

    Returns:
        The rows.

    Raises:
        InputError: If a line does not fit. The message names the line.
    """
    rows = []
    percentage = partial(checked_number, expected="a percentage", fits=lambda value: 0 <= value <= 100)
    for line, row in csv_rows(file or paper_tables() / "reported.csv", FIELDS):
        values = {key: percentage(row[key], f"{line}: {key}") / 100 for key in SEVEN if row[key]}
        if not row["source"] or not values or row["setting"] not in SETTINGS:
            raise InputError(f"{line}: expected a source, a value and a setting; found {row}")
        rest = {key: row[key] for key in FIELDS if key not in SEVEN}
        rows.append(Published(**rest, values=values))
    return tuple(rows)


def csv_rows(file: Path, fields: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Read a CSV file.

    Args:
        file: The file.
        fields: The columns that it must have.

    Yields:
        The line of each row, for messages, and column -> text.

    Raises:
        InputError: If the columns are others.
    """
    import pandas as pd

    table = pd.read_csv(file, dtype=str, keep_default_na=False)
    if list(table.columns) != list(fields):
        raise InputError(f"{file.name}: expected the columns {', '.join(fields)}, found {', '.join(table.columns)}")
    for number, row in enumerate(table.to_dict("records"), 2):
        yield f"{file.name}, line {number}", {str(key): str(text) for key, text in row.items()}


def checked_number(text: str, cell: str, expected: str, fits: Callable[[float], bool]) -> float:
    """Read a number from a cell.

    Args:
        text: Text of the cell.
        cell: Name of the cell, for the error message.
        expected: What is expected, for the error message.
        fits: True for an allowed number.

    Returns:
        The number.

    Raises:
        InputError: If there is no number, or if it is not allowed.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not fits(value):
        raise InputError(f"{cell}: expected {expected}, found {text!r}")
    return value
