"""Writes a report: its texts, its pictures, and the page that holds all of it in one file."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from mddbench.locks import lock_for
from mddbench.progress import Reporter, SilentReporter
from mddbench.report.build import PAGE, Report, Section
from mddbench.report.figures.draw import draw_all
from mddbench.report.figures.sheet import file_names, picture_title
from mddbench.report.manifest import Manifest
from mddbench.report.page.page import Card, Figure, Page, render_page
from mddbench.report.page.page import Section as PageSection
from mddbench.report.page.tiles import gallery_of, merged
from mddbench.report.rows.entries import Entry
from mddbench.report.tables.table import Run
from mddbench.runs.records import Record

TEXTS = frozenset({".md", ".tex", ".csv"})
LEAD = (
    "Each tile: an image with the outline of its ground truth, and its anomaly map. Worst found defects come first, by pixel "
    "AP within the image; then false alarms, typical defects and best found ones. One run of each method."
)


def write_texts(report: Report, out: Path, replace: bool = False) -> list[Path]:
    """Write the tables below `out`; their files. Tables of an earlier report that are not part of this one are removed, its
    pictures stay.

    replace: overwrite what is there. Raises InputError if `out` holds what no report wrote.
    """
    with lock_for("report", str(out.resolve())):
        manifest = Manifest(out)
        manifest.claim(report.texts, replace)
        _write_texts(report, out)
        manifest.forget(report.texts, lambda file: file.suffix in TEXTS)
        manifest.finish(report.texts)
    return [out / name for name in report.texts]


def write_report(
    report: Report, out: Path, reporter: Reporter | None = None, replace: bool = False
) -> tuple[list[Path], list[Path]]:
    """Write tables, pictures and the page below `out`; the files of tables, and of pictures. A run without panels has no
    gallery, also if an earlier one had. What an earlier report wrote and this one does not is removed.

    replace: overwrite what is there. Raises InputError if `out` holds what no report wrote.
    """
    drawn = [file for name in report.pictures for file in (name, name.with_suffix(".pdf"))]
    files = {**report.texts, **dict.fromkeys((*drawn, Path(PAGE)))}
    with lock_for("report", str(out.resolve())):
        manifest = Manifest(out)
        manifest.claim(files, replace)
        _write_texts(report, out)
        (out / PAGE).unlink(missing_ok=True)  # an earlier one holds earlier pictures
        draw_all(report.pictures, out, reporter or SilentReporter())
        (out / PAGE).write_text(render_page(page_of(report, out)), encoding="utf-8")
        manifest.forget(files)
        manifest.finish(files)
    return [out / name for name in report.texts], [out / name for name in report.pictures if (out / name).exists()]


def _write_texts(report: Report, out: Path) -> None:
    for name, text in report.texts.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(text, encoding="utf-8")


def page_of(report: Report, out: Path) -> Page:
    """The report as a page. out: where its pictures have been drawn."""
    sections = [_section(number, section, report.entries, out) for number, section in enumerate(report.sections)]
    gallery = merged(
        gallery_of(report.entries[group.first.identity].panels(), section.title, group.shown)
        for section in report.sections
        for group in section.groups
    )
    if gallery.tiles:
        sections.append(PageSection("gallery", "Heat maps", LEAD, gallery=gallery))
    runs, datasets = len(report.entries), len({entry.record.dataset for entry in report.entries.values()})
    told = (
        f"{runs} runs on {datasets} {'dataset' if datasets == 1 else 'datasets'}; metrics in percent, means over seeds."
    )
    return Page("mddbench report", tuple(sections), (told, *report.refused))


def _section(number: int, section: Section, entries: Mapping[str, Entry], out: Path) -> PageSection:
    files = dict.fromkeys((*section.main.values(), *section.results))  # those for a terminal first
    run_of = partial(_run_of, entries=entries)
    names = file_names(section.groups)
    labels = {names[group.label]: group.shown for group in section.groups}
    drawn = [name for name in section.pictures if (out / name).exists() and not name.name.startswith("gallery-")]
    titles = {name: picture_title(name, labels) for name in drawn}
    figures = [Figure(title, f"{title}: {section.title}", (out / name).read_bytes()) for name, title in titles.items()]
    return PageSection(
        anchor=f"section-{number}",
        title=section.title,
        tables=tuple(section.results[file].page_table(run_of) for file in files),
        figures=tuple(figures),
        cards=tuple(Card(group.shown, tuple(group.first.card.rows())) for group in section.groups),
    )


def _run_of(record: Record, entries: Mapping[str, Entry]) -> Run:
    entry = entries[record.identity]
    return Run(entry.run or record.identity, record.seed, entry.link)
