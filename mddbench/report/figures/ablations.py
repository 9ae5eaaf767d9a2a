"""Plots of ablations and of what methods say about themselves. Every number comes from records."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mddbench.metrics.names import COLUMNS, LABELS, MAD
from mddbench.report.figures.canvas import (
    ACCENT,
    INK,
    TEXT,
    TICK,
    WIDTH,
    balanced,
    canvas,
    folded,
    legend,
    save,
    series,
    title,
    whole_numbers,
)
from mddbench.report.rows.groups import Group
from mddbench.report.rows.studies import Study
from mddbench.report.tables.differences import MINUS, Pair
from mddbench.report.tables.results import MEAN

SHOWN = (MAD.key, "i_auroc", "aupro", "p_ap")
"""The metrics that a plot shows, one panel each; the table has all."""
LEAST_SPAN = 4.0
"""Of a curve's axis in percent, so that noise between seeds does not look like a trend."""
MOST_PAIRS = 6
MOST_LETTERS = 20
"""Of the numbers below a curve, so that none runs into the next; more are turned."""
PER_CATEGORY = re.compile(r"(.+)_(\d+)")


def draw_ablation(study: Study, file: Path) -> None:
    """Write a picture: a curve over the numbers that the variants are, or else a bar a variant from 0, with its mean in
    figures; seeds as dots, their standard deviation as a whisker; nothing where a seed has no value.
    """
    frame = _values(study)
    label = study.groups[0].first.label
    text = f"{study.title}: {label} on {study.dataset}, {_counted(study.groups)} a variant"
    if study.values is None:
        names = [folded(group.label, 1.5, TICK) for group in study.groups]
        lines = sum(max(1, name.count("\n") + 1) for name in names)
        figure, axes = canvas((WIDTH, 1.1 + 0.2 * len(names) + 0.24 * lines), (2, len(SHOWN) // 2), share_y=True)
        for axis, key in zip(axes, SHOWN, strict=True):
            _bars(axis, frame[frame.metric == key], names)
    else:
        figure, axes = canvas((WIDTH, 2.0), (1, len(SHOWN)), share_y=False)
        for axis, key in zip(axes, SHOWN, strict=True):
            _curve(axis, frame[frame.metric == key])
        figure.supxlabel(study.ablation.axis_name, fontsize=TEXT, parse_math=False)
        text += " (axes do not start at 0)"
    for axis, key in zip(axes, SHOWN, strict=True):
        axis.set_title(f"{LABELS[key]} [%]", fontsize=TEXT)
    title(figure, text)
    save(figure, file)


def draw_diagnostics(group: Group, file: Path) -> None:
    """Write a picture of what a method says about itself while it trains: a panel a number, a line a category where it has one
    for each; the first seed's.
    """
    record = group.first
    points = []
    for log in record.history:
        for name, value in log.diagnostics.items():
            match = PER_CATEGORY.fullmatch(name)
            number = int(match[2]) if match else -1
            known = match is not None and number < len(record.categories)
            points.append({
                "panel": match[1] if match and known else name,
                "line": record.categories[number] if known else "",
                "epoch": log.epoch,
                "value": value,
            })
    frame = pd.DataFrame(points)
    panels = list(dict.fromkeys(frame.panel))
    rows, columns = balanced(len(panels), 3)
    figure, axes = canvas((max(0.6 + 2.2 * columns, 4.5), 0.3 + 1.7 * rows), (rows, columns), share_y=False)
    for axis, panel in zip(axes, panels, strict=False):
        for number, (line, part) in enumerate(frame[frame.panel == panel].groupby("line", sort=False)):
            category = str(line).replace("_", " ") or None
            axis.plot(part.epoch, part.value, linewidth=1.1, label=category, **series(number))
        low, high = frame[frame.panel == panel].value.agg(["min", "max"])
        if low == high:
            axis.set_ylim(low - 0.05, low + 1)
        axis.set_title(folded(panel.replace("_", " "), 2.1, TEXT), fontsize=TEXT, parse_math=False)
        axis.set_xlabel("epoch", fontsize=TEXT)
        whole_numbers(axis.xaxis)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    legend(figure, axes[: len(panels)])
    title(figure, f"{group.label} on {record.dataset}, seed {record.seed}: what the method says of itself")
    save(figure, file)


def draw_differences(dataset: str, pairs: Sequence[Pair], file: Path) -> None:
    """Write a picture of paired differences: a panel a pair, a line a metric, its mean as a dot on its interval."""
    shown = pairs[:MOST_PAIRS]
    rows, columns = balanced(len(shown), 3)
    figure, axes = canvas((1.0 + 2.0 * columns, 0.4 + 1.9 * rows), (rows, columns), share_y=True)
    for axis, pair in zip(axes, shown, strict=False):
        for place, key in enumerate(COLUMNS):
            found = pair.differences[key]
            ends = [100 * found.low, 100 * found.high]
            axis.plot(ends, [place, place], color=INK, linewidth=2.0, solid_capstyle="butt")
            axis.plot(100 * found.mean, place, "o", color=ACCENT, markersize=3.5)
        axis.axvline(0, color=ACCENT, linewidth=0.8)
        axis.set_title(folded(f"{pair.one} {MINUS} {pair.other}", 1.9, TEXT), fontsize=TEXT, parse_math=False)
    for axis in axes[max(len(shown) - columns, 0) : len(shown)]:
        axis.set_xlabel("percent points", fontsize=TEXT)
    for axis in axes[len(shown) :]:
        axis.set_visible(False)
    axes[0].set_yticks(range(len(COLUMNS)), [LABELS[key] for key in COLUMNS])
    axes[0].set_ylim(len(COLUMNS) - 0.5, -0.5)
    seeds = sorted({len(pair.seeds) for pair in shown})
    counted = " or ".join(map(str, seeds)) + (" seed" if seeds == [1] else " seeds")
    most = f", first {len(shown)} of {len(pairs)} pairs" if len(pairs) > len(shown) else ""
    title(figure, f"{dataset}: paired differences over {counted}, 95 % bootstrap intervals{most}")
    save(figure, file)


def draw_test_curves(dataset: str, groups: Sequence[Group], file: Path) -> None:
    """Write a picture of how each method did on the test split while it trained: a line a seed, the last epoch ringed."""
    figure, axes = canvas((WIDTH, 2.1), (1, len(SHOWN)), share_y=False)
    for axis, key in zip(axes, SHOWN, strict=True):
        for place, group in enumerate(groups):
            style = series(place)
            for number, record in enumerate(group.records):
                xs = [point.epoch for point in record.test_curve]
                ys = [100 * point.value(key) for point in record.test_curve]
                axis.plot(xs, ys, linewidth=1.1, label=group.shown if number == 0 else None, **style)
                axis.plot(xs[-1], ys[-1], "o", color=style["color"], markersize=4, fillstyle="none")
        axis.set_title(f"{LABELS[key]} [%]", fontsize=TEXT)
        axis.set_xlabel("epoch", fontsize=TEXT)
        whole_numbers(axis.xaxis)
    legend(figure, axes)
    title(figure, f"{dataset}: on the test set while training (a diagnostic; only the ringed epoch counts)")
    save(figure, file)


def has_diagnostics(group: Group) -> bool:
    """Whether there is anything for `draw_diagnostics` to draw."""
    return any(log.diagnostics for log in group.first.history)


def _values(study: Study) -> pd.DataFrame:
    """One row a variant, metric and seed: x (its number, or its place), metric, value in percent."""
    xs = study.values or [float(index) for index in range(len(study.groups))]
    rows = [
        {"x": x, "metric": key, "value": 100 * record.value(MEAN, key)}
        for x, group in zip(xs, study.groups, strict=True)
        for record in group.records
        for key in SHOWN
    ]
    frame: pd.DataFrame = pd.DataFrame(rows)
    return frame


def _means(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean and std over the seeds by x, of the variants whose seeds all have a value; the deviation of a single one is 0."""
    kept = frame.groupby("x").filter(lambda part: bool(part.value.notna().all()))
    found: pd.DataFrame = kept.groupby("x").value.agg(["mean", "std"]).fillna(0.0)
    return found


def _bars(axis: Any, frame: pd.DataFrame, labels: list[str]) -> None:
    from matplotlib.ticker import MaxNLocator

    found = _means(frame)
    seeds = frame[frame.x.isin(found.index)]
    axis.barh(found.index, found["mean"], xerr=found["std"], color=INK, alpha=0.55, height=0.62, ecolor=ACCENT)
    axis.plot(seeds.value, seeds.x, "o", color=ACCENT, markersize=2.2)
    high = float(max(seeds.value.max(), (found["mean"] + found["std"]).max())) if len(found) else 1.0
    high = high if high > 0 else 1.0
    for x in sorted(set(frame.x)):
        several = (frame.x == x).sum() > 1
        text, end = chr(0x2013), 0.0
        if x in found.index:
            average, deviation = found.loc[x, "mean"], found.loc[x, "std"]
            text = f"{average:.1f} ± {deviation:.1f}" if several else f"{average:.1f}"
            end = max(average + deviation, seeds[seeds.x == x].value.max())
        axis.text(end + 0.03 * high, x, text, fontsize=TICK, va="center")
    axis.set_xlim(0.0, 1.4 * high)
    axis.grid(False, axis="y")
    axis.set_xticks([tick for tick in MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(0.0, high) if tick <= high])
    axis.set_yticks(range(len(labels)), labels, fontsize=TICK, parse_math=False)
    axis.set_ylim(len(labels) - 0.5, -0.5)


def _curve(axis: Any, frame: pd.DataFrame) -> None:
    found = _means(frame)
    seeds = frame[frame.x.isin(found.index)]
    xs = sorted(set(frame.x))
    spread = found["std"] if found["std"].any() else None
    axis.errorbar(found.index, found["mean"], yerr=spread, color=INK, ecolor=ACCENT, capsize=2, linewidth=1.3)
    axis.plot(seeds.x, seeds.value, "o", color=ACCENT, markersize=2.2)
    low, high = axis.get_ylim()
    spare = max(0.0, LEAST_SPAN - (high - low)) / 2
    axis.set_ylim(low - spare, high + spare)
    if len(xs) > 2 and min(xs) > 0 and max(xs) / min(xs) >= 8:
        axis.set_xscale("log")
    names = [f"{x:g}" for x in xs]
    axis.set_xticks(xs, names, rotation=45 if len("  ".join(names)) > MOST_LETTERS else 0)
    axis.minorticks_off()


def _counted(groups: Sequence[Group]) -> str:
    seeds = sorted({len(group.records) for group in groups})
    return " or ".join(map(str, seeds)) + (" seed" if seeds == [1] else " seeds")
