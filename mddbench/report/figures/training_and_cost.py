"""Figures of a sheet from records alone: how methods train, how they differ by category, and quality against cost."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from mddbench.metrics.names import LABELS, MEAN
from mddbench.report.figures.canvas import canvas, label_points, legend, logarithmic, name_axes, panels, save
from mddbench.report.figures.style import ACCENT, BAND, QUIET, SHADE, TEXT, WIDTH, folded, marks, series, shown_metrics
from mddbench.report.rows.groups import Group, counted_seeds, defined_metrics, quality_metric
from mddbench.report.tables.costs import COSTS, cost_machines, mean_cost

PRICES = ("inference_ms_per_image", "train_seconds", "parameters_total")
LOGARITHMIC = 10.0  # an axis is logarithmic if the ratio of its largest to its smallest value is above this number


def draw_training(groups: Sequence[Group], dataset: str, file: Path) -> None:
    """Draw the loss of each method that has one, and the terms of the loss, as means over the seeds.

    The range of the loss over the seeds is shaded. Methods that only collect features have no loss and no panel.
    """
    groups = [group for group in groups if all(record.history for record in group.records)]
    groups = [g for g in groups if all(log.loss is not None for record in g.records for log in record.history)]
    if not groups:
        return
    figure, axes = panels(len(groups), 3, (0.6, 0.3), (2.2, 1.6))
    all_terms = list(dict.fromkeys(term for group in groups for term in _terms(group)))
    for axis, group in zip(axes, groups, strict=True):
        epochs = list(zip(*(record.history for record in group.records), strict=False))
        xs = [logs[0].epoch for logs in epochs]
        losses = [[log.loss for log in logs if log.loss is not None] for logs in epochs]
        shade = "range over seeds" if len(group.records) > 1 else None
        lows, highs = ([least(values) for values in losses] for least in (min, max))
        axis.fill_between(xs, lows, highs, color=SHADE, linewidth=0, label=shade)
        axis.plot(xs, [mean(values) for values in losses], color=ACCENT, linewidth=1.6, label="loss")
        for term in _terms(group):
            means = [mean(log.terms.get(term, math.nan) for log in logs) for logs in epochs]
            axis.plot(xs, means, linewidth=1.2, label=term, **series(all_terms.index(term) + 1))
        values = [value for line in axis.get_lines() for value in line.get_ydata()]
        if min(values, default=0.0) > 0 and max(values) / min(values) > LOGARITHMIC:
            logarithmic(axis, "y")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set_title(folded(group.marked_label, 1.4, TEXT), fontsize=TEXT, parse_math=False)
    name_axes(axes, "epoch", "training loss")
    legend(figure, axes, ["loss", "range over seeds", *all_terms])
    save(figure, file, f"{dataset}: training, means of an epoch, {counted_seeds(group.records for group in groups)}")


def draw_dots(groups: Sequence[Group], dataset: str, file: Path) -> None:
    """Draw each category in a row, with a mark for each method: mean and standard deviation over the seeds.

    There is no mark where a seed has no value.
    """
    categories = [*groups[0].first.categories, MEAN]
    height = max(0.2, min(0.1 + 0.05 * max(len(groups), 2), 8.0 / len(categories)))
    keys = shown_metrics(defined_metrics(groups))
    figure, axes = canvas((WIDTH, 0.75 + height * len(categories)), (1, len(keys)), share="y")
    step = 0.7 / max(len(groups), 2)
    for axis, key in zip(axes, keys, strict=True):
        for number, group in enumerate(groups):
            rows = {row: _values(group, category, key) for row, category in enumerate(categories)}
            defined = {row: values for row, values in rows.items() if not any(map(math.isnan, values))}
            if defined:
                means = [100 * mean(values) for values in defined.values()]
                deviations = [100 * _deviation(values) for values in defined.values()]
                ys = [row + (number - (len(groups) - 1) / 2) * step for row in defined]
                style = {"label": group.marked_label, "markersize": 3.6, "elinewidth": 0.8, **marks(number)}
                axis.errorbar(means, ys, xerr=deviations, **style)
        for row in range(0, len(categories), 2):
            axis.axhspan(row - 0.5, row + 0.5, color=BAND, zorder=0)
        axis.axhline(len(categories) - 1.5, color=ACCENT, linewidth=0.7)
        axis.grid(False, axis="y")
        axis.set_xlabel(f"{LABELS[key]} [%]", fontsize=TEXT)
    names = [folded(name.replace("_", " "), 1.2, TEXT) for name in categories]
    axes[0].set_yticks(range(len(categories)), names, parse_math=False)
    axes[0].set_ylim(len(categories) - 0.5, -0.5)
    legend(figure, axes, [group.marked_label for group in groups])
    seeds = counted_seeds(group.records for group in groups)
    save(figure, file, f"{dataset}: each category, {seeds} (axes do not start at 0)")


def draw_prices(groups: Sequence[Group], dataset: str, file: Path) -> None:
    """Draw quality against each cost, with a mark and a name for each method, and the Pareto front.

    A cost that fewer than two rows have is left out, unless that holds for all.
    Rows that stand apart in tables (another protocol, test labels given) are not on the front and beat no other row.
    """
    quality = quality_metric(groups)
    told = {key: sum(not math.isnan(mean_cost(group.records, key)) for group in groups) for key in PRICES}
    keys = [key for key in PRICES if told[key] > 1] or PRICES
    figure, axes = canvas((WIDTH, 2.2), (1, len(keys)), share="y")
    shown = []
    for axis, key in zip(axes, keys, strict=True):
        points: list[Any] = []
        for number, group in enumerate(groups):
            price = mean_cost(group.records, key) * COSTS[key].scale
            values = [100 * value for value in _values(group, MEAN, quality)]
            if math.isnan(price) or any(map(math.isnan, values)):
                continue
            style = {"markersize": 5, "elinewidth": 1.0, **marks(number)}
            axis.errorbar(price, mean(values), yerr=_deviation(values) or None, label=group.marked_label, **style)
            points.append((price, mean(values), group.marked_label, style["color"], group.competes))
        front = pareto([point[:2] for point in points if point[-1]])
        axis.plot(
            *zip(*front, strict=True) if front else ([], []),
            color=QUIET,
            linewidth=1.0,
            drawstyle="steps-post",
            zorder=0,
        )
        axis.margins(0.2)
        prices = [price for price, *_ in points]
        if prices and min(prices) > 0 and max(prices) / min(prices) > LOGARITHMIC:
            logarithmic(axis, "x")
        axis.set_xlabel(COSTS[key].label, fontsize=TEXT)
        steps = [corner for (x, y), (right, _) in itertools.pairwise(front) for corner in ((x, y), (right, y))]
        shown.append(([point[:-1] for point in points], [*steps, *front[-1:]]))
    name_axes(axes, y_label=f"{LABELS[quality]} [%]")
    legend(figure, axes, [group.marked_label for group in groups])
    for axis, (points, line) in zip(axes, shown, strict=True):
        label_points(axis, points, line)
    machines = cost_machines([record for group in groups for record in group.records])
    save(figure, file, f"{dataset}: quality against cost, {machines}; grey: the Pareto front")


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points (price, quality) that no other point beats, cheapest first.

    A point beats another one if it is better in one of the two and at least equal in the other.

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


def _values(group: Group, category: str, key: str) -> list[float]:
    return [record.value(category, key) for record in group.records]


def _deviation(values: Sequence[float]) -> float:
    """The standard deviation of a sample; 0 for a single value."""
    return stdev(values) if len(values) > 1 else 0.0
