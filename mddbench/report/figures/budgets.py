"""The figure of quality against training time, for methods that were trained with several budgets of epochs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from mddbench.metrics.names import LABELS, MEAN
from mddbench.report.figures.canvas import canvas, legend, logarithmic, save
from mddbench.report.figures.style import COLOURS, TEXT, marks, series
from mddbench.report.rows.groups import Group, quality_metric
from mddbench.report.tables.costs import COSTS, cost_machines, mean_cost

TIME = "train_seconds"
Budgets = dict[str, list[Group]]
"""Label of a method -> its rows, which differ in their epochs only, few epochs first."""


def several_budgets(groups: Sequence[Group]) -> Budgets:
    """Find the methods that were trained with several budgets, and those of a single pass beside them.

    Args:
        groups: The rows of a dataset, of all sheets.

    Returns:
        The methods; empty if none has several budgets.
    """
    alike: dict[str, list[Group]] = {}
    for group in groups:
        record = group.first
        settings = {key: value for key, value in record.settings.items() if key not in ("epochs", "overrides")}
        alike.setdefault(json.dumps([record.method, record.fingerprint, settings], sort_keys=True), []).append(group)
    if not any(len(rows) > 1 for rows in alike.values()):
        return {}
    shown = [rows for rows in alike.values() if len(rows) > 1 or rows[0].first.card.one_pass]
    ordered = [sorted(rows, key=lambda group: len(group.first.history)) for rows in shown]
    labels = [rows[0].first.label for rows in ordered]
    return {
        label if labels.count(label) == 1 else f"{label} ({rows[0].first.experiment})": rows
        for label, rows in zip(labels, ordered, strict=True)
    }


def draw_budgets(budgets: Budgets, dataset: str, file: Path) -> None:
    """Draw a line for each method, with a mark for each budget and its number of epochs.

    Args:
        budgets: The methods, at least one.
        dataset: Name of the dataset.
        file: The PNG file. A PDF is written beside it.
    """
    key = quality_metric(group for rows in budgets.values() for group in rows)
    figure, axes = canvas((5.5, 3.2))
    axis = axes[0]
    times = []
    for number, (label, rows) in enumerate(budgets.items()):
        points = [(mean_cost(group.records, TIME) * COSTS[TIME].scale, _quality(group, key), group) for group in rows]
        points = [point for point in points if not math.isnan(point[0]) and not math.isnan(point[1])]
        if not points:
            continue
        xs, ys = [x for x, _, _ in points], [y for _, y, _ in points]
        times += xs
        axis.plot(xs, ys, linewidth=1.2, **series(number))
        axis.plot(xs, ys, label=label, markersize=4.5, **marks(number))
        for x, y, group in points:
            if not group.first.card.one_pass:
                place = {"textcoords": "offset points", "xytext": (0, 5), "ha": "center"}
                colour = COLOURS[number % len(COLOURS)]
                axis.annotate(str(len(group.first.history)), (x, y), fontsize=TEXT, color=colour, **place)
    axis.margins(0.1)
    if times and min(times) > 0:
        logarithmic(axis, "x")
    axis.set_xlabel(COSTS[TIME].label, fontsize=TEXT)
    axis.set_ylabel(f"{LABELS[key]} [%]", fontsize=TEXT)
    legend(figure, axes, list(budgets))
    machines = cost_machines([record for rows in budgets.values() for group in rows for record in group.records])
    save(figure, file, f"{dataset}: quality against training time, {machines}; numbers are epochs")


def _quality(group: Group, key: str) -> float:
    """A metric in percent, as the mean over the seeds; NaN if a seed has none."""
    return 100 * mean(record.value(MEAN, key) for record in group.records)
