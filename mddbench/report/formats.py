"""A table's numbers as text: Markdown, LaTeX and CSV."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from mddbench.metrics.names import LABELS
from mddbench.report.costs import COSTS, shown_cost
from mddbench.report.groups import OTHER
from mddbench.report.published import MARK
from mddbench.report.spec import TableSpec
from mddbench.report.tables import APART

Rank = Literal["", "best", "second"]
DASH = "–"
WIDE = 9
"""From so many columns on, LaTeX is told to fit a table to the line."""


@dataclass(frozen=True)
class Row:
    """A printed row. n: its number of seeds, 0 if it is published; cells: text and rank of each column."""

    label: str
    n: int
    cells: tuple[tuple[str, Rank], ...]


def printed(spec: TableSpec, frame: pd.DataFrame, plus_minus: str = " ± ") -> list[Row]:
    """The rows of a frame as they are printed, metrics in percent.

    Among methods or variants the best is ranked where there are two and the second where there are three, never a row that
    stands apart; what is printed alike is ranked alike.
    """
    apart = frame.attrs.get(APART, [False] * len(frame))
    rivals = frame[[not each for each in apart]]
    ranked = {key: _first_two(rivals[key]) if spec.rows != "category" else [] for key in spec.columns}
    rows = []
    for (_, row), beyond in zip(frame.iterrows(), apart, strict=True):
        cells: list[tuple[str, Rank]] = []
        for key in spec.columns:
            value, names = round(float(row[key]), 3), ("best", "second")
            places: dict[float, Rank] = {} if beyond else dict(zip(ranked[key], names, strict=False))  # type: ignore[arg-type]
            cells.append((percent(float(row[key]), float(row[f"{key}_std"]), plus_minus), places.get(value, "")))
        cells += [(shown_cost(float(row[key]), key), "") for key in spec.costs]
        rows.append(Row(str(row["row"]), int(row["n"]), tuple(cells)))
    return rows


def heads(spec: TableSpec) -> list[str]:
    """What stands above the columns."""
    return [*(LABELS[key] for key in spec.columns), *(COSTS[key].label for key in spec.costs)]


def markdown(spec: TableSpec, title: str, frame: pd.DataFrame, notes: list[str]) -> str:
    """A Markdown table in percent, best of each column bold and the second underlined, with its notes below."""
    shown = heads(spec)
    lines = [
        f"### {title}",
        "",
        f"| {spec.rows.capitalize()} | n | {' | '.join(shown)} |",
        f"|:--|--:|{'--:|' * len(shown)}",
    ]
    ways = {"": "{}", "best": "**{}**", "second": "<u>{}</u>"}
    for row in printed(spec, frame):
        cells = " | ".join(ways[rank].format(text) for text, rank in row.cells)
        lines.append(f"| {row.label.replace('|', chr(92) + '|')} | {row.n or DASH} | {cells} |")
    return "\n".join([*lines, "", *(f"{note}  " for note in notes)]).rstrip() + "\n"


def latex(spec: TableSpec, title: str, frame: pd.DataFrame, notes: list[str]) -> str:
    """A LaTeX table with booktabs rules, best of each column bold and the second underlined; a wide one is fitted to the line,
    which needs graphicx.
    """
    shown, rows = heads(spec), printed(spec, frame, r"\,$\pm$\,")
    ways = {"": "{}", "best": r"\textbf{{{}}}", "second": r"\underline{{{}}}"}
    body = []
    for row in rows:
        cells = " & ".join(ways[rank].format(text) for text, rank in row.cells)
        body.append(f"{_escaped(row.label)} & {row.n or '--'} & {cells} \\\\")
    published = sum(row.n == 0 for row in rows)
    if spec.rows == "category" or published:
        body.insert(len(body) - (published or 1), r"\midrule")
    wide = len(shown) >= WIDE
    return "\n".join(
        [
            *(f"% {note}" for note in notes),
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_escaped(title)}}}",
            *([r"\resizebox{\linewidth}{!}{%"] if wide else []),
            rf"\begin{{tabular}}{{lr{'r' * len(shown)}}}",
            r"\toprule",
            f"{spec.rows.capitalize()} & $n$ & {' & '.join(map(_escaped, shown))} \\\\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}" + ("}" if wide else ""),
            r"\end{table}",
            "",
        ]
    )


def csv(frame: pd.DataFrame) -> str:
    """All digits: values and standard deviations in [0, 1]; an empty field where there is none."""
    return str(frame.to_csv(index=False, lineterminator="\n"))


def _first_two(values: pd.Series) -> list[float]:
    """The best value, and the second best if there are three, as they are printed; nothing if there is one value only."""
    distinct = sorted({round(float(value), 3) for value in values if not math.isnan(value)}, reverse=True)
    return distinct[: 2 if len(values) > 2 else 1] if len(values) > 1 else []


def percent(value: float, deviation: float, plus_minus: str) -> str:
    """One decimal of a percent, as the field prints them."""
    if math.isnan(value):
        return DASH
    spread = "" if math.isnan(deviation) else f"{plus_minus}{100 * deviation:.1f}"
    return f"{100 * value:.1f}{spread}"


def _escaped(text: str) -> str:
    """Text that LaTeX prints as it is."""
    special = {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
        "–": "--",
        "|": r"\textbar{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        OTHER: r"$\dagger$",
        MARK: r"$\ddagger$",
    }
    return "".join(special.get(sign, f"\\{sign}" if sign in "&%#_${}" else sign) for sign in text)
