"""Plots of ablations, of paired differences, and of what runs recorded while they trained, from records alone."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pandas as pd

from mddbench.metrics.names import COLUMNS, LABELS, MEAN
from mddbench.report.figures.canvas import canvas, legend, name_axes, panels, save
from mddbench.report.figures.style import (
    ACCENT,
    INK,
    QUIET,
    SHADE,
    TEXT,
    WIDTH,
    folded,
    is_narrow,
    series,
    shown_metrics,
)
from mddbench.report.rows.groups import Group, counted_seeds, defined_metrics
from mddbench.report.rows.studies import Study
from mddbench.report.tables.differences import MINUS, Pair

LEAST_SPAN = 4.0  # of an axis in percent, so that noise between seeds does not look like a trend
DOT = {"fmt": "o", "color": INK, "ecolor": ACCENT, "elinewidth": 0.9, "capsize": 2, "markersize": 4.5}
MOST_PAIRS = 6
MOST_LETTERS = 20  # of the numbers below a curve, so that they do not overlap; longer ones are turned
PER_CATEGORY = re.compile(r"(.+)_(\d+)")


def draw_ablation(study: Study, file: Path) -> None:
    """Draw the mean of each variant as a dot, its seeds as small dots and their standard deviation as a whisker.

    Dots are joined by a line if variants are numbers with several seeds. Of one seed each, a band shows how far seeds
    of the base lie apart, where it has several. Variants with a seed without a value are left out.

    Args:
        study: The ablation.
        file: The PNG file; PDF and SVG are written beside it.
    """
    keys = shown_metrics(defined_metrics(study.groups))
    frame, several = _values(study, keys), any(len(group.records) > 1 for group in study.groups)
    seeds = counted_seeds(group.records for group in study.groups)
    title = (
        f"{study.title}: {study.groups[0].first.label} on {study.dataset}, {seeds} a variant; axes do not start at 0"
    )
    if study.values is None:
        names = [folded(group.label, 1.3 if is_narrow() else 1.5, TEXT) for group in study.groups]
        lines = sum(name.count("\n") + 1 for name in names)
        figure, axes = canvas((WIDTH, 0.6 + 0.1 * len(names) + 0.14 * lines), (1, len(keys)), share="y")
        axes[0].set_yticks(range(len(names)), names, parse_math=False)
        axes[0].set_ylim(len(names) - 0.5, -0.5)
    else:
        figure, axes = canvas((WIDTH, 1.8), (1, len(keys)))
        figure.supxlabel(study.ablation.axis_name, fontsize=TEXT, parse_math=False)
    base = [] if several or study.base is None or len(study.base.records) < 2 else study.base.records
    for axis, key in zip(axes, keys, strict=True):
        draw = _dots if study.values is None else _curve
        draw(axis, frame[frame.metric == key], several)
        _band(axis, [100 * record.value(MEAN, key) for record in base], study.values is None)
        axis.set_title(f"{LABELS[key]} [%]", fontsize=TEXT)
    if base:
        title += f"; grey: mean and standard deviation of {len(base)} seeds of '{study.base_label}'"
    save(figure, file, title)


def draw_diagnostics(group: Group, file: Path) -> None:
    """Draw the numbers that a method logged in training, first seed. Numbers of several categories share a panel.

    Args:
        group: The row of the method, see `has_diagnostics`.
        file: The PNG file; a PDF is written beside it.
    """
    record = group.first
    points = []
    for log in record.history:
        for name, value in log.diagnostics.items():
            match = PER_CATEGORY.fullmatch(name)
            if match is None or int(match[2]) >= len(record.categories):
                panel, category = name, ""
            else:
                panel, category = match[1], record.categories[int(match[2])]
            points.append({"panel": panel, "category": category, "epoch": log.epoch, "value": value})
    frame = pd.DataFrame(points)
    names = list(dict.fromkeys(frame.panel))
    margin = (2.3 if len(names) == 1 else 0.6, 0.3)  # one panel alone is too narrow for the title
    figure, axes = panels(len(names), 3, margin, (2.2, 1.5))
    for axis, name in zip(axes, names, strict=True):
        values = frame[frame.panel == name]
        for number, (category, points_of) in enumerate(values.groupby("category", sort=False)):
            label = str(category).replace("_", " ") or None
            axis.plot(points_of.epoch, points_of.value, linewidth=1.1, label=label, **series(number))
        low, high = values.value.agg(["min", "max"])
        if low == high:
            axis.set_ylim(low - 0.05, low + 1)
        axis.set_title(folded(name.replace("_", " "), 2.1, TEXT), fontsize=TEXT, parse_math=False)
        axis.xaxis.get_major_locator().set_params(integer=True)
    name_axes(axes, "epoch")
    legend(figure, axes)
    save(figure, file, f"{group.label} on {record.shown_dataset}, seed {record.seed}: diagnostics of the method")


def draw_differences(dataset: str, pairs: Sequence[Pair], file: Path) -> None:
    """Draw paired differences: a panel for each pair, and for each metric the mean as a dot on its interval.

    Args:
        dataset: Name of the dataset, for the title.
        pairs: The pairs. The first MOST_PAIRS of them are drawn.
        file: The PNG file; a PDF is written beside it.
    """
    shown = pairs[:MOST_PAIRS]
    keys = [key for key in COLUMNS if any(pair.differences[key].categories for pair in shown)] or COLUMNS
    figure, axes = panels(len(shown), 3, (1.0, 0.4), (2.0, 1.7), share="xy")
    for axis, pair in zip(axes, shown, strict=True):
        for row, key in enumerate(keys):
            difference = pair.differences[key]
            ends = [100 * difference.low, 100 * difference.high]
            axis.plot(ends, [row, row], color=INK, linewidth=2.0, solid_capstyle="butt")
            axis.plot(100 * difference.mean, row, "o", color=ACCENT, markersize=3.5)
        axis.axvline(0, color=ACCENT, linewidth=0.8)
        axis.set_title(folded(f"{pair.better} {MINUS} {pair.worse}", 1.9, TEXT), fontsize=TEXT, parse_math=False)
    name_axes(axes, "percentage points")
    axes[0].set_yticks(range(len(keys)), [LABELS[key] for key in keys])
    axes[0].set_ylim(len(keys) - 0.5, -0.5)
    seeds = counted_seeds(pair.seeds for pair in shown)
    most = f", first {len(shown)} of {len(pairs)} pairs" if len(pairs) > len(shown) else ""
    save(figure, file, f"{dataset}: paired differences over {seeds}, 95 % bootstrap intervals{most}")


def draw_test_curves(dataset: str, groups: Sequence[Group], file: Path) -> None:
    """Draw the test metrics of each method while it trained: a line for each seed, with a ring at the last epoch.

    Args:
        dataset: Name of the dataset, for the title.
        groups: The rows, whose records all have a test curve.
        file: The PNG file; a PDF is written beside it.
    """
    keys = shown_metrics(defined_metrics(groups))
    figure, axes = canvas((WIDTH, 2.1), (1, len(keys)))
    for axis, key in zip(axes, keys, strict=True):
        for index, group in enumerate(groups):
            style = series(index)
            for number, record in enumerate(group.records):
                epochs = [point.epoch for point in record.test_curve]
                values = [100 * point.value(key) for point in record.test_curve]
                label = group.marked_label if number == 0 else None
                axis.plot(epochs, values, linewidth=1.1, label=label, **style)
                axis.plot(epochs[-1], values[-1], "o", color=style["color"], markersize=4, fillstyle="none")
        axis.set_title(f"{LABELS[key]} [%]", fontsize=TEXT)
        axis.xaxis.get_major_locator().set_params(integer=True)
    name_axes(axes, "epoch")
    legend(figure, axes)
    save(figure, file, f"{dataset}: on the test set while training (a diagnostic; only the ringed epoch counts)")


def has_diagnostics(group: Group) -> bool:
    """Return True if there is something for `draw_diagnostics` to draw."""
    return any(log.diagnostics for log in group.first.history)


def _values(study: Study, keys: Sequence[str]) -> pd.DataFrame:
    """A row for each variant, metric and seed: x (the variant's number or index), metric, value in percent."""
    xs = study.values or [float(index) for index in range(len(study.groups))]
    rows = [
        {"x": x, "metric": key, "value": 100 * record.value(MEAN, key)}
        for x, group in zip(xs, study.groups, strict=True)
        for record in group.records
        for key in keys
    ]
    frame: pd.DataFrame = pd.DataFrame(rows)
    return frame


def _statistics(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Mean and std (0 for one seed) by x, of variants whose seeds all have a value; and the rows of these variants."""
    complete = frame.groupby("x").filter(lambda rows: bool(rows.value.notna().all()))
    statistics: pd.DataFrame = complete.groupby("x").value.agg(["mean", "std"]).fillna(0.0)
    return statistics, frame[frame.x.isin(statistics.index)]


def _dots(axis: Any, frame: pd.DataFrame, several: bool) -> None:
    """Draw a row for each variant."""
    statistics, seeds = _statistics(frame)
    spread = statistics["std"] if several else None
    axis.plot(seeds.value, seeds.x, "o", color=QUIET, markersize=2.2)
    axis.errorbar(statistics["mean"], statistics.index, xerr=spread, **DOT)
    _widen(axis, "x")
    axis.grid(False, axis="y")


def _curve(axis: Any, frame: pd.DataFrame, several: bool) -> None:
    """Draw a column for each variant, at the number that it is."""
    statistics, seeds = _statistics(frame)
    xs = sorted(set(frame.x))
    axis.plot(seeds.x, seeds.value, "o", color=QUIET, markersize=2.2)
    style = {**DOT, "linestyle": "-", "linewidth": 1.0} if several else DOT
    axis.errorbar(statistics.index, statistics["mean"], yerr=statistics["std"] if several else None, **style)
    _widen(axis, "y")
    if len(xs) > 2 and min(xs) > 0 and max(xs) / min(xs) >= 8:
        axis.set_xscale("log")
    axis.margins(x=0.15)
    names = [f"{x:g}" for x in xs]
    axis.set_xticks(xs, names, rotation=45 if len("  ".join(names)) > MOST_LETTERS else 0)
    axis.minorticks_off()


def _widen(axis: Any, which: str) -> None:
    """Give the axis of a metric at least LEAST_SPAN."""
    low, high = axis.get_xlim() if which == "x" else axis.get_ylim()
    spare = max(0.0, LEAST_SPAN - (high - low)) / 2
    axis.set(**{f"{which}lim": (low - spare, high + spare)})


def _band(axis: Any, values: Sequence[float], upright: bool) -> None:
    """Shade one standard deviation around the mean of values; nothing if there are none, or if one is not defined."""
    if not values or any(map(math.isnan, values)):
        return
    centre, deviation = mean(values), stdev(values)
    span, line = (axis.axvspan, axis.axvline) if upright else (axis.axhspan, axis.axhline)
    span(centre - deviation, centre + deviation, color=SHADE, alpha=0.5, linewidth=0, zorder=0)
    line(centre, color=QUIET, linewidth=0.8, zorder=0)
