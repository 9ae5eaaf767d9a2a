"""Builds a report: tables and pictures for each dataset. Numbers come from records and from nowhere else."""

from __future__ import annotations

import difflib
import io
from collections.abc import Iterable, Mapping, Sequence
from csv import writer
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import pandas as pd

from mddbench.experiments.ablation import Ablation
from mddbench.report.figures.ablations import draw_ablation, draw_differences, draw_test_curves
from mddbench.report.figures.draw import Draw
from mddbench.report.figures.sheet import file_names, sheet_pictures
from mddbench.report.manifest import Manifest
from mddbench.report.rows.entries import Entry
from mddbench.report.rows.groups import Group, Sheet, group_by_protocol, refusals, sheets
from mddbench.report.rows.published import PublishedRow, published_rows, source_notes
from mddbench.report.rows.studies import Study, only_of_ablation, studies
from mddbench.report.tables.confidence import confidence_table
from mddbench.report.tables.costs import cost_note
from mddbench.report.tables.differences import differences_csv, differences_markdown, paired_differences
from mddbench.report.tables.formats import csv, csv_text, latex, markdown
from mddbench.report.tables.numbers import numbers, protocol_notes
from mddbench.report.tables.selection import selection_markdown, with_curves
from mddbench.report.tables.spec import TableSpec, load_table, table_names
from mddbench.runs.records import Record

CONFIDENCE = "confidence.md"
PAGE = "index.html"
DIFFERENCES = "differences"
SELECTION = "selection"


@dataclass(frozen=True)
class Table:
    """A table before it is text. groups: of its measured rows; published: its rows behind them; notes: of its protocol."""

    spec: TableSpec
    title: str
    frame: pd.DataFrame
    notes: tuple[str, ...]
    groups: tuple[Group, ...]
    published: tuple[PublishedRow, ...] = ()

    @property
    def slim(self) -> TableSpec:
        """The spec for narrow places: a table of metrics without costs, which have a table of their own."""
        return self.spec.model_copy(update={"costs": ()}) if self.spec.columns else self.spec

    def texts(self, place: Path) -> dict[Path, str]:
        """The table in three formats. place: of its files, without a suffix."""
        label = f"{place.parent.name}-{place.name}"
        return {
            place.with_name(f"{place.name}.md"): markdown(
                self.spec, self.title, self.frame, self._all_notes(self.spec)
            ),
            place.with_name(f"{place.name}.tex"): latex(
                self.slim, self.title, self.frame, self._all_notes(self.slim), label
            ),
            place.with_name(f"{place.name}.csv"): csv(self.frame),
        }

    def _all_notes(self, spec: TableSpec) -> list[str]:
        costs = [cost_note(self.groups)] if spec.costs else []
        return [*self.notes, *costs, *source_notes(self.published, bool(spec.costs))]


@dataclass(frozen=True)
class Section:
    """What is told of one sheet, or of the ablations of a dataset. tables, texts, pictures: by their files, tables' without a
    suffix, other texts' with; main: the tables for a terminal, by name.
    """

    title: str
    groups: tuple[Group, ...]
    tables: dict[Path, Table]
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
            for place, table in section.tables.items():
                texts.update(table.texts(place))
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


def trace(report: Report) -> str:
    """CSV: which runs each row of the main tables and of ablations is made of, a line a run; those in no table last."""
    found: list[tuple[str, str, Record]] = []
    for section in report.sections:
        for place in section.main.values():
            groups = section.tables[place].groups
            found += [(place.as_posix(), group.shown, record) for group in groups for record in group.records]
    shown = {record.identity for _, _, record in found}
    found += [("", "", entry.record) for identity, entry in report.entries.items() if identity not in shown]
    text = io.StringIO()
    table = writer(text, lineterminator="\n")
    table.writerow(("table", "row", "seed", "experiment", "identity", "protocol", "run"))
    for place_, row, one in found:
        run = report.entries[one.identity].run
        cells = (place_, row, one.seed, one.experiment, one.identity, one.protocol, run)
        table.writerow([csv_text(cell) for cell in cells])
    return text.getvalue()


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
    tables, main = _tables(sheet, rank_published), {sheet.place: place / "main"}
    return Section(sheet.dataset, sheet.groups, tables, pictures, main, texts)


def _tables(sheet: Sheet, rank_published: bool) -> dict[Path, Table]:
    tables: dict[Path, Table] = {}
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
) -> Table:
    first, spec = groups[0].first, spec.shown_for(record for group in groups for record in group.records)
    method = first.label if ablation else groups[0].label  # a variant's label is what it varies
    title = spec.title.format(dataset=dataset, setting=first.card.setting, method=method, ablation=ablation)
    frame = numbers(spec, groups, published, rank_published)
    return Table(spec, title, frame, tuple(protocol_notes(groups)), groups, tuple(published))
