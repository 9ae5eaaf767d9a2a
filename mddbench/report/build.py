"""Builds a report: tables and figures of each dataset. All numbers come from records."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import groupby
from pathlib import Path

from mddbench.experiments.ablation import Ablation
from mddbench.report.figures.ablations import draw_ablation, draw_differences, draw_test_curves
from mddbench.report.figures.budgets import draw_budgets, several_budgets
from mddbench.report.figures.canvas import forms_of
from mddbench.report.figures.encoders import draw_encoders, several_encoders
from mddbench.report.figures.ranks import draw_ranks
from mddbench.report.figures.sharing import draw_sharing, sharing_of
from mddbench.report.figures.sheet import Draw, file_names, robustness_pictures, sheet_pictures
from mddbench.report.manifest import Manifest
from mddbench.report.rows.entries import Entry
from mddbench.report.rows.groups import (
    Group,
    Sheet,
    defined_metrics,
    group_by_protocol,
    quality_metric,
    refusals,
    sheets,
)
from mddbench.report.rows.published import PublishedRow, published_rows
from mddbench.report.rows.ranks import comparable, ranking
from mddbench.report.rows.scored import scored_rows
from mddbench.report.rows.shifted import shifted_rows
from mddbench.report.rows.studies import Study, only_of_ablation, studies
from mddbench.report.tables.csv import csv, csv_lines
from mddbench.report.tables.differences import confidence_table, differences_csv, differences_table, paired_differences
from mddbench.report.tables.latex import latex
from mddbench.report.tables.markdown import folded_markdown, markdown
from mddbench.report.tables.one_threshold import OneThreshold
from mddbench.report.tables.ranks import rank_tables
from mddbench.report.tables.results import Results, metrics_of
from mddbench.report.tables.robustness import Robustness
from mddbench.report.tables.selection import selection_table, with_curves
from mddbench.report.tables.spec import TableSpec, load_table, table_names
from mddbench.report.tables.table import MakeTable, RunOf, Table
from mddbench.report.tables.thresholds import threshold_tables
from mddbench.runs.records import Record

PAGE = "index.html"
FIRST = (
    "main",
    "by-category",
    "one-threshold",
    "conditions",
    "robustness",
    "thresholds-5",
    "thresholds-1",
    "thresholds-pixels",
)
THEN = ("ranks", "ranks-pairs", "differences", "low-rates", "cost")
ORDER = {name: place for place, name in enumerate((*FIRST, *THEN, "published", "confidence", "selection"))}
"""Place of a table in a section by the name of its file. All others are details of one method, which come last."""
OPEN = frozenset({*FIRST, *THEN})
"""Tables that a page shows at once; the others are folded."""


@dataclass(frozen=True)
class Section:
    """The part of a report about one sheet, or about the ablations of a dataset. Files are relative to the report.

    Attributes:
        title: Its title.
        groups: The rows of the sheet.
        tables: File without suffix -> function that makes the table for a narrow place, such as a page.
        whole: File without suffix -> function that makes the whole table, where it has more columns.
        pictures: File -> function that draws it.
        main: Name of a table for a terminal -> its file without suffix.
        traced: File without suffix -> rows of the table, of tables whose runs can be listed.
        markdown_only: Files of tables that have no LaTeX, and no CSV but one among `texts`.
        texts: Other text files -> content.
        one_threshold: The tables that follow from stored image scores; None if the section has none.
        robustness: The tables of changed test images; None if the section has none.
    """

    title: str
    groups: tuple[Group, ...]
    tables: dict[Path, MakeTable]
    whole: dict[Path, MakeTable]
    pictures: dict[Path, Draw]
    main: dict[str, Path]
    traced: dict[Path, tuple[Group, ...]]
    markdown_only: frozenset[Path] = frozenset()
    texts: dict[Path, str] = field(default_factory=dict)
    one_threshold: OneThreshold | None = None
    robustness: Robustness | None = None

    @cached_property
    def all_tables(self) -> dict[Path, MakeTable]:
        """All tables in the order of a page, with those from files beside records, which are loaded now."""
        stored = [each.tables() for each in (self.one_threshold, self.robustness) if each is not None]
        found = {**self.tables, **{file: make for tables in stored for file, make in tables.items()}}
        return dict(sorted(found.items(), key=lambda item: ORDER.get(item[0].name, len(ORDER))))


@dataclass(frozen=True)
class Report:
    """A report before it is written.

    Attributes:
        sections: All sections.
        entries: Identity of a record -> its entry.
        refused: A line for each set of rows that could not share a table.
    """

    sections: tuple[Section, ...]
    entries: dict[str, Entry]
    refused: tuple[str, ...] = ()

    @cached_property
    def texts(self) -> dict[Path, str]:
        """All text files of the report -> content."""
        texts: dict[Path, str] = {}
        for section in self.sections:
            for file, make in section.all_tables.items():
                whole = section.whole.get(file, make)(None)
                texts[file.with_name(f"{file.name}.md")] = markdown(whole)
                if file not in section.markdown_only:
                    texts[file.with_name(f"{file.name}.tex")] = latex(make(None), f"{file.parent.name}-{file.name}")
                    texts[file.with_name(f"{file.name}.csv")] = csv(whole)
            texts.update(section.texts)
        return texts

    @property
    def pictures(self) -> dict[Path, Draw]:
        """All figures of the report -> function that draws a figure, and a PDF beside it."""
        return {file: draw for section in self.sections for file, draw in section.pictures.items()}

    @property
    def main(self) -> dict[str, str]:
        """The tables for a terminal by name: of each sheet ('mini') and of each ablation ('mini fusion')."""
        files = {name: file for section in self.sections for name, file in section.main.items()}
        return {name: self.texts[file.with_name(f"{file.name}.md")] for name, file in files.items()}

    @property
    def main_tables(self) -> dict[str, Table]:
        """The same tables before they are text."""
        return {
            name: section.all_tables[file](None) for section in self.sections for name, file in section.main.items()
        }

    @property
    def marked(self) -> dict[str, str]:
        """The tables that a text file can hold between marks: those of `main`, and without costs as 'mini, folded'."""
        tables = {
            f"{name}, folded": folded_markdown(section.tables[file](None))
            for section in self.sections
            for name, file in section.main.items()
        }
        return {**self.main, **tables}


def build_report(
    entries: list[Entry], ablations: Iterable[Ablation], allow_mixed: bool = False, rank_published: bool = False
) -> Report:
    """Build all tables of `paper_tables/` and all figures of each sheet, and a table and a figure of each ablation.

    Args:
        entries: The records, with the data that their runs kept.
        ablations: The ablations to look for among the records.
        allow_mixed: True if rows whose protocol cards differ share a table, with marks.
        rank_published: True if the best of a column may be a published number.

    Returns:
        The report. Nothing is written or drawn yet.
    """
    by_identity = {entry.record.identity: entry for entry in entries}
    records = [entry.record for entry in entries]
    of_tables = [record for record in records if not only_of_ablation(record)]
    all_sheets = sheets(of_tables, allow_mixed)
    sections = [_sheet(sheet, by_identity, rank_published) for sheet in all_sheets]
    for dataset, groups in group_by_protocol(of_tables).items():
        section = next(each for each, sheet in zip(sections, all_sheets, strict=True) if sheet.folder == dataset)
        if budgets := several_budgets(groups):
            section.pictures[Path(dataset) / "budgets.png"] = partial(draw_budgets, budgets, dataset)
        if several_encoders(groups):
            section.pictures[Path(dataset) / "encoders.png"] = partial(draw_encoders, groups, dataset)
    spec = next(spec for spec in map(load_table, table_names()) if spec.rows == "variant")
    by_dataset = groupby(studies(ablations, group_by_protocol(records)), lambda study: study.dataset)
    sections += [_ablations(spec, dataset, list(members)) for dataset, members in by_dataset]
    return Report(tuple(sections), by_identity, tuple(refusals(all_sheets)))


def trace(report: Report) -> str:
    """List the runs behind the rows of the main tables and of ablations.

    Args:
        report: The report.

    Returns:
        CSV with a line for each run in a row. Runs in no table come last.
    """
    rows: list[tuple[str, str, Record]] = []
    for section in report.sections:
        for file, groups in section.traced.items():
            rows += [(file.as_posix(), group.marked_label, record) for group in groups for record in group.records]
    in_tables = {record.identity for _, _, record in rows}
    rows += [("", "", entry.record) for identity, entry in report.entries.items() if identity not in in_tables]
    fields = ("seed", "experiment", "identity", "protocol")
    lines = [
        (table, row, *(getattr(record, name) for name in fields), report.entries[record.identity].run)
        for table, row, record in rows
    ]
    return csv_lines([("table", "row", *fields, "run"), *lines])


def differences(report: Report, folder: Path) -> list[str]:
    """Compare the tables in a folder with those of a report.

    Args:
        report: The report.
        folder: Folder of an earlier report.

    Returns:
        Lines of a diff, and a line for each file that follows from no record; none if all agree.
    """
    lines: list[str] = []
    for name, text in sorted(report.texts.items()):
        file = folder / name
        stored = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.exists() else []
        lines += difflib.unified_diff(stored, text.splitlines(), str(file), "from the records", lineterm="")
    drawn = {file for name in report.pictures for file in forms_of(name)}
    own = {folder / name for name in (*report.texts, *drawn, Path(PAGE))}
    earlier = sorted(file for file in Manifest(folder).files - own if file.exists())
    return lines + [f"{file}: follows from no record" for file in earlier]


def _sheet(sheet: Sheet, entries: Mapping[str, Entry], rank_published: bool) -> Section:
    folder, dataset, groups = Path(sheet.folder), sheet.dataset, sheet.groups
    texts: dict[Path, str] = {}
    pictures = {folder / name: draw for name, draw in sheet_pictures(sheet, entries).items()}
    results = _results(sheet, rank_published)
    tables: dict[Path, MakeTable] = {file: each.narrow().table for file, each in results.items()}
    asides: dict[Path, Table] = {}
    if (intervals := confidence_table(dataset, groups)) is not None:
        asides[folder / "confidence"] = intervals
    if pairs := paired_differences(groups):
        asides[folder / "differences"] = differences_table(dataset, pairs)
        texts[folder / "differences.csv"] = differences_csv(pairs)
        pictures[folder / "differences.png"] = partial(draw_differences, dataset, pairs)
    if curves := with_curves(groups):
        asides[folder / "selection"] = selection_table(dataset, curves)
        pictures[folder / "selection.png"] = partial(draw_test_curves, dataset, curves)
    tables |= {file: partial(_made, table) for file, table in asides.items()}
    tables |= threshold_tables(folder, dataset, groups, file_names(groups))
    if ranked := comparable(groups):
        metrics = dict.fromkeys((quality_metric(ranked), *defined_metrics(ranked)))
        rankings = [each for metric in metrics if (each := ranking(ranked, metric)) is not None]
        tables |= rank_tables(folder, dataset, ranked, rankings)
        if rankings:
            pictures[folder / "ranks.png"] = partial(draw_ranks, dataset, rankings[0])
    names = file_names(groups)
    robustness = Robustness(folder, dataset, names, partial(shifted_rows, groups, entries))
    drawn = robustness_pictures(lambda: robustness.found, dataset)
    pictures |= {folder / name: draw for name, draw in drawn.items()}
    return Section(
        title=dataset,
        groups=groups,
        tables=tables,
        whole={file: each.table for file, each in results.items()},
        pictures=pictures,
        main={sheet.folder: folder / "main"},
        traced={folder / "main": groups},
        markdown_only=frozenset(asides),
        texts=texts,
        one_threshold=OneThreshold(folder, dataset, names, partial(scored_rows, groups, entries)),
        robustness=robustness,
    )


def _made(table: Table, _: RunOf | None) -> Table:
    """Return a table that is made already, as a function that makes it."""
    return table


def _results(sheet: Sheet, rank_published: bool) -> dict[Path, Results]:
    """The tables of a sheet that `paper_tables/` describes, by their files without suffix."""
    tables: dict[Path, Results] = {}
    folder, names = Path(sheet.folder), file_names(sheet.groups)
    for name in table_names():
        spec = load_table(name)
        concerned = tuple(group for group in sheet.groups if spec.concerns(group.records))
        if spec.by_method:
            spec = spec.with_columns(defined_metrics(concerned))
            if len(concerned) > 1 and spec.columns:
                tables[folder / name] = _table(spec, concerned, sheet.dataset)
        elif spec.rows == "category":
            for group in concerned:
                tables[folder / f"{name}-{names[group.label]}"] = _table(spec, (group,), sheet.dataset)
        elif spec.rows == "method" and concerned:
            agreeing = [group.first for group in sheet.groups if not group.differs]
            usual = next((record for record in agreeing if not record.card.one_pass), agreeing[0])
            published = published_rows(usual, spec.published, not spec.columns)
            if published or spec.published != "all":
                table = _table(spec, sheet.groups, sheet.dataset, published=published, rank_published=rank_published)
                tables[folder / name] = table
    return tables


def _ablations(spec: TableSpec, dataset: str, members: Sequence[Study]) -> Section:
    files = {study.name: Path(dataset) / f"ablation-{study.name}" for study in members}
    groups = {files[study.name]: tuple(study.groups) for study in members}
    tables = {files[study.name]: _table(spec, tuple(study.groups), dataset, study.title).table for study in members}
    tables |= {file: each.table for study in members for file, each in _by_category(study).items()}
    pictures: dict[Path, Draw] = {
        Path(dataset) / f"ablation-{study.name}.png": partial(draw_ablation, study) for study in members
    }
    for study in members:
        if (shared := sharing_of(study)) is not None:
            file = Path(dataset) / f"ablation-{study.name}-sharing.png"
            pictures[file] = partial(draw_sharing, study, shared)
    main = {f"{dataset} {name}": file for name, file in files.items()}
    return Section(f"{dataset}: ablations", (), dict(tables), {}, pictures, main, groups)


def _by_category(study: Study) -> dict[Path, Results]:
    """The table of each category by variants, for an ablation that changes which categories share a model."""
    groups = tuple(study.groups)
    if len({str(group.first.card.setting) for group in groups}) == 1:
        return {}
    spec = next(spec for spec in map(load_table, table_names()) if spec.by_method).with_columns(defined_metrics(groups))
    title = f"{study.title}, {groups[0].first.label} on {study.dataset}"
    return (
        {Path(study.dataset) / f"ablation-{study.name}-by-category": _table(spec, groups, title)}
        if spec.columns
        else {}
    )


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
    settings = dict.fromkeys(str(group.first.card.setting) for group in groups)
    setting = first.card.setting if len(settings) == 1 or not ablation else f"{len(first.categories)} categories"
    words = {"dataset": dataset, "setting": setting, "method": method, "ablation": ablation}
    title = spec.title.format(**words, metrics=metrics_of(spec))
    return Results(spec, title, groups, tuple(published), rank_published)
