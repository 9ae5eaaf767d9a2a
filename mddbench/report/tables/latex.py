"""Tables as LaTeX."""

from __future__ import annotations

from mddbench.report.rows.groups import OTHER_PROTOCOL, PUBLISHED
from mddbench.report.tables.table import DASH, PLUS_MINUS, Cell, Column, Mark, Table, one_line

SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    DASH: "--",
    "|": r"\textbar{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    OTHER_PROTOCOL: r"$\dagger$",
    PUBLISHED: r"$\ddagger$",
}
"""Signs that LaTeX prints in another way."""
STYLES: dict[Mark, str] = {"": "{}", "best": r"\textbf{{{}}}", "second": r"\underline{{{}}}"}
LATIN = 0x250  # pdfLaTeX knows the characters below this code


def latex(table: Table, label: str = "") -> str:
    """Return a table as LaTeX with the rules of booktabs, as wide as the text, which needs graphicx.

    The best of a column is bold and the second underlined. The caption explains the signs. Notes are comments above.

    Args:
        table: The table.
        label: Name by which a text refers to the table; none if empty.

    Returns:
        The text of a `table*` environment.
    """
    table, body = table.without_empty(), []
    for row in table.rows:
        cells = " & ".join(map(_cell, table.columns, row.cells))
        name = one_line(row.marked_label)
        guard = "{}" if name.startswith(("[", "*")) else ""  # LaTeX would take it for an option of the line before
        body.append(f"{guard}{escaped(name)} & {cells} \\\\")
    apart = sum(row.is_published for row in table.rows) or sum(row.is_mean for row in table.rows)
    if apart:
        body.insert(len(body) - apart, r"\midrule")
    heads = ["$n$" if column.head == "n" else escaped(column.head) for column in table.columns]
    text = "\n".join([
        *(f"% {one_line(note)}" for note in (*table.protocol, *table.notes)),
        r"\begin{table*}",
        r"\centering",
        rf"\caption{{{_caption(table)}}}",
        *([rf"\label{{tab:{label}}}"] if label else []),
        r"\resizebox{\linewidth}{!}{%",
        rf"\begin{{tabular}}{{l{''.join('r' if column.is_number else 'l' for column in table.columns)}}}",
        r"\toprule",
        f"{' & '.join((escaped(table.row_head), *heads))} \\\\",
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


def escaped(text: str) -> str:
    """Return text that LaTeX prints unchanged."""
    return "".join(SPECIAL.get(sign, f"\\{sign}" if sign in "&%#_${}" else sign) for sign in text)


def _cell(column: Column, cell: Cell) -> str:
    if not column.is_number:
        return cell.written(STYLES, lambda text: escaped(one_line(text)))
    if column.kind == "count" and cell.value is None:
        return SPECIAL[DASH]
    return cell.written(STYLES, lambda text: text.replace(PLUS_MINUS, r"\,$\pm$\,"))


def _caption(table: Table) -> str:
    """The title, and what the signs in the table mean."""
    parts = [one_line(table.title)]
    cells = [part for row in table.rows for cell in row.cells for part in cell.parts or (cell,)]
    if any(column.kind == "percent" for column in table.columns):
        spread = any(PLUS_MINUS in cell.text for cell in cells)
        parts.append(f"percent{', mean ± standard deviation over n seeds' if spread else ''}")
    marks = {cell.mark for cell in cells}
    if "best" in marks:
        parts.append("best bold, second underlined" if "second" in marks else "best bold")
    labels = "".join(row.marked_label for row in table.rows)
    parts += [f"{OTHER_PROTOCOL}: another protocol"] if OTHER_PROTOCOL in labels else []
    parts += [f"{PUBLISHED}: published, not measured here"] if PUBLISHED in labels else []
    return escaped("; ".join(parts)) + "."
