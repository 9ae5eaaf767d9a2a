"""Writes a report: its texts, its figures, and the page that holds all of it in one file."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mddbench.errors import InputError
from mddbench.locks import lock_for
from mddbench.progress import Reporter, SilentReporter
from mddbench.report.build import OPEN, PAGE, Report, Section
from mddbench.report.figures.canvas import forms_of
from mddbench.report.figures.sheet import OFF_PAGE, Draw, file_names, picture_title
from mddbench.report.figures.style import narrow_page
from mddbench.report.manifest import Manifest
from mddbench.report.page.page import Block, Figure, Page, render_page
from mddbench.report.page.page import Section as PageSection
from mddbench.report.page.tiles import gallery_of, merged
from mddbench.report.rows.entries import Entry
from mddbench.report.rows.groups import Group
from mddbench.report.tables.table import Run
from mddbench.runs.environment import source_commit
from mddbench.runs.records import Record
from mddbench.version import VERSION

TEXTS = frozenset({".md", ".tex", ".csv"})
PARTNERS = {"by-category": "per-category", "cost": "cost-quality"}
"""Table -> the figure that stands below it, where the two have different names."""
SHOWN = frozenset({"per-category", "cost-quality", "qualitative", "curves", "budgets", "encoders"})
"""Figures without a table of their own that a page shows at once; the others are folded."""
MOST_CODES = 3  # that the head of a page names
LEAD = (
    "Each tile: an image with the outline of its ground truth, and its anomaly map. Worst found defects come first, by pixel "
    "AP within the image; then false alarms, typical defects and best found ones; then every image by score, where a run "
    "with --all-images kept them. One run of each method."
)


def write_texts(report: Report, out: Path, replace: bool = False) -> list[Path]:
    """Write the tables of a report like `write_report`, without figures and page. Figures of an earlier report stay.

    Args:
        report: The report.
        out: Its folder.
        replace: True to overwrite files that no report wrote.

    Returns:
        The files of tables.
    """
    with _claimed(out, report.texts, replace, lambda file: file.suffix in TEXTS):
        _write_texts(report, out)
    return [out / name for name in report.texts]


def write_report(
    report: Report, out: Path, reporter: Reporter | None = None, replace: bool = False, command: str = ""
) -> tuple[list[Path], list[Path]]:
    """Write the tables, the figures and the page of a report. All other files of an earlier report are removed.

    Args:
        report: The report.
        out: Its folder. Files in it that no report wrote are an InputError.
        reporter: Shows the progress.
        replace: True to overwrite such files.
        command: The command that renders the report, for the head of the page.

    Returns:
        The files of tables, and the files of figures.
    """
    drawn = [file for name in report.pictures for file in forms_of(name)]
    with _claimed(out, {**report.texts, **dict.fromkeys((*drawn, Path(PAGE)))}, replace):
        _write_texts(report, out)
        (out / PAGE).unlink(missing_ok=True)  # an earlier page holds earlier figures
        draw_all(report.pictures, out, reporter or SilentReporter())
        page = page_of(report, out, rendered_by(command) if command else "")
        (out / PAGE).write_text(render_page(page), encoding="utf-8")
    return [out / name for name in report.texts], [out / name for name in report.pictures if (out / name).exists()]


def rendered_by(command: str) -> str:
    """Say when and by what a report is rendered. SOURCE_DATE_EPOCH gives the time, where it is set.

    Args:
        command: The command.

    Returns:
        A line with the date in UTC, the command, the version and the commit.
    """
    seconds = float(os.environ.get("SOURCE_DATE_EPOCH") or time.time())
    date = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))
    return f"Rendered {date} by `{command}`, {_code(VERSION, *source_commit())}."


def draw_all(pictures: Mapping[Path, Draw], out: Path, reporter: Reporter) -> None:
    """Draw each figure below a folder, in place of those of an earlier report: as wide as a page, and for a small screen.

    A figure that cannot be drawn is reported and left out.

    Args:
        pictures: File name, relative to `out` -> function that draws the figure.
        out: Folder of the report.
        reporter: Shows the progress.

    Raises:
        InputError: If the data of a figure cannot be loaded.
        OSError: If a file cannot be written.
    """
    for name in pictures:
        for earlier in forms_of(out / name):
            earlier.unlink(missing_ok=True)
    with reporter.task("drawing", len(pictures)) as task:
        for name, draw in pictures.items():
            try:
                draw(out / name)
                if not name.name.startswith(OFF_PAGE):
                    with narrow_page():
                        draw(out / name)
            except (OSError, InputError):
                raise
            except Exception as fault:  # noqa: BLE001 - numbers that no axis can show fail in many ways
                reason = str(fault).splitlines()[0][:120] if str(fault) else "no message"
                reporter.say(f"{name}: not drawn ({type(fault).__name__}: {reason})")
            task.advance(1)


@contextmanager
def _claimed(
    out: Path, files: Mapping[Path, str | None], replace: bool, kind: Callable[[Path], bool] = lambda _: True
) -> Iterator[None]:
    """Lock the folder and claim files before they are written. Other files of the kind are removed afterwards."""
    with lock_for("report", str(out.resolve())):
        manifest = Manifest(out)
        manifest.claim(files, replace)
        yield
        manifest.forget(files, kind)
        manifest.finish(files)


def _write_texts(report: Report, out: Path) -> None:
    for name, text in report.texts.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(text, encoding="utf-8")


def page_of(report: Report, out: Path, rendered: str = "") -> Page:
    """Return the page of a report whose figures were drawn below `out`.

    Args:
        report: The report.
        out: Its folder.
        rendered: When and by what it is rendered; empty if the page does not say it.

    Returns:
        The page.
    """
    sections = [_section(number, section, report.entries, out) for number, section in enumerate(report.sections)]
    gallery = merged(
        gallery_of(report.entries[group.first.identity].panels(), section.title, group.marked_label)
        for section in report.sections
        for group in section.groups
    )
    if gallery.tiles:
        sections.append(PageSection("gallery", "Heat maps", LEAD, gallery=gallery))
    records = [entry.record for entry in report.entries.values()]
    datasets = len({record.shown_dataset for record in records})
    summary = f"{len(records)} runs on {datasets} {'dataset' if datasets == 1 else 'datasets'}."
    codes = sorted({_code(*map(record.environment.get, ("mddbench", "commit", "changed"))) for record in records})
    made = f"Runs made by {'; '.join(codes[:MOST_CODES])}{' and others' if len(codes) > MOST_CODES else ''}."
    lines = (summary, *([made] if any(codes) else []), *([rendered] if rendered else []), *report.refused)
    return Page("mddbench report", tuple(sections), lines)


def _code(version: Any, commit: Any, changed: Any) -> str:
    """Name the code of a run or of this process."""
    if not version:
        return ""
    known = f" (commit {str(commit)[:12]}{', with changes' if changed else ''})" if commit else ""
    return f"mddbench {version}{known}"


def _section(number: int, section: Section, entries: Mapping[str, Entry], out: Path) -> PageSection:
    def run_of(record: Record) -> Run:
        entry = entries[record.identity]
        return Run(entry.run or record.identity, record.seed, entry.link)

    names = file_names(section.groups)
    labels = {names[group.label]: group.marked_label for group in section.groups}
    blocks, anchor = [], f"section-{number}"
    drawn = {name: figure for name in section.pictures if (figure := _figure(out / name, labels)) is not None}
    for file, make in section.all_tables.items():
        table = make(run_of)
        own = drawn.pop(file.with_name(f"{PARTNERS.get(file.name, file.name)}.png"), None)
        title = (
            table.title.removeprefix(section.title).lstrip(":, ") if section.groups else table.title.partition(":")[0]
        )
        folded = bool(section.groups) and file.name not in OPEN
        blocks.append(Block(f"{anchor}-{file.name}", title[:1].upper() + title[1:], table, own, folded))
    for name, figure in drawn.items():
        blocks.append(Block(f"{anchor}-{name.stem}", figure.title, None, figure, name.stem not in SHOWN))
    return PageSection(
        anchor=anchor,
        title=section.title,
        remark=" ".join(each.missing for each in (section.one_threshold, section.robustness) if each and each.missing),
        blocks=tuple(sorted(blocks, key=lambda block: block.folded)),
        cards=tuple((group.marked_label, tuple(_card(group))) for group in section.groups),
    )


def _card(group: Group) -> Iterator[tuple[str, str]]:
    """What a page says of a row: its protocol, its seeds and its data."""
    yield from group.first.card.rows()
    yield "seeds", ", ".join(str(record.seed) for record in group.records)
    yield "data", group.first.fingerprint[:12]


def _figure(file: Path, labels: Mapping[str, str]) -> Figure | None:
    """The figure of a page; None if it was not drawn, or is not shown on pages."""
    _, _, wide, narrow = forms_of(file)
    if not wide.exists() or not narrow.exists():
        return None
    return Figure(picture_title(file, labels), *(form.read_text(encoding="utf-8") for form in (wide, narrow)))
