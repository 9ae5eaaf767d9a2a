"""A table's numbers as text: Markdown, LaTeX and CSV."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from mddbench.metrics.names import LABELS
from mddbench.report.rows.groups import OTHER
from mddbench.report.rows.published import MARK
from mddbench.report.tables.costs import COSTS, shown_cost
from mddbench.report.tables.numbers import APART
from mddbench.report.tables.spec import TableSpec

Rank = Literal["", "best", "second"]
RANKS: tuple[Rank, ...] = ("best", "second")
DASH = "–"
SPECIAL = {
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
"""Signs that LaTeX prints in another way."""
ENTITY = re.compile(r"&(?=#?\w+;)")
FORMULA = ("=", "+", "-", "@")
"""How a spreadsheet knows a formula."""
LATIN = 0x250
"""pdfLaTeX knows the letters below this one."""


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
            value = float(row[key])
            place = ranked[key].index(percent(value)) if not beyond and percent(value) in ranked[key] else len(RANKS)
            cells.append((percent(value, float(row[f"{key}_std"]), plus_minus), (*RANKS, "")[place]))
        cells += [(shown_cost(float(row[key]), key), "") for key in spec.costs]
        rows.append(Row(one_line(str(row["row"])), int(row["n"]), tuple(cells)))
    return rows


def heads(spec: TableSpec) -> list[str]:
    """What stands above the columns."""
    return [*(LABELS[key] for key in spec.columns), *(COSTS[key].label for key in spec.costs)]


def markdown(spec: TableSpec, title: str, frame: pd.DataFrame, notes: Sequence[str]) -> str:
    """A Markdown table in percent, best of each column bold and the second underlined, with its notes below."""
    shown = heads(spec)
    lines = [
        f"### {markdown_text(title)}",
        "",
        f"| {spec.rows.capitalize()} | n | {' | '.join(shown)} |",
        f"|:--|--:|{'--:|' * len(shown)}",
    ]
    ways = {"": "{}", "best": "**{}**", "second": "<u>{}</u>"}
    for row in printed(spec, frame):
        cells = " | ".join(ways[rank].format(text) for text, rank in row.cells)
        lines.append(f"| {markdown_text(row.label)} | {row.n or DASH} | {cells} |")
    return "\n".join([*lines, "", *(f"{markdown_text(note)}  " for note in notes)]).rstrip() + "\n"


def latex(spec: TableSpec, title: str, frame: pd.DataFrame, notes: Sequence[str], label: str = "") -> str:
    """A LaTeX table with booktabs rules, best of each column bold and the second underlined, fitted to the line, which needs
    graphicx. notes: as comments above it; label: to refer to it by. The caption says what the signs in it mean.
    """
    shown, rows = heads(spec), printed(spec, frame, r"\,$\pm$\,")
    ways = {"": "{}", "best": r"\textbf{{{}}}", "second": r"\underline{{{}}}"}
    body = []
    for row in rows:
        cells = " & ".join(ways[rank].format(text) for text, rank in row.cells)
        guard = "{}" if row.label.startswith(("[", "*")) else ""  # which LaTeX would take for a part of the line before
        body.append(f"{guard}{_escaped(row.label)} & {row.n or '--'} & {cells} \\\\")
    published = sum(row.n == 0 for row in rows)
    if spec.rows == "category" or published:
        body.insert(len(body) - (published or 1), r"\midrule")
    text = "\n".join([
        *(f"% {one_line(note)}" for note in notes),
        r"\begin{table*}",
        r"\centering",
        rf"\caption{{{_caption(spec, title, rows)}}}",
        *([rf"\label{{tab:{label}}}"] if label else []),
        r"\resizebox{\linewidth}{!}{%",
        rf"\begin{{tabular}}{{lr{'r' * len(shown)}}}",
        r"\toprule",
        f"{spec.rows.capitalize()} & $n$ & {' & '.join(map(_escaped, shown))} \\\\",
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}}",
        r"\end{table*}",
        "",
    ])
    plain = "".join(line for line in text.splitlines() if not line.startswith("%"))
    beyond = any(ord(sign) >= LATIN and sign not in SPECIAL for sign in plain)
    return f"% Names beyond Latin letters: needs LuaLaTeX or XeLaTeX.\n{text}" if beyond else text


def one_line(text: str) -> str:
    """Text from a record or a file without line breaks and control characters."""
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())


def markdown_text(text: str) -> str:
    r"""Text from a record or a file as Markdown shows it: one line, no HTML, no link, no end of a table's cell.

    >>> print(markdown_text("a|b <img src=x> [c](d) &lt;"))
    a\|b &lt;img src=x> [c]\(d) &amp;lt;
    """
    plain = ENTITY.sub("&amp;", one_line(text)).replace("\\", "\\\\")
    return plain.replace("|", r"\|").replace("<", "&lt;").replace("](", r"]\(")


def csv(frame: pd.DataFrame) -> str:
    """All digits: values and standard deviations in [0, 1]; an empty field where there is none. Texts are never formulas."""
    plain = frame.copy()
    for name in plain.select_dtypes(exclude="number").columns:
        plain[name] = plain[name].map(csv_text)
    return str(plain.to_csv(index=False, lineterminator="\n"))


def csv_text(cell: object) -> object:
    """A text that a spreadsheet would take for a formula with a quotation mark before it; anything else as it is."""
    return f"'{cell}" if isinstance(cell, str) and cell.lstrip().startswith(FORMULA) else cell


def percent(value: float, deviation: float = math.nan, plus_minus: str = "") -> str:
    """One decimal of a percent, as the field prints them."""
    if math.isnan(value):
        return DASH
    spread = "" if math.isnan(deviation) else f"{plus_minus}{100 * deviation:.1f}"
    return f"{100 * value:.1f}{spread}"


def _first_two(values: pd.Series) -> list[str]:
    """The best value, and the second best if there are three, as they are printed; nothing if there is one value only."""
    known = [float(value) for value in values if not math.isnan(value)]
    distinct = list(dict.fromkeys(percent(value) for value in sorted(known, reverse=True)))
    return distinct[: 2 if len(values) > 2 else 1] if len(values) > 1 else []


def _caption(spec: TableSpec, title: str, rows: list[Row]) -> str:
    """The title, and what the signs in the table mean."""
    texts = [text for row in rows for text, _ in row.cells]
    parts = [one_line(title)]
    if spec.columns:
        spread = any("pm" in text for text in texts)
        parts.append(f"percent{', mean ± standard deviation over n seeds' if spread else ''}")
    ranks = {rank for row in rows for _, rank in row.cells}
    parts += ["best bold, second underlined" if "second" in ranks else "best bold"] if "best" in ranks else []
    labels = "".join(row.label for row in rows)
    parts += [f"{OTHER}: another protocol"] if OTHER in labels else []
    parts += [f"{MARK}: published, not measured here"] if MARK in labels else []
    return _escaped("; ".join(parts)) + "."


def _escaped(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return "".join(SPECIAL.get(sign, f"\\{sign}" if sign in "&%#_${}" else sign) for sign in text)
