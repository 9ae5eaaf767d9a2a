"""Tables as Markdown."""

from __future__ import annotations

import re

from mddbench.report.tables.table import Table, one_line

ENTITY = re.compile(r"&(?=#?\w+;)")
STYLES = {"": "{}", "best": "**{}**", "second": "<u>{}</u>"}


def markdown(table: Table) -> str:
    """Write a table as Markdown.

    The best of a column is bold and the second underlined. Notes stand below.

    Args:
        table: The table.

    Returns:
        The text.
    """
    heads = (table.row_head, *(column.head for column in table.columns))
    rules = "".join("--:|" if column.is_number else ":--|" for column in table.columns)
    lines = [f"### {escaped(table.title)}", "", f"| {' | '.join(heads)} |", f"|:--|{rules}"]
    for row in table.rows:
        cells = [STYLES[cell.mark].format(escaped(cell.text)) for cell in row.cells]
        lines.append(f"| {' | '.join((escaped(row.marked_label), *cells))} |")
    return "\n".join([*lines, "", *(f"{escaped(note)}  " for note in table.notes)]).rstrip() + "\n"


def escaped(text: str) -> str:
    r"""Return text that Markdown shows unchanged: one line without HTML, links and ends of cells.

    >>> print(escaped("a|b <img src=x> [c](d) &lt;"))
    a\|b &lt;img src=x> [c]\(d) &amp;lt;
    """
    plain = ENTITY.sub("&amp;", one_line(text)).replace("\\", "\\\\")
    return plain.replace("|", r"\|").replace("<", "&lt;").replace("](", r"]\(")
