"""Figures of a sheet that need records only: how methods train, where they differ, what quality costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from mddbench.metrics.names import LABELS, MAD
from mddbench.records import EpochLog
from mddbench.report.canvas import ACCENT, canvas, logarithmic, marks, save, series
from mddbench.report.costs import COSTS, cost_place, mean_cost
from mddbench.report.groups import Group
from mddbench.report.tables import MEAN

DOTTED = (MAD.key, "i_auroc", "aupro", "p_ap")
PRICES = ("inference_ms_per_image", "train_seconds", "parameters_total")
LOGARITHMIC = 10.0
"""From this ratio of largest to smallest on, an axis is logarithmic."""


def draw_training(groups: Sequence[Group], dataset: str, file: Path) -> None:
    """Write a picture of the losses while training: a panel a method, the loss and its terms as means over the seeds, the range
    of the loss over the seeds shaded.
    """
    columns = min(len(groups), 3)
    rows = -(-len(groups) // columns)
    figure, axes = canvas((1.0 + 3.4 * columns, 0.5 + 2.7 * rows), (rows, columns))
    for axis, group in zip(axes, groups, strict=False):
        epochs = list(zip(*(record.history for record in group.records), strict=False))
        xs = [logs[0].epoch for logs in epochs]
        losses = [[log.loss for log in logs] for logs in epochs]
        axis.fill_between(xs, [min(values) for values in losses], [max(values) for values in losses], color="#bbb")
        axis.plot(xs, [mean(values) for values in losses], color=ACCENT, linewidth=1.6, label="loss")
        for number, term in enumerate(_terms(group)):
            axis.plot(xs, [_mean_term(logs, term) for logs in epochs], linewidth=1.2, label=term, **series(number + 1))
        shown = [value for line in axis.get_lines() for value in line.get_ydata()]
        if min(shown, default=0.0) > 0 and max(shown) / min(shown) > LOGARITHMIC:
            logarithmic(axis, "y")
        axis.set_title(group.shown, fontsize=9, parse_math=False)
        axis.set_xlabel("epoch", fontsize=8)
        axis.set_ylabel("training loss, mean of an epoch", fontsize=8)
        axis.legend(fontsize=7, frameon=False)
    for axis in axes[len(groups) :]:
        axis.set_visible(False)
    figure.suptitle(f"{dataset}: training, {_seeds(groups)}", fontsize=10, parse_math=False)
    save(figure, file)


def draw_dots(groups: Sequence[Group], dataset: str, file: Path) -> None:
    """Write a picture of each category: a row a category, a mark a method at the mean over its seeds, the standard deviation as
    a whisker.
    """
    categories = [*groups[0].first.categories, MEAN]
    figure, axes = canvas((11.0, 1.3 + 0.3 * len(categories)), (1, len(DOTTED)), share_y=True)
    step = 0.6 / max(len(groups), 2)
    for axis, key in zip(axes, DOTTED, strict=True):
        for number, group in enumerate(groups):
            style, shift = marks(number), (number - (len(groups) - 1) / 2) * step
            for row, category in enumerate(categories):
                values = [100 * value for value in _values(group, category, key) if not math.isnan(value)]
                if not values:
                    continue
                error = stdev(values) if len(values) > 1 else None
                label = group.shown if row == len(categories) - 1 else None
                axis.errorbar(
                    mean(values), row + shift, xerr=error, label=label, markersize=4.5, elinewidth=1.0, **style
                )
        axis.axhline(len(categories) - 1.5, color=ACCENT, linewidth=0.7)
        axis.set_xlabel(f"{LABELS[key]} [%]", fontsize=8)
    axes[0].set_yticks(range(len(categories)), [name.replace("_", " ") for name in categories], parse_math=False)
    axes[0].set_ylim(len(categories) - 0.4, -0.6)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    figure.suptitle(
        f"{dataset}: each category, {_seeds(groups)} (axes do not start at 0)", fontsize=10, parse_math=False
    )
    save(figure, file)


def draw_prices(groups: Sequence[Group], dataset: str, file: Path) -> None:
    """Write a picture of quality against cost: a panel a cost, a mark a method, and the line of those that no other method
    beats in both.
    """
    figure, axes = canvas((11.0, 3.3), (1, len(PRICES)), share_y=True)
    for axis, key in zip(axes, PRICES, strict=True):
        points = []
        for number, group in enumerate(groups):
            price = mean_cost(group.records, key) * COSTS[key].scale
            values = [100 * value for value in _values(group, MEAN, MAD.key)]
            if math.isnan(price) or any(map(math.isnan, values)):
                continue
            error = stdev(values) if len(values) > 1 else None
            axis.errorbar(
                price, mean(values), yerr=error, label=group.shown, markersize=6, elinewidth=1.0, **marks(number)
            )
            points.append((price, mean(values)))
        best = pareto(points)
        axis.plot(
            [x for x, _ in best], [y for _, y in best], color="#999", linewidth=1.0, drawstyle="steps-post", zorder=0
        )
        prices = [x for x, _ in points if x > 0]
        if prices and max(prices) / min(prices) > LOGARITHMIC:
            logarithmic(axis, "x")
        axis.margins(0.15)
        axis.set_xlabel(COSTS[key].label, fontsize=8)
    axes[0].set_ylabel(f"{LABELS[MAD.key]} [%]", fontsize=8)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    where = cost_place([record for group in groups for record in group.records])
    figure.suptitle(
        f"{dataset}: quality against cost, {where}; grey line: what no method beats in both",
        fontsize=10,
        parse_math=False,
    )
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


def _terms(group: Group) -> list[str]:
    """The terms of a method's loss, if it has several."""
    terms = list(dict.fromkeys(name for log in group.first.history for name in log.terms))
    return terms if len(terms) > 1 else []


def _mean_term(logs: tuple[EpochLog, ...], term: str) -> float:
    return mean(log.terms.get(term, math.nan) for log in logs)


def _values(group: Group, place: str, key: str) -> list[float]:
    """A metric of all seeds."""
    return [record.value(place, key) for record in group.records]


def _seeds(groups: Sequence[Group]) -> str:
    counts: Any = sorted({len(group.records) for group in groups})
    return " or ".join(map(str, counts)) + (" seed" if counts == [1] else " seeds")
