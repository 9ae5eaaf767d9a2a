"""Figures of a sheet that need records only: how methods train, where they differ, what quality costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from mddbench.metrics.names import LABELS, MAD
from mddbench.report.figures.canvas import (
    ACCENT,
    TEXT,
    TICK,
    WIDTH,
    balanced,
    canvas,
    folded,
    legend,
    logarithmic,
    marks,
    save,
    series,
    title,
    whole_numbers,
)
from mddbench.report.rows.groups import Group
from mddbench.report.tables.costs import COSTS, cost_place, mean_cost
from mddbench.report.tables.results import MEAN
from mddbench.runs.records import EpochLog

DOTTED = (MAD.key, "i_auroc", "aupro", "p_ap")
PRICES = ("inference_ms_per_image", "train_seconds", "parameters_total")
LOGARITHMIC = 10.0
"""From this ratio of largest to smallest on, an axis is logarithmic."""


def draw_training(groups: Sequence[Group], dataset: str, file: Path) -> None:
    """Write a picture of the losses while training: a panel a method, the loss and its terms as means over the seeds, the range
    of the loss over the seeds shaded. A method that only collects has no loss and no panel; nothing is written without any.
    """
    groups = [group for group in groups if _has_loss(group)]
    if not groups:
        return
    rows, columns = balanced(len(groups), 3)
    figure, axes = canvas((0.6 + 2.2 * columns, 0.3 + 1.9 * rows), (rows, columns))
    named = list(dict.fromkeys(term for group in groups for term in _terms(group)))
    for axis, group in zip(axes, groups, strict=False):
        epochs = list(zip(*(record.history for record in group.records), strict=False))
        xs = [logs[0].epoch for logs in epochs]
        losses = [[log.loss for log in logs if log.loss is not None] for logs in epochs]
        shade = "range over seeds" if len(group.records) > 1 else None
        lows, highs = ([least(values) for values in losses] for least in (min, max))
        axis.fill_between(xs, lows, highs, color="#bbb", linewidth=0, label=shade)
        axis.plot(xs, [mean(values) for values in losses], color=ACCENT, linewidth=1.6, label="loss")
        for term in _terms(group):
            style = series(named.index(term) + 1)
            axis.plot(xs, [_mean_term(logs, term) for logs in epochs], linewidth=1.2, label=term, **style)
        shown = [value for line in axis.get_lines() for value in line.get_ydata()]
        if min(shown, default=0.0) > 0 and max(shown) / min(shown) > LOGARITHMIC:
            logarithmic(axis, "y")
        whole_numbers(axis.xaxis)
        axis.set_title(folded(group.shown, 2.1, TEXT), fontsize=TEXT, parse_math=False)
        axis.set_xlabel("epoch", fontsize=TEXT)
    for axis in axes[len(groups) :]:
        axis.set_visible(False)
    for axis in axes[::columns]:
        axis.set_ylabel("training loss", fontsize=TEXT)
    legend(figure, axes[: len(groups)], ["loss", "range over seeds", *named])
    title(figure, f"{dataset}: training, means of an epoch, {_seeds(groups)}")
    save(figure, file)


def draw_dots(groups: Sequence[Group], dataset: str, file: Path) -> None:
    """Write a picture of each category: a row a category, a mark a method at the mean over its seeds, the standard deviation as
    a whisker; no mark where a seed has no value.
    """
    categories = [*groups[0].first.categories, MEAN]
    height = max(0.2, min(0.1 + 0.05 * max(len(groups), 2), 8.0 / len(categories)))
    figure, axes = canvas((WIDTH, 0.75 + height * len(categories)), (1, len(DOTTED)), share_y=True)
    step = 0.7 / max(len(groups), 2)
    for axis, key in zip(axes, DOTTED, strict=True):
        for number, group in enumerate(groups):
            rows = {row: _values(group, category, key) for row, category in enumerate(categories)}
            kept = {row: values for row, values in rows.items() if not any(map(math.isnan, values))}
            if kept:
                axis.errorbar(
                    [100 * mean(values) for values in kept.values()],
                    [row + (number - (len(groups) - 1) / 2) * step for row in kept],
                    xerr=[100 * _deviation(values) for values in kept.values()],
                    label=group.shown,
                    markersize=3.6,
                    elinewidth=0.8,
                    **marks(number),
                )
        for row in range(0, len(categories), 2):
            axis.axhspan(row - 0.5, row + 0.5, color="#f3f3f3", zorder=0)
        axis.axhline(len(categories) - 1.5, color=ACCENT, linewidth=0.7)
        axis.grid(False, axis="y")
        axis.set_xlabel(f"{LABELS[key]} [%]", fontsize=TEXT)
    names = [folded(name.replace("_", " "), 1.2, TICK) for name in categories]
    axes[0].set_yticks(range(len(categories)), names, parse_math=False)
    axes[0].set_ylim(len(categories) - 0.5, -0.5)
    legend(figure, axes, [group.shown for group in groups])
    title(figure, f"{dataset}: each category, {_seeds(groups)} (axes do not start at 0)")
    save(figure, file)


def draw_prices(groups: Sequence[Group], dataset: str, file: Path) -> None:
    """Write a picture of quality against cost: a panel a cost, a mark a method, and the line of those that no other method
    beats in both; rows that stand apart in tables are on no line and beat nobody.
    """
    figure, axes = canvas((WIDTH, 2.2), (1, len(PRICES)), share_y=True)
    for axis, key in zip(axes, PRICES, strict=True):
        prices, ranked = [], []
        for number, group in enumerate(groups):
            price = mean_cost(group.records, key) * COSTS[key].scale
            values = [100 * value for value in _values(group, MEAN, MAD.key)]
            if math.isnan(price) or any(map(math.isnan, values)):
                continue
            error = _deviation(values) or None
            style = marks(number)
            axis.errorbar(price, mean(values), yerr=error, label=group.shown, markersize=5, elinewidth=1.0, **style)
            prices.append(price)
            if not group.differs and not group.first.card.upper_bound:
                ranked.append((price, mean(values)))
        best = pareto(ranked)
        axis.plot(
            [x for x, _ in best], [y for _, y in best], color="#999", linewidth=1.0, drawstyle="steps-post", zorder=0
        )
        axis.margins(0.15)
        if prices and min(prices) > 0 and max(prices) / min(prices) > LOGARITHMIC:
            logarithmic(axis, "x")
        axis.set_xlabel(COSTS[key].label, fontsize=TEXT)
    axes[0].set_ylabel(f"{LABELS[MAD.key]} [%]", fontsize=TEXT)
    legend(figure, axes, [group.shown for group in groups])
    where = cost_place([record for group in groups for record in group.records])
    title(figure, f"{dataset}: quality against cost, {where}; grey line: what none beats in both")
    save(figure, file)


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of (price, quality) those that no other point beats in one and equals or beats in the other; cheapest first.

    >>> pareto([(3.0, 70.0), (1.0, 60.0), (2.0, 50.0), (1.0, 55.0)])
    [(1.0, 60.0), (3.0, 70.0)]
    """
    best: list[tuple[float, float]] = []
    for price, quality in sorted(points, key=lambda point: (point[0], -point[1])):
        if not best or quality > best[-1][1]:
            best.append((price, quality))
    return best


def _has_loss(group: Group) -> bool:
    """Whether its runs have epochs, each of them with a loss."""
    return all(record.history and all(log.loss is not None for log in record.history) for record in group.records)


def _terms(group: Group) -> list[str]:
    """The terms of a method's loss, if it has several."""
    terms = list(dict.fromkeys(name for log in group.first.history for name in log.terms))
    return terms if len(terms) > 1 else []


def _mean_term(logs: tuple[EpochLog, ...], term: str) -> float:
    return mean(log.terms.get(term, math.nan) for log in logs)


def _values(group: Group, place: str, key: str) -> list[float]:
    """A metric of all seeds."""
    return [record.value(place, key) for record in group.records]


def _deviation(values: Sequence[float]) -> float:
    """The standard deviation of a sample; 0 of a single value."""
    return stdev(values) if len(values) > 1 else 0.0


def _seeds(groups: Sequence[Group]) -> str:
    counts: Any = sorted({len(group.records) for group in groups})
    return " or ".join(map(str, counts)) + (" seed" if counts == [1] else " seeds")
