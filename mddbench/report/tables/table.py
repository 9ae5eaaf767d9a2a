"""The one model of a table: Markdown, LaTeX, CSV and the page show the same cells."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from mddbench.metrics.names import COLUMNS, LABELS
from mddbench.report.rows.groups import PUBLISHED
from mddbench.runs.records import Record

DASH = "–"  # shown where there is no number
PLUS_MINUS = " ± "
LEGEND = f"Percent. ± is the standard deviation over n seeds; {DASH} is not defined or not measured."
"""The last note of a table of results. A page says it once."""
SLASH = " / "  # between the parts of a cell
Kind = Literal["text", "count", "percent", "cost"]
Mark = Literal["", "best", "second"]


@dataclass(frozen=True)
class Column:
    """A column behind the labels of the rows.

    Attributes:
        head: Its name in words.
        key: Its name in CSV.
        kind: What its cells hold. CSV has a second column with standard deviations behind one of percentages.
        parts: Names in CSV of the values that each cell holds; empty if it holds one.
    """

    head: str
    key: str
    kind: Kind = "percent"
    parts: tuple[str, ...] = ()

    @property
    def is_number(self) -> bool:
        """True if the column is aligned and sorted as numbers are."""
        return self.kind != "text"


METRIC_COLUMNS = tuple(Column(LABELS[key], key) for key in COLUMNS)
"""The columns of a table of all metrics."""


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: As it is printed.
        value: The number behind the text, in [0, 1] for percentages; None where there is none.
        deviation: Standard deviation of the value; None where there is none.
        mark: Its rank among the cells that it competes with.
        parts: The cells that it consists of; empty if it holds one value.
    """

    text: str
    value: float | None = None
    deviation: float | None = None
    mark: Mark = ""
    parts: tuple[Cell, ...] = ()

    @classmethod
    def of_count(cls, count: int) -> Cell:
        """Return the cell of a whole number, such as a number of seeds."""
        return cls(str(count), count)

    @classmethod
    def of_parts(cls, parts: tuple[Cell, ...]) -> Cell:
        """Return one cell of several, which is sorted by the first one."""
        return cls(SLASH.join(part.text for part in parts), parts[0].value, parts=parts)

    def written(self, styles: Mapping[Mark, str], escape: Callable[[str], str]) -> str:
        """Write the cell with the marks of its parts.

        Args:
            styles: Mark -> what stands around an escaped text, for `str.format`.
            escape: Makes a text safe.

        Returns:
            The text.
        """
        return SLASH.join(styles[part.mark].format(escape(part.text)) for part in self.parts or (self,))

    @property
    def is_empty(self) -> bool:
        """True if nothing stands in it."""
        return all(part.text in ("", DASH) for part in self.parts or (self,))

    @property
    def sort_value(self) -> str:
        """The value by which a page sorts the cell; empty where there is none."""
        return "" if self.value is None or not math.isfinite(self.value) else repr(self.value)


@dataclass(frozen=True)
class Run:
    """A run that a row is made of.

    Attributes:
        run_id: Its id in the store, or its file.
        seed: Its seed.
        link: Where it can be seen; empty if that is not known.
    """

    run_id: str
    seed: int
    link: str = ""


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        label: What the row is about.
        cells: One for each column of the table.
        source: Where a published row comes from; empty for a measured one.
        source_number: Number of that source in the table, from 1; 0 for a measured row.
        runs: The runs that the row is made of.
        is_mean: True if the row stays below the others however a page sorts them.
    """

    label: str
    cells: tuple[Cell, ...]
    source: str = ""
    source_number: int = 0
    runs: tuple[Run, ...] = ()
    is_mean: bool = False

    @property
    def is_published(self) -> bool:
        """True if the row is quoted from a publication."""
        return bool(self.source)

    @property
    def marked_label(self) -> str:
        """The label, with the number of its source behind that of a published row."""
        return f"{self.label} {PUBLISHED}{self.source_number}" if self.source_number else self.label


@dataclass(frozen=True)
class Table:
    """A table before it is text.

    Attributes:
        title: What it shows.
        row_head: What a row is.
        columns: The columns behind the labels of the rows.
        rows: In the order in which they are shown.
        notes: Lines below the table.
        protocol: What the rows share of their protocol, and what they do not. A page shows it elsewhere.

    Raises:
        ValueError: If a row has another number of cells than there are columns.
    """

    title: str
    row_head: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    protocol: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row.cells) != len(self.columns):
                raise ValueError(f"{self.title}: row '{row.label}' has {len(row.cells)} cells, not {len(self.columns)}")

    @property
    def has_published(self) -> bool:
        """True if a row is published."""
        return any(row.is_published for row in self.rows)

    @property
    def has_origins(self) -> bool:
        """True if a row says where it comes from."""
        return any(row.runs or row.source for row in self.rows)

    def without_empty(self) -> Table:
        """Return the table without the columns that are empty in all rows, for a reader."""
        kept = [place for place in range(len(self.columns)) if not all(row.cells[place].is_empty for row in self.rows)]
        kept = kept if self.rows else list(range(len(self.columns)))
        rows = tuple(replace(row, cells=tuple(row.cells[place] for place in kept)) for row in self.rows)
        return replace(self, columns=tuple(self.columns[place] for place in kept), rows=rows)


RunOf = Callable[[Record], Run]
"""Finds the run of a record."""
MakeTable = Callable[[RunOf | None], Table]
"""Makes a table. With the run of a record, which a page shows, each row names its runs."""


def one_line(text: str) -> str:
    """Remove line breaks and control characters from a text of a record or a file.

    Args:
        text: The text.

    Returns:
        The text with single spaces.
    """
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())


def percent(value: float, deviation: float = math.nan) -> str:
    """Format a value as a percentage with one decimal.

    Args:
        value: The value in [0, 1]; NaN for a dash.
        deviation: Its standard deviation; NaN for none.

    Returns:
        The text.
    """
    if math.isnan(value):
        return DASH
    spread = "" if math.isnan(deviation) else f"{PLUS_MINUS}{100 * deviation:.1f}"
    return f"{100 * value:.1f}{spread}"


def number(value: float) -> float | None:
    """Return a number as a cell holds it: None for NaN."""
    return None if math.isnan(value) else value
