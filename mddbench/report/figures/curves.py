"""Figures of the data behind the metrics: image scores of normal and defective images, and curves over the pixels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mddbench.metrics.names import LABELS
from mddbench.metrics.pooled import one_threshold
from mddbench.report.figures.canvas import canvas, legend, name_axes, panels, save
from mddbench.report.figures.style import ACCENT, COLOURS, INK, TEXT, WIDTH, folded, series
from mddbench.report.tables.table import percent
from mddbench.runs.evidence import Evidence
from mddbench.runs.records import Record

DEFECT, STORED = COLOURS[1], 5
"""Colour of defective images, and the wanted share of false alarms in percent of the threshold that is shown."""
MOST_MARKS = 2000
"""More scores of a kind and category are drawn as a picture, so that a page stays small."""
KINDS = (
    ("precision_recall", "recall", "precision", "p_ap"),
    ("region_overlap", "false-positive rate", "region overlap", "aupro"),
)
"""For each kind of curve: its field of the evidence, the names of its axes, and the metric that is its area."""
MethodRuns = tuple[str, tuple[tuple[Evidence, ...], ...]]
"""Label of a method, and for each run that kept evidence the evidence of each category."""


def draw_scores(record: Record, label: str, evidence: Sequence[Evidence], file: Path) -> None:
    """Draw the image scores of a run as strips on one axis: normal images above, defective ones below, by category.

    A line is the threshold for all categories that was set without test labels, and another one is that of the best
    F1 of all images, which is chosen on the test labels. Infinite scores are left out and counted.

    Args:
        record: Record of the run.
        label: Label of the method.
        evidence: Scores of each category.
        file: The PNG file; PDF and SVG are written beside it.
    """
    names, infinite = [], sum(int((~np.isfinite(data.scores)).sum()) for data in evidence)
    figure, (axis,) = canvas((WIDTH, 0.8 + 0.36 * len(evidence)))
    for row, data in enumerate(evidence):
        for kind, (labels, colour, name) in enumerate((
            (~data.labels, INK, "normal"),
            (data.labels, DEFECT, "defective"),
        )):
            scores = data.scores[labels & np.isfinite(data.scores)].astype(np.float64)
            xs = np.repeat(scores, 3)
            top = row - 0.4 + 0.42 * kind
            ys = np.tile([top, top + 0.36, np.nan], len(scores))
            many = len(scores) > MOST_MARKS
            axis.plot(xs, ys, color=colour, linewidth=0.7, alpha=0.7, label=f"{name} images", rasterized=many)
        auroc = f"{LABELS['i_auroc']} {percent(record.value(data.category, 'i_auroc'))}"
        names.append(f"{folded(data.category.replace('_', ' '), 1.3, TEXT)}\n{auroc}")
    for value, words, style in _thresholds(record, evidence):
        axis.axvline(value, color=ACCENT, linewidth=1.0, linestyle=style, label=words)
    axis.set_yticks(range(len(names)), names, parse_math=False)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.grid(False, axis="y")
    axis.set_xlabel("image score", fontsize=TEXT)
    legend(figure, [axis])
    left_out = f"; {infinite} infinite scores are left out" if infinite else ""
    save(figure, file, f"{label} on {record.shown_dataset}, seed {record.seed}: image scores{left_out}")


def _thresholds(record: Record, evidence: Sequence[Evidence]) -> Iterator[tuple[float, str, str]]:
    """The thresholds for all categories, their names and styles of line. Those that are not finite are left out."""
    scoped = record.thresholds.image.get(str(STORED)) if record.thresholds else None
    if scoped and scoped.one is not None and math.isfinite(scoped.one):
        yield scoped.one, f"threshold without test labels, {STORED} % false alarms wanted", "-"
    best = one_threshold([(data.scores, data.labels) for data in evidence]).threshold
    if math.isfinite(best):
        yield best, "threshold of the best F1, from the test labels", "--"


def draw_curves(methods: Sequence[MethodRuns], dataset: str, file: Path) -> None:
    """Draw a panel for each kind of curve: means over categories and seeds, with the range over the seeds shaded.

    Args:
        methods: Label and evidence of each method.
        dataset: Name of the dataset, for the title.
        file: The PNG file; a PDF is written beside it.
    """
    figure, axes = canvas((WIDTH, 2.9), (1, len(KINDS)))
    for axis, (field, x_label, y_label, key) in zip(axes, KINDS, strict=True):
        for number, (label, runs) in enumerate(methods):
            curves = [_mean_curve(run, field) for run in runs]
            xs, ys = curves[0][0], np.stack([curve[1] for curve in curves])
            style = series(number)
            axis.fill_between(xs, ys.min(axis=0), ys.max(axis=0), color=style["color"], alpha=0.18, linewidth=0)
            axis.plot(xs, ys.mean(axis=0), linewidth=1.4, label=label, **style)
        axis.set_ylim(-0.02, 1.02)
        axis.set_xlabel(x_label, fontsize=TEXT)
        axis.set_ylabel(y_label, fontsize=TEXT)
        axis.set_title(f"area: {LABELS[key]}", fontsize=TEXT)
    legend(figure, axes)
    save(figure, file, f"{dataset}: curves of the pixels, means over categories")


def draw_category_curves(methods: Sequence[MethodRuns], dataset: str, kind: int, file: Path) -> None:
    """Draw one of the KINDS of curves: a panel for each category, with a line for the first run of each method.

    Args:
        methods: Label and evidence of each method.
        dataset: Name of the dataset, for the title.
        kind: Index into KINDS.
        file: The PNG file; a PDF is written beside it.
    """
    field, x_label, y_label, key = KINDS[kind]
    categories = [data.category for data in methods[0][1][0] if np.isfinite(getattr(data, field)).all()]
    figure, axes = panels(len(categories), 5, (0.6, 0.3), (2.2, 1.25), share="xy")
    for axis, category in zip(axes, categories, strict=True):
        for number, (label, runs) in enumerate(methods):
            evidence = next((data for data in runs[0] if data.category == category), None)
            if evidence is not None:
                axis.plot(*getattr(evidence, field), linewidth=1.1, label=label, **series(number))
        axis.set_title(folded(category.replace("_", " "), 1.4, TEXT), fontsize=TEXT, parse_math=False)
        axis.set_ylim(-0.02, 1.02)
    name_axes(axes, x_label, y_label)
    legend(figure, axes)
    save(figure, file, f"{dataset}: {y_label} against {x_label} of the pixels (area: {LABELS[key]}), first seed")


def has_curves(methods: Sequence[MethodRuns]) -> bool:
    """Check whether any category has curves, that is, whether there are masks.

    Args:
        methods: Label and evidence of each method.

    Returns:
        True if there is something to draw.
    """
    return any(np.isfinite(data.precision_recall).all() for _, runs in methods for run in runs for data in run)


def _mean_curve(run: Sequence[Evidence], field: str) -> NDArray[np.float64]:
    """The x values of a curve, and the mean of its y values over the categories that have it, (2, P)."""
    curves = np.stack([getattr(data, field) for data in run]).astype(np.float64)
    defined = curves[np.isfinite(curves).all(axis=(1, 2))]
    return np.asarray(defined.mean(axis=0))
