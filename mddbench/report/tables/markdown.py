"""Tables as Markdown."""

from __future__ import annotations

import re

from mddbench.report.tables.table import Mark, Table, one_line

ENTITY = re.compile(r"&(?=#?\w+;)")
STYLES: dict[Mark, str] = {"": "{}", "best": "**{}**", "second": "<u>{}</u>"}


def markdown(table: Table) -> str:
    """Write a table as Markdown.

    The best of a column is bold and the second underlined. Notes stand below.

    Args:
        table: The table.

    Returns:
        The text.
    """
    return "\n".join([*_grid(table), "", *_notes(table)]).rstrip() + "\n"


def folded_markdown(table: Table) -> str:
    """Write a table as Markdown whose notes are folded away, for a text in which the table is one part of many.

    Args:
        table: The table.

    Returns:
        The text. Whoever opens "Protocol and notes" sees all notes.
    """
    notes = ["<details><summary>Protocol and notes</summary>", "", *_notes(table), "", "</details>"]
    return "\n".join([*_grid(table), "", *(notes if table.notes or table.protocol else [])]).rstrip() + "\n"


def _grid(table: Table) -> list[str]:
    """The lines of a table's title, head and rows, without columns that are empty everywhere."""
    table = table.without_empty()
    heads = (table.row_head, *(escaped(column.head) for column in table.columns))
    rules = "".join("--:|" if column.is_number else ":--|" for column in table.columns)
    lines = [f"### {escaped(table.title)}", "", f"| {' | '.join(heads)} |", f"|:--|{rules}"]
    for row in table.rows:
        cells = [cell.written(STYLES, escaped) for cell in row.cells]
        lines.append(f"| {' | '.join((escaped(row.marked_label), *cells))} |")
    return lines


def _notes(table: Table) -> list[str]:
    """The lines below a table."""
    return [f"{escaped(note)}  " for note in (*table.protocol, *table.notes)]


def escaped(text: str) -> str:
    r"""Return text that Markdown shows unchanged: one line without HTML, links and ends of cells.

    >>> print(escaped("a|b <img src=x> [c](d) &lt;"))
    a\|b &lt;img src=x> [c]\(d) &amp;lt;
    """
    plain = ENTITY.sub("&amp;", one_line(text)).replace("\\", "\\\\")
    return plain.replace("|", r"\|").replace("<", "&lt;").replace("](", r"]\(")
