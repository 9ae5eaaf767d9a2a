"""Builds a report: tables and pictures for each dataset. Numbers come from records and from nowhere else."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

from mddbench.experiments.ablation import Ablation
from mddbench.report.figures.ablations import draw_ablation, draw_differences, draw_test_curves
from mddbench.report.figures.draw import Draw
from mddbench.report.figures.sheet import file_names, sheet_pictures
from mddbench.report.manifest import Manifest
from mddbench.report.rows.entries import Entry
from mddbench.report.rows.groups import Group, Sheet, group_by_protocol, refusals, sheets
from mddbench.report.rows.published import PublishedRow, published_rows
from mddbench.report.rows.studies import Study, only_of_ablation, studies
from mddbench.report.tables.confidence import confidence_table
from mddbench.report.tables.csv import csv, csv_lines
from mddbench.report.tables.differences import differences_csv, differences_table, paired_differences
from mddbench.report.tables.latex import latex
from mddbench.report.tables.markdown import markdown
from mddbench.report.tables.results import Results
from mddbench.report.tables.selection import selection_table, with_curves
from mddbench.report.tables.spec import TableSpec, load_table, table_names
from mddbench.runs.records import Record

CONFIDENCE = "confidence.md"
PAGE = "index.html"
DIFFERENCES = "differences"
SELECTION = "selection"


@dataclass(frozen=True)
class Section:
    """What a report says of one sheet, or of the ablations of a dataset.

    Attributes:
        title: Its title.
        groups: The rows of the sheet.
        results: Tables of results by their files without a suffix, relative to the report.
        pictures: Functions that draw the figures, by their files.
        main: The tables for a terminal: name -> key of `results`.
        texts: Other files of text, by their files.
    """

    title: str
    groups: tuple[Group, ...]
    results: dict[Path, Results]
    pictures: dict[Path, Draw]
    main: dict[str, Path]
    texts: dict[Path, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """All sections, and where their runs are; refused: lines about rows that could not share a table."""

    sections: tuple[Section, ...]
    entries: dict[str, Entry]
    refused: tuple[str, ...] = ()

    @cached_property
    def texts(self) -> dict[Path, str]:
        """All files of text below the report's folder."""
        texts: dict[Path, str] = {}
        for section in self.sections:
            for file, results in section.results.items():
                texts.update(_texts(results, file))
            texts.update(section.texts)
        return texts

    @property
    def pictures(self) -> dict[Path, Draw]:
        """All pictures below the report's folder; each is drawn when it is asked for, and beside it a PDF."""
        return {place: draw for section in self.sections for place, draw in section.pictures.items()}

    @property
    def main(self) -> dict[str, str]:
        """What to show in a terminal: of each sheet its main table, and the tables of ablations: 'mini', 'mini fusion'."""
        places = {name: place for section in self.sections for name, place in section.main.items()}
        return {name: self.texts[place.with_name(f"{place.name}.md")] for name, place in places.items()}


def build_report(
    entries: list[Entry], ablations: Iterable[Ablation], allow_mixed: bool = False, rank_published: bool = False
) -> Report:
    """All tables of `paper_tables/` for each sheet of the entries, with paired differences, galleries and diagnostics, and
    table and plot of each of the ablations.

    allow_mixed: rows whose protocol cards do not agree share a table, marked; rank_published: the best of a column may be a
    published number.
    """
    by_identity = {entry.record.identity: entry for entry in entries}
    records = [entry.record for entry in entries]
    found = sheets((one for one in records if not only_of_ablation(one)), allow_mixed)
    sections = [_sheet(sheet, by_identity, rank_published) for sheet in found]
    spec = next(each for each in map(load_table, table_names()) if each.rows == "variant")
    by_dataset: dict[str, list[Study]] = {}
    for study in studies(ablations, group_by_protocol(records)):
        by_dataset.setdefault(study.dataset, []).append(study)
    sections += [_ablations(spec, dataset, members) for dataset, members in by_dataset.items()]
    return Report(tuple(sections), by_identity, tuple(refusals(found)))


def _texts(results: Results, file: Path) -> dict[Path, str]:
    """A table in three formats. file: without a suffix."""
    table = results.table()
    return {
        file.with_name(f"{file.name}.md"): markdown(table),
        file.with_name(f"{file.name}.tex"): latex(results.narrow().table(), f"{file.parent.name}-{file.name}"),
        file.with_name(f"{file.name}.csv"): csv(table),
    }


def trace(report: Report) -> str:
    """CSV: which runs each row of the main tables and of ablations is made of, a line a run; those in no table last."""
    found: list[tuple[str, str, Record]] = []
    for section in report.sections:
        for place in section.main.values():
            groups = section.results[place].groups
            found += [(place.as_posix(), group.shown, record) for group in groups for record in group.records]
    shown = {record.identity for _, _, record in found}
    found += [("", "", entry.record) for identity, entry in report.entries.items() if identity not in shown]
    heads = ("table", "row", "seed", "experiment", "identity", "protocol", "run")
    lines = [
        (
            table,
            row,
            record.seed,
            record.experiment,
            record.identity,
            record.protocol,
            report.entries[record.identity].run,
        )
        for table, row, record in found
    ]
    return csv_lines([heads, *lines])


def differences(report: Report, folder: Path) -> list[str]:
    """Lines of a diff between the tables in a folder and those that follow from the records; none if they agree."""
    lines: list[str] = []
    for name, text in sorted(report.texts.items()):
        file = folder / name
        stored = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.exists() else []
        lines += difflib.unified_diff(stored, text.splitlines(), str(file), "from the records", lineterm="")
    return lines + [f"{file}: follows from no record" for file in strangers(report, folder)]


def strangers(report: Report, folder: Path) -> list[Path]:
    """Files that an earlier report wrote below a folder, and that are not part of this one."""
    vectors = {name.with_suffix(".pdf") for name in report.pictures}
    known = {folder / name for name in (*report.texts, *report.pictures, *vectors, Path(PAGE))}
    return sorted(file for file in Manifest(folder).files - known if file.exists())


def _sheet(sheet: Sheet, entries: Mapping[str, Entry], rank_published: bool) -> Section:
    place, texts = Path(sheet.place), {}
    pictures = {place / name: draw for name, draw in sheet_pictures(sheet, entries).items()}
    intervals = confidence_table(sheet.dataset, sheet.groups)
    if intervals is not None:
        texts[place / CONFIDENCE] = markdown(intervals)
    pairs = paired_differences(sheet.groups)
    if pairs:
        texts[place / f"{DIFFERENCES}.md"] = markdown(differences_table(sheet.dataset, pairs))
        texts[place / f"{DIFFERENCES}.csv"] = differences_csv(pairs)
        pictures[place / f"{DIFFERENCES}.png"] = partial(draw_differences, sheet.dataset, pairs)
    curves = with_curves(sheet.groups)
    if curves:
        texts[place / f"{SELECTION}.md"] = markdown(selection_table(sheet.dataset, curves))
        pictures[place / f"{SELECTION}.png"] = partial(draw_test_curves, sheet.dataset, curves)
    tables, main = _tables(sheet, rank_published), {sheet.place: place / "main"}
    return Section(sheet.dataset, sheet.groups, tables, pictures, main, texts)


def _tables(sheet: Sheet, rank_published: bool) -> dict[Path, Results]:
    tables: dict[Path, Results] = {}
    names = file_names(sheet.groups)
    for name in table_names():
        spec = load_table(name)
        if spec.rows == "variant":
            continue
        if spec.rows == "category":
            for group in sheet.groups:
                place = Path(sheet.place) / f"{name}-{names[group.label]}"
                tables[place] = _table(spec, (group,), sheet.dataset)
            continue
        usual = next(group for group in sheet.groups if not group.differs).first
        published = published_rows(usual, spec.published, not spec.columns)
        if published or spec.published != "all":
            table = _table(spec, sheet.groups, sheet.dataset, published=published, rank_published=rank_published)
            tables[Path(sheet.place) / name] = table
    return tables


def _ablations(spec: TableSpec, dataset: str, members: Sequence[Study]) -> Section:
    places = {study.name: Path(dataset) / f"ablation-{study.name}" for study in members}
    tables = {places[study.name]: _table(spec, tuple(study.groups), dataset, study.title) for study in members}
    pictures: dict[Path, Draw] = {
        Path(dataset) / f"ablation-{study.name}.png": partial(draw_ablation, study) for study in members
    }
    main = {f"{dataset} {name}": place for name, place in places.items()}
    return Section(f"{dataset}: ablations", (), tables, pictures, main)


def _table(
    spec: TableSpec,
    groups: tuple[Group, ...],
    dataset: str,
    ablation: str = "",
    published: Sequence[PublishedRow] = (),
    rank_published: bool = False,
) -> Results:
    first, spec = groups[0].first, spec.shown_for(record for group in groups for record in group.records)
    method = first.label if ablation else groups[0].label  # a variant's label is what it varies
    title = spec.title.format(dataset=dataset, setting=first.card.setting, method=method, ablation=ablation)
    return Results(spec, title, groups, tuple(published), rank_published)
