"""Writes a report: its texts, its figures, and the page that holds all of it in one file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mddbench.errors import InputError
from mddbench.locks import lock_for
from mddbench.progress import Reporter, SilentReporter
from mddbench.report.build import PAGE, Report, Section
from mddbench.report.figures.sheet import Draw, file_names, picture_title
from mddbench.report.manifest import Manifest
from mddbench.report.page.page import Figure, Page, render_page
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
    report: Report, out: Path, reporter: Reporter | None = None, replace: bool = False
) -> tuple[list[Path], list[Path]]:
    """Write the tables, the figures and the page of a report. All other files of an earlier report are removed.

    Args:
        report: The report.
        out: Its folder. Files in it that no report wrote are an InputError.
        reporter: Shows the progress.
        replace: True to overwrite such files.

    Returns:
        The files of tables, and the files of figures.
    """
    drawn = [file for name in report.pictures for file in (name, name.with_suffix(".pdf"))]
    with _claimed(out, {**report.texts, **dict.fromkeys((*drawn, Path(PAGE)))}, replace):
        _write_texts(report, out)
        (out / PAGE).unlink(missing_ok=True)  # an earlier page holds earlier figures
        draw_all(report.pictures, out, reporter or SilentReporter())
        (out / PAGE).write_text(render_page(page_of(report, out)), encoding="utf-8")
    return [out / name for name in report.texts], [out / name for name in report.pictures if (out / name).exists()]


def draw_all(pictures: Mapping[Path, Draw], out: Path, reporter: Reporter) -> None:
    """Draw each figure below a folder, in place of those of an earlier report.

    A figure that cannot be drawn is reported and left out. The keys of `pictures` are file names, relative to `out`.

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
        for earlier in (out / name, (out / name).with_suffix(".pdf")):
            earlier.unlink(missing_ok=True)
    with reporter.task("drawing", len(pictures)) as task:
        for name, draw in pictures.items():
            try:
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


def page_of(report: Report, out: Path) -> Page:
    """Return the page of a report whose figures were drawn below `out`."""
    sections = [_section(number, section, report.entries, out) for number, section in enumerate(report.sections)]
    gallery = merged(
        gallery_of(report.entries[group.first.identity].panels(), section.title, group.marked_label)
        for section in report.sections
        for group in section.groups
    )
    if gallery.tiles:
        sections.append(PageSection("gallery", "Heat maps", LEAD, gallery=gallery))
    runs, datasets = len(report.entries), len({entry.record.dataset for entry in report.entries.values()})
    plural = "dataset" if datasets == 1 else "datasets"
    summary = f"{runs} runs on {datasets} {plural}; metrics in percent, means over seeds."
    return Page("mddbench report", tuple(sections), (summary, *report.refused))


def _section(number: int, section: Section, entries: Mapping[str, Entry], out: Path) -> PageSection:
    def run_of(record: Record) -> Run:
        entry = entries[record.identity]
        return Run(entry.run or record.identity, record.seed, entry.link)

    files = dict.fromkeys((*section.main.values(), *section.results))  # the tables of `main` first
    names = file_names(section.groups)
    labels = {names[group.label]: group.marked_label for group in section.groups}
    drawn = [name for name in section.pictures if (out / name).exists() and not name.name.startswith("gallery-")]
    titles = {name: picture_title(name, labels) for name in drawn}
    figures = [Figure(title, f"{title}: {section.title}", (out / name).read_bytes()) for name, title in titles.items()]
    return PageSection(
        anchor=f"section-{number}",
        title=section.title,
        tables=tuple(section.results[file].page_table(run_of) for file in files),
        figures=tuple(figures),
        cards=tuple((group.marked_label, tuple(group.first.card.rows())) for group in section.groups),
    )
