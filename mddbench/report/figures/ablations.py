"""Plots of ablations, of paired differences, and of what runs recorded while they trained, from records alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from mddbench.metrics.names import COLUMNS, LABELS, MEAN
from mddbench.report.figures.canvas import canvas, legend, panels, save
from mddbench.report.figures.style import ACCENT, INK, TEXT, TICK, WIDTH, folded, series, shown_metrics
from mddbench.report.rows.groups import Group, counted_seeds, defined_metrics
from mddbench.report.rows.studies import Study
from mddbench.report.tables.differences import MINUS, Pair

LEAST_SPAN = 4.0  # of a curve's axis in percent, so that noise between seeds does not look like a trend
MOST_PAIRS = 6
MOST_LETTERS = 20  # of the numbers below a curve, so that they do not overlap; longer ones are turned
PER_CATEGORY = re.compile(r"(.+)_(\d+)")


def draw_ablation(study: Study, file: Path) -> None:
    """Draw an ablation: a curve if its variants are numbers, else a bar from 0 for each variant with its mean.

    Seeds are dots, and their standard deviation is a whisker. Variants with a seed without a value are left out.

    Args:
        study: The ablation.
        file: The PNG file; a PDF is written beside it.
    """
    keys = shown_metrics(defined_metrics(study.groups))
    frame = _values(study, keys)
    label = study.groups[0].first.label
    seeds = counted_seeds(group.records for group in study.groups)
    title = f"{study.title}: {label} on {study.dataset}, {seeds} a variant"
    if study.values is None:
        names = [folded(group.label, 1.5, TICK) for group in study.groups]
        lines = sum(max(1, name.count("\n") + 1) for name in names)
        grid = (2, len(keys) // 2) if len(keys) % 2 == 0 else (1, len(keys))
        figure, axes = canvas((WIDTH, 1.1 + 0.2 * len(names) + 0.24 * lines), grid, share_y=True)
        draw: Callable[[Any, pd.DataFrame], None] = partial(_bars, labels=names)
    else:
        figure, axes = canvas((WIDTH, 2.0), (1, len(keys)))
        draw = _curve
        figure.supxlabel(study.ablation.axis_name, fontsize=TEXT, parse_math=False)
        title += " (axes do not start at 0)"
    for axis, key in zip(axes, keys, strict=True):
        draw(axis, frame[frame.metric == key])
        axis.set_title(f"{LABELS[key]} [%]", fontsize=TEXT)
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
    figure, axes, _ = panels(len(names), 3, margin, (2.2, 1.7))
    for axis, name in zip(axes, names, strict=True):
        values = frame[frame.panel == name]
        for number, (category, points_of) in enumerate(values.groupby("category", sort=False)):
            label = str(category).replace("_", " ") or None
            axis.plot(points_of.epoch, points_of.value, linewidth=1.1, label=label, **series(number))
        low, high = values.value.agg(["min", "max"])
        if low == high:
            axis.set_ylim(low - 0.05, low + 1)
        axis.set_title(folded(name.replace("_", " "), 2.1, TEXT), fontsize=TEXT, parse_math=False)
        axis.set_xlabel("epoch", fontsize=TEXT)
        axis.xaxis.get_major_locator().set_params(integer=True)
    legend(figure, axes)
    save(figure, file, f"{group.label} on {record.dataset}, seed {record.seed}: diagnostics of the method")


def draw_differences(dataset: str, pairs: Sequence[Pair], file: Path) -> None:
    """Draw paired differences: a panel for each pair, and for each metric the mean as a dot on its interval.

    Args:
        dataset: Name of the dataset, for the title.
        pairs: The pairs. The first MOST_PAIRS of them are drawn.
        file: The PNG file; a PDF is written beside it.
    """
    shown = pairs[:MOST_PAIRS]
    keys = [key for key in COLUMNS if any(pair.differences[key].categories for pair in shown)] or COLUMNS
    figure, axes, columns = panels(len(shown), 3, (1.0, 0.4), (2.0, 1.9), share_y=True)
    for axis, pair in zip(axes, shown, strict=True):
        for row, key in enumerate(keys):
            difference = pair.differences[key]
            ends = [100 * difference.low, 100 * difference.high]
            axis.plot(ends, [row, row], color=INK, linewidth=2.0, solid_capstyle="butt")
            axis.plot(100 * difference.mean, row, "o", color=ACCENT, markersize=3.5)
        axis.axvline(0, color=ACCENT, linewidth=0.8)
        axis.set_title(folded(f"{pair.better} {MINUS} {pair.worse}", 1.9, TEXT), fontsize=TEXT, parse_math=False)
    for axis in axes[-columns:]:
        axis.set_xlabel("percent points", fontsize=TEXT)
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
        axis.set_xlabel("epoch", fontsize=TEXT)
        axis.xaxis.get_major_locator().set_params(integer=True)
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


def _bars(axis: Any, frame: pd.DataFrame, labels: list[str]) -> None:
    from matplotlib.ticker import MaxNLocator

    statistics, seeds = _statistics(frame)
    means, deviations = statistics["mean"], statistics["std"]
    axis.barh(statistics.index, means, xerr=deviations, color=INK, alpha=0.55, height=0.62, ecolor=ACCENT)
    axis.plot(seeds.value, seeds.x, "o", color=ACCENT, markersize=2.2)
    high = float(max(seeds.value.max(), (means + deviations).max())) if len(statistics) else 1.0
    high = high if high > 0 else 1.0
    for x in sorted(set(frame.x)):
        several = (frame.x == x).sum() > 1
        text, end = chr(0x2013), 0.0
        if x in statistics.index:
            average, deviation = means.loc[x], deviations.loc[x]
            text = f"{average:.1f} ± {deviation:.1f}" if several else f"{average:.1f}"
            end = max(average + deviation, seeds[seeds.x == x].value.max())
        axis.text(end + 0.03 * high, x, text, fontsize=TICK, va="center")
    axis.set_xlim(0.0, 1.4 * high)
    axis.grid(False, axis="y")
    axis.set_xticks([tick for tick in MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(0.0, high) if tick <= high])
    axis.set_yticks(range(len(labels)), labels, fontsize=TICK, parse_math=False)
    axis.set_ylim(len(labels) - 0.5, -0.5)


def _curve(axis: Any, frame: pd.DataFrame) -> None:
    statistics, seeds = _statistics(frame)
    xs = sorted(set(frame.x))
    spread = statistics["std"] if statistics["std"].any() else None
    axis.errorbar(statistics.index, statistics["mean"], yerr=spread, color=INK, ecolor=ACCENT, capsize=2, linewidth=1.3)
    axis.plot(seeds.x, seeds.value, "o", color=ACCENT, markersize=2.2)
    low, high = axis.get_ylim()
    spare = max(0.0, LEAST_SPAN - (high - low)) / 2
    axis.set_ylim(low - spare, high + spare)
    if len(xs) > 2 and min(xs) > 0 and max(xs) / min(xs) >= 8:
        axis.set_xscale("log")
    names = [f"{x:g}" for x in xs]
    axis.set_xticks(xs, names, rotation=45 if len("  ".join(names)) > MOST_LETTERS else 0)
    axis.minorticks_off()
