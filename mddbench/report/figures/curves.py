"""Figures of the data behind the metrics: image scores of normal and defective images, and curves over the pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mddbench.metrics.names import LABELS
from mddbench.report.figures.canvas import canvas, legend, panels, save
from mddbench.report.figures.style import ACCENT, TEXT, WIDTH, folded, series
from mddbench.runs.evidence import Evidence
from mddbench.runs.records import Record

MOST_BINS = 24
KINDS = (
    ("precision_recall", "recall", "precision", "p_ap"),
    ("region_overlap", "false-positive rate", "region overlap", "aupro"),
)
"""For each kind of curve: its field of the evidence, the names of its axes, and the metric that is its area."""
MethodRuns = tuple[str, tuple[tuple[Evidence, ...], ...]]
"""Label of a method, and for each run that kept evidence the evidence of each category."""


def draw_scores(record: Record, label: str, evidence: Sequence[Evidence], file: Path) -> None:
    """Draw histograms of a run's image scores by category: normal images filled, defective ones outlined.

    Infinite scores are left out and counted.

    Args:
        record: Record of the run.
        label: Label of the method.
        evidence: Scores of each category.
        file: The PNG file; a PDF is written beside it.
    """
    figure, axes, columns = panels(len(evidence), 5, (0.6, 0.5), (2.2, 1.35))
    for axis, data in zip(axes, evidence, strict=True):
        finite = np.isfinite(data.scores)
        scores, labels = data.scores[finite].astype(np.float64), data.labels[finite]
        edges = np.histogram_bin_edges(scores, min(MOST_BINS, 2 * math.isqrt(len(data.scores))))
        axis.hist(scores[~labels], edges, color="#9db7d5", label="normal images")
        axis.hist(scores[labels], edges, histtype="step", color=ACCENT, linewidth=1.2, label="with a defect")
        value = f"{LABELS['i_auroc']} {100 * record.value(data.category, 'i_auroc'):.1f} %"
        value += "" if finite.all() else f", {len(finite) - len(scores)} infinite"
        axis.set_title(f"{_folded(data.category, columns)}\n{value}", fontsize=TEXT, parse_math=False)
        axis.yaxis.get_major_locator().set_params(integer=True)
    _name_outer(axes, columns, "image score", "images")
    legend(figure, axes)
    save(figure, file, f"{label} on {record.dataset}, seed {record.seed}: image scores")


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
    figure, axes, columns = panels(len(categories), 5, (0.6, 0.3), (2.2, 1.25), share_y=True)
    for axis, category in zip(axes, categories, strict=True):
        for number, (label, runs) in enumerate(methods):
            evidence = next((data for data in runs[0] if data.category == category), None)
            if evidence is not None:
                axis.plot(*getattr(evidence, field), linewidth=1.1, label=label, **series(number))
        axis.set_title(_folded(category, columns), fontsize=TEXT, parse_math=False)
        axis.set_ylim(-0.02, 1.02)
    for axis in axes[:-columns]:
        axis.tick_params(labelbottom=False)
    _name_outer(axes, columns, x_label, y_label)
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


def _folded(category: str, columns: int) -> str:
    """The name of a category in lines that fit a panel."""
    return folded(category.replace("_", " "), (WIDTH - 0.6) / max(columns, 3), TEXT)


def _name_outer(axes: Any, columns: int, x_label: str, y_label: str) -> None:
    """Name the x axes of the lowest panels and the y axes of the leftmost ones."""
    for axis in axes[-columns:]:
        axis.set_xlabel(x_label, fontsize=TEXT)
    for axis in axes[::columns]:
        axis.set_ylabel(y_label, fontsize=TEXT)
