"""The list of who submitted what to a leaderboard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mddbench.report.tables.markdown import markdown
from mddbench.report.tables.table import Cell, Column, Row, Table
from mddbench.verdicts.bundle import RECORDS, BundleList

SUBMISSIONS = Path("submissions.md")
COLUMNS = (
    Column("By", "by", "text"),
    Column("URL", "url", "text"),
    Column("Records", "records", "count"),
    Column("mddbench", "mddbench", "text"),
    Column("Digest of the code", "source", "text"),
)


def submissions(bundles: Mapping[Path, BundleList]) -> str:
    """Write a table of bundles as Markdown.

    Args:
        bundles: Folder of an accepted bundle -> its list.

    Returns:
        The text.
    """
    rows = []
    for folder, content in bundles.items():
        records = sum(name.startswith(f"{RECORDS}/") for name in content.files)
        texts = Cell(content.by or "not said"), Cell(content.url)
        rows.append(Row(folder.name, (*texts, Cell.of_count(records), Cell(content.mddbench), Cell(content.source))))
    note = "Each bundle was checked: hashes, records, protocol. What its submitter ran cannot be checked from here."
    return markdown(Table("Submissions", "Bundle", COLUMNS, tuple(rows), (note,)))
