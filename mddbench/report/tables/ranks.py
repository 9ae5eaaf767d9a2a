"""The tables of ranks: a row for each method, and a row for each pair of methods."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from mddbench.metrics.names import LABELS
from mddbench.report.rows.groups import Group
from mddbench.report.rows.ranks import LEVEL, RankedPair, Ranking
from mddbench.report.tables.results import protocol, remarks
from mddbench.report.tables.table import DASH, Cell, Column, MakeTable, Row, RunOf, Table, number, one_line

NAME, PAIRS = "ranks", "ranks-pairs"
NOTE = (
    "Rank of a method among the methods of the table, 1 for the best, mean over categories. A category counts once, with its "
    "mean over seeds; equal values share a rank."
)


def rank_tables(
    folder: Path, dataset: str, groups: Sequence[Group], rankings: Sequence[Ranking]
) -> dict[Path, MakeTable]:
    """Prepare the tables.

    Args:
        folder: Folder of their files, relative to the report.
        dataset: Name of the dataset for titles.
        groups: The ranked rows.
        rankings: A ranking in each metric; that of the quality metric first.

    Returns:
        File without suffix -> function that makes the table, given the run of a record for a page, or None.
    """
    if not rankings:
        return {}
    return {
        folder / NAME: partial(_methods_table, dataset, groups, rankings),
        folder / PAIRS: partial(_pairs_table, dataset, rankings[0]),
    }


def _methods_table(dataset: str, groups: Sequence[Group], rankings: Sequence[Ranking], run_of: RunOf | None) -> Table:
    rows = []
    by_label = {group.label: group for group in groups}
    for label in rankings[0].mean_ranks:
        group = by_label[label]
        cells = [Cell.of_count(len(group.records))]
        for ranking in rankings:
            best = ranking.mean_ranks[label] == min(ranking.mean_ranks.values())
            mean = ranking.mean_ranks[label]
            cells.append(Cell(f"{mean:.2f}", mean, mark="best" if best else ""))
        runs = tuple(map(run_of, group.records)) if run_of else ()
        rows.append(Row(one_line(label), tuple(cells), runs=runs))
    heads = (Column("n", "n", "count"), *(Column(LABELS[each.metric], each.metric, "cost") for each in rankings))
    counts = ", ".join(f"{LABELS[each.metric]} {each.categories}" for each in rankings)
    notes = (NOTE, f"Categories: {counts}.", *remarks(groups))
    return Table(f"{dataset}: mean ranks over categories", "Method", heads, tuple(rows), notes, protocol(groups))


def _pairs_table(dataset: str, ranking: Ranking, _: RunOf | None) -> Table:
    label = LABELS[ranking.metric]
    heads = (
        Column("Difference", "difference", "cost"),
        Column("Effect", "effect", "cost"),
        Column("p", "p", "cost"),
        Column("p, Holm", "p_holm", "cost"),
    )
    rows = tuple(Row(one_line(f"{pair.better} / {pair.worse}"), _cells(pair)) for pair in ranking.pairs)
    title = f"{dataset}: pairs of methods in {label}, over {ranking.categories} categories"
    return Table(title, "Pair", heads, rows, tuple(conclusions(ranking)))


def _cells(pair: RankedPair) -> tuple[Cell, ...]:
    effect = DASH if math.isnan(pair.effect) else f"{pair.effect:+.2f}"
    return (
        Cell(f"{100 * pair.difference:+.2f}", 100 * pair.difference),
        Cell(effect, number(pair.effect)),
        Cell(f"{pair.p:.4f}", pair.p),
        Cell(f"{pair.corrected:.4f}", pair.corrected, mark="best" if pair.corrected <= LEVEL else ""),
    )


def conclusions(ranking: Ranking) -> list[str]:
    """Say in plain words what the tests of a ranking can and do show.

    Args:
        ranking: The ranking.

    Returns:
        The lines.
    """
    least = min(2.0 ** (1 - ranking.categories), 1.0)
    needed = len(ranking.pairs) * least
    lines = [
        "Difference: percentage points, mean over categories. Effect: rank-biserial correlation, 1 if every category speaks "
        "for the first method. p: Wilcoxon's signed-rank test over categories, two-sided and exact; Holm's correction for "
        f"all {len(ranking.pairs)} pairs. Seeds are averaged before, never counted as further categories.",
    ]
    if needed > LEVEL:
        lines.append(
            f"Nothing can be claimed at {100 * LEVEL:.0f} %: with {ranking.categories} categories p is at least {least:.2g}, "
            f"and {needed:.2g} after the correction."
        )
    else:
        claimed = sum(pair.corrected <= LEVEL for pair in ranking.pairs)
        lines.append(f"{claimed} of {len(ranking.pairs)} pairs differ at {100 * LEVEL:.0f} % after the correction.")
    lines.append("It says nothing about categories that the dataset does not have.")
    return lines
