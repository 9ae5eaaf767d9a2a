"""Plots of ablations and of what methods say about themselves. Every number comes from records."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mddbench.metrics.names import COLUMNS, LABELS, MAD
from mddbench.report.ablations import Study
from mddbench.report.canvas import ACCENT, INK, canvas, save, series
from mddbench.report.comparison import MINUS, Pair
from mddbench.report.groups import Group
from mddbench.report.tables import MEAN

SHOWN = (MAD.key, "i_auroc", "aupro", "p_ap")
"""The metrics that a plot shows, one panel each; the table has all."""
LEAST_SPAN = 4.0
"""Of a curve's axis in percent, so that noise between seeds does not look like a trend."""
MOST_PAIRS = 6
PER_CATEGORY = re.compile(r"(.+)_(\d+)")


def draw_ablation(study: Study, file: Path) -> None:
    """Write a picture: a curve over the numbers that the variants are, or else a bar a variant; seeds as dots, their standard
    deviation as a whisker.
    """
    frame = _values(study)
    if study.values is None:
        height = 1.3 + 0.34 * len(study.groups)
        figure, axes = canvas((11.0, height), (1, len(SHOWN)), share_y=True)
        for axis, key in zip(axes, SHOWN, strict=True):
            _bars(axis, frame[frame.metric == key], [group.label for group in study.groups])
    else:
        figure, axes = canvas((11.0, 2.9), (1, len(SHOWN)), share_y=False)
        for axis, key in zip(axes, SHOWN, strict=True):
            _curve(axis, frame[frame.metric == key])
            axis.set_xlabel(str(study.ablation.axis).removeprefix("settings.").replace("_", " "), fontsize=8)
    for axis, key in zip(axes, SHOWN, strict=True):
        axis.set_title(f"{LABELS[key]} [%]", fontsize=9)
    label = study.groups[0].first.label
    seeds = sorted({len(group.records) for group in study.groups})
    counted = " or ".join(map(str, seeds)) + (" seed" if seeds == [1] else " seeds")
    figure.suptitle(
        f"{study.title}: {label} on {study.dataset}, {counted} a variant (axes do not start at 0)", fontsize=10
    )
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
            points.append(
                {
                    "panel": match[1] if match and known else name,
                    "line": record.categories[number] if known else "",
                    "epoch": log.epoch,
                    "value": value,
                }
            )
    frame = pd.DataFrame(points)
    panels = list(dict.fromkeys(frame.panel))
    rows, columns = -(-len(panels) // 3), min(len(panels), 3)
    figure, axes = canvas((2.2 + 3.4 * columns, 0.4 + 2.6 * rows), (rows, columns), share_y=False)
    for axis, panel in zip(axes, panels, strict=False):
        for number, (line, part) in enumerate(frame[frame.panel == panel].groupby("line", sort=False)):
            style = ("-", "--", ":", "-.")[number // 5 % 4]
            axis.plot(part.epoch, part.value, style, linewidth=1.2, label=str(line).replace("_", " "))
        low, high = frame[frame.panel == panel].value.agg(["min", "max"])
        if low == high:
            axis.set_ylim(low, low + 1)
        axis.set_title(panel.replace("_", " "), fontsize=9)
        axis.set_xlabel("epoch", fontsize=8)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    if any(labels):
        figure.legend(handles, labels, loc="outside right center", fontsize=7, frameon=False)
    figure.suptitle(f"{group.label} on {record.dataset}, seed {record.seed}", fontsize=10)
    save(figure, file)


def draw_differences(dataset: str, pairs: Sequence[Pair], file: Path) -> None:
    """Write a picture of paired differences: a panel a pair, a line a metric, its mean as a dot on its interval."""
    shown = pairs[:MOST_PAIRS]
    figure, axes = canvas((2.0 + 2.9 * len(shown), 2.9), (1, len(shown)), share_y=True)
    for axis, pair in zip(axes, shown, strict=True):
        for place, key in enumerate(COLUMNS):
            found = pair.differences[key]
            axis.plot(
                [100 * found.low, 100 * found.high], [place, place], color=INK, linewidth=2.2, solid_capstyle="butt"
            )
            axis.plot(100 * found.mean, place, "o", color=ACCENT, markersize=4)
        axis.axvline(0, color=ACCENT, linewidth=0.8)
        axis.set_yticks(range(len(COLUMNS)), [LABELS[key] for key in COLUMNS], fontsize=8)
        axis.set_title(f"{pair.one} {MINUS} {pair.other}", fontsize=9, parse_math=False)
        axis.set_xlabel("percent points", fontsize=8)
    axes[0].set_ylim(len(COLUMNS) - 0.5, -0.5)
    seeds = sorted({len(pair.seeds) for pair in shown})
    counted = " or ".join(map(str, seeds)) + (" seed" if seeds == [1] else " seeds")
    most = f", first {len(shown)} of {len(pairs)} pairs" if len(pairs) > len(shown) else ""
    figure.suptitle(f"{dataset}: paired differences over {counted}, 95 % bootstrap intervals{most}", fontsize=10)
    save(figure, file)


def draw_test_curves(dataset: str, groups: Sequence[Group], file: Path) -> None:
    """Write a picture of how each method did on the test split while it trained: a line a seed, the last epoch ringed."""
    figure, axes = canvas((11.0, 2.9), (1, len(SHOWN)), share_y=False)
    for axis, key in zip(axes, SHOWN, strict=True):
        for place, group in enumerate(groups):
            style = series(place)
            for number, record in enumerate(group.records):
                xs = [point.epoch for point in record.test_curve]
                ys = [100 * point.value(key) for point in record.test_curve]
                axis.plot(xs, ys, linewidth=1.3, label=group.shown if number == 0 else None, **style)
                axis.plot(xs[-1], ys[-1], "o", color=style["color"], markersize=5, fillstyle="none")
        axis.set_title(f"{LABELS[key]} [%]", fontsize=9)
        axis.set_xlabel("epoch", fontsize=8)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=7, frameon=False)
    figure.suptitle(
        f"{dataset}: on the test set while training (a diagnostic; only the ringed epoch counts)", fontsize=10
    )
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


def _bars(axis: Any, frame: pd.DataFrame, labels: list[str]) -> None:
    means, deviations = (getattr(frame.groupby("x").value, what)() for what in ("mean", "std"))
    axis.barh(means.index, means, xerr=deviations.fillna(0), color=INK, alpha=0.55, height=0.62, ecolor=ACCENT)
    axis.plot(frame.value, frame.x, "o", color=ACCENT, markersize=2.5)
    low, high = frame.value.min(), frame.value.max()
    margin = max(0.35 * (high - low), 0.5)
    axis.set_xlim(max(0.0, low - 2 * margin), min(100.0, high + margin))
    axis.set_yticks(range(len(labels)), labels, fontsize=8, parse_math=False)
    if not axis.yaxis_inverted():
        axis.invert_yaxis()


def _curve(axis: Any, frame: pd.DataFrame) -> None:
    means, deviations = (getattr(frame.groupby("x").value, what)() for what in ("mean", "std"))
    axis.errorbar(means.index, means, yerr=deviations.fillna(0), color=INK, ecolor=ACCENT, capsize=2, linewidth=1.4)
    axis.plot(frame.x, frame.value, "o", color=ACCENT, markersize=2.5)
    low, high = axis.get_ylim()
    spare = max(0.0, LEAST_SPAN - (high - low)) / 2
    axis.set_ylim(low - spare, high + spare)
    xs = list(means.index)
    if len(xs) > 2 and min(xs) > 0 and max(xs) / min(xs) >= 8:
        axis.set_xscale("log")
    axis.set_xticks(xs, [f"{x:g}" for x in xs])
    axis.minorticks_off()
