"""Builds a report: tables for each dataset, a gallery for each method. Numbers come from records and from nowhere else."""

from __future__ import annotations

import difflib
import io
from collections.abc import Iterable, Mapping, Sequence
from csv import writer
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mddbench.ablation import Ablation
from mddbench.records import Record
from mddbench.report.ablations import only_of_ablation, studies
from mddbench.report.comparison import differences_csv, differences_markdown, paired_differences
from mddbench.report.costs import cost_note
from mddbench.report.entries import Entry
from mddbench.report.groups import Group, Sheet, group_by_protocol, refusals, sheets
from mddbench.report.pictures import PATTERNS, Draw, file_name, sheet_pictures
from mddbench.report.plots import draw_ablation, draw_differences, draw_test_curves
from mddbench.report.selection import selection_markdown, with_curves
from mddbench.report.spec import TableSpec, load_table, table_names
from mddbench.report.tables import confidence_table, csv, latex, markdown, numbers, protocol_notes

CONFIDENCE = "confidence.md"
DIFFERENCES = "differences"
SELECTION = "selection"


@dataclass(frozen=True)
class Report:
    """The files of a report below its folder, tables as text; pictures are drawn when they are asked for.

    main: what to show in a terminal, dataset -> its main table, dataset and ablation -> its table; refused: lines about rows
    that could not share a table.
    """

    texts: dict[Path, str]
    pictures: dict[Path, Draw]
    main: dict[str, str]
    refused: tuple[str, ...] = ()


def build_report(entries: list[Entry], ablations: Iterable[Ablation], allow_mixed: bool = False) -> Report:
    """All tables of `paper_tables/` for each sheet of the entries, with paired differences, galleries and diagnostics, and
    table and plot of each of the ablations.

    allow_mixed: rows whose protocol cards do not agree share a table, marked.
    """
    by_identity = {entry.record.identity: entry for entry in entries}
    texts: dict[Path, str] = {}
    pictures: dict[Path, Draw] = {}
    main: dict[str, str] = {}
    records = [entry.record for entry in entries]
    found = sheets((one for one in records if not only_of_ablation(one)), allow_mixed)
    for sheet in found:
        more_texts, more_pictures = _sheet(sheet, by_identity)
        texts.update(more_texts)
        pictures.update(more_pictures)
        main[sheet.place] = texts[Path(sheet.place) / "main.md"]
    spec = next(each for each in map(load_table, table_names()) if each.rows == "variant")
    for study in studies(ablations, group_by_protocol(records)):
        place = Path(study.dataset) / f"ablation-{study.name}"
        texts.update(_table(spec, study.groups, study.dataset, place, study.title))
        pictures[place.with_name(f"{place.name}.png")] = partial(draw_ablation, study)
        main[f"{study.dataset} {study.name}"] = texts[place.with_name(f"{place.name}.md")]
    return Report(texts, pictures, main, tuple(refusals(found)))


def trace(entries: list[Entry], allow_mixed: bool = False) -> str:
    """CSV: which runs each row of the main tables is made of, a line a run; variants of ablations by their own name."""
    runs = {entry.record.identity: entry.run for entry in entries}
    records = [entry.record for entry in entries]
    rows: list[tuple[str, ...]] = [("table", "row", "seed", "experiment", "identity", "protocol", "run")]
    for sheet in sheets((one for one in records if not only_of_ablation(one)), allow_mixed):
        for group in sheet.groups:
            rows += [_traced(f"{sheet.place}/main", group.label, record, runs) for record in group.records]
    rows += [_traced(one.dataset, one.experiment, one, runs) for one in records if only_of_ablation(one)]
    text = io.StringIO()
    writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _traced(table: str, row: str, record: Record, runs: dict[str, str]) -> tuple[str, ...]:
    return table, row, str(record.seed), record.experiment, record.identity, record.protocol, runs[record.identity]


def write_report(report: Report, out: Path) -> tuple[list[Path], list[Path]]:
    """Write tables and pictures below `out`; the files of each. A run without panels has no gallery.

    Files of an earlier report that are not part of this one are removed.
    """
    for stale in _strangers(report, out):
        stale.unlink()
    for name, text in report.texts.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(text, encoding="utf-8")
    for name, draw in report.pictures.items():
        draw(out / name)
    return [out / name for name in report.texts], [out / name for name in report.pictures if (out / name).exists()]


def differences(report: Report, folder: Path) -> list[str]:
    """Lines of a diff between the tables in a folder and those that follow from the records; none if they agree."""
    lines: list[str] = []
    for name, text in sorted(report.texts.items()):
        file = folder / name
        stored = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        lines += difflib.unified_diff(stored, text.splitlines(), str(file), "from the records", lineterm="")
    return lines + [f"{file}: follows from no record" for file in _strangers(report, folder)]


def _strangers(report: Report, folder: Path) -> list[Path]:
    """Files below a report's folder that only a report writes and this one does not."""
    vectors = {name.with_suffix(".pdf") for name in report.pictures}
    known = {folder / name for name in (*report.texts, *report.pictures, *vectors)}
    patterns = [f"*/{name}{suffix}" for name in table_names() for suffix in ("*.md", "*.tex", "*.csv")]
    patterns += [f"*/{name}{suffix}" for name in (*PATTERNS, "ablation-*") for suffix in (".png", ".pdf")]
    patterns += [f"*/{name}.*" for name in (DIFFERENCES, SELECTION)] + [f"*/{CONFIDENCE}"]
    return sorted({file for pattern in patterns for file in folder.glob(pattern)} - known)


def _sheet(sheet: Sheet, entries: Mapping[str, Entry]) -> tuple[dict[Path, str], dict[Path, Draw]]:
    """The texts and pictures of a sheet."""
    place, texts = Path(sheet.place), _tables(sheet)
    pictures = {place / name: draw for name, draw in sheet_pictures(sheet, entries).items()}
    intervals = confidence_table(sheet.dataset, sheet.groups)
    if intervals is not None:
        texts[place / CONFIDENCE] = intervals
    pairs = paired_differences(sheet.groups)
    if pairs:
        texts[place / f"{DIFFERENCES}.md"] = differences_markdown(sheet.dataset, pairs)
        texts[place / f"{DIFFERENCES}.csv"] = differences_csv(pairs)
        pictures[place / f"{DIFFERENCES}.png"] = partial(draw_differences, sheet.dataset, pairs)
    curves = with_curves(sheet.groups)
    if curves:
        texts[place / f"{SELECTION}.md"] = selection_markdown(sheet.dataset, curves)
        pictures[place / f"{SELECTION}.png"] = partial(draw_test_curves, sheet.dataset, curves)
    return texts, pictures


def _tables(sheet: Sheet) -> dict[Path, str]:
    texts: dict[Path, str] = {}
    for name in table_names():
        spec = load_table(name)
        if spec.rows == "variant":
            continue
        parts = [sheet.groups] if spec.rows == "method" else [(group,) for group in sheet.groups]
        for part in parts:
            suffix = "" if spec.rows == "method" else f"-{file_name(part[0])}"
            texts.update(_table(spec, part, sheet.dataset, Path(sheet.place) / f"{name}{suffix}"))
    return texts


def _table(spec: TableSpec, groups: Sequence[Group], dataset: str, place: Path, ablation: str = "") -> dict[Path, str]:
    """One table in three formats. place: of its files, without a suffix."""
    first, spec = groups[0].first, spec.shown_for(record for group in groups for record in group.records)
    method = first.label if ablation else groups[0].label
    title = spec.title.format(dataset=dataset, setting=first.card.get("setting"), method=method, ablation=ablation)
    frame, notes = numbers(spec, groups), protocol_notes(groups)
    notes += [cost_note(groups)] if spec.costs else []
    return {
        place.with_name(f"{place.name}.md"): markdown(spec, title, frame, notes),
        place.with_name(f"{place.name}.tex"): latex(spec, title, frame, notes),
        place.with_name(f"{place.name}.csv"): csv(frame),
    }
