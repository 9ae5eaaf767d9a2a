"""The figure of quality against inference time, for methods that ran on several encoders."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from mddbench.metrics.names import LABELS, MEAN
from mddbench.report.figures.canvas import canvas, legend, logarithmic, save
from mddbench.report.figures.style import COLOURS, TEXT, marks
from mddbench.report.rows.groups import Group, quality_metric
from mddbench.report.tables.costs import COSTS, cost_machines, mean_cost

TIME = "inference_ms_per_image"
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def several_encoders(groups: Sequence[Group]) -> list[str]:
    """Find the encoders of a dataset's rows.

    Args:
        groups: The rows of a dataset, of all sheets.

    Returns:
        Names of the encoders in alphabetical order; empty if there are fewer than two, or more than letters.
    """
    names = {name for group in groups if (name := group.first.card.encoder) and group.first.card.encoder_levels}
    return sorted(names) if 1 < len(names) <= len(LETTERS) else []


def draw_encoders(groups: Sequence[Group], dataset: str, file: Path) -> None:
    """Draw a point for each row: a mark for each method, and a letter for each encoder.

    Rows of other tables stand beside each other here, such as those with another image size. The caption says so.

    Args:
        groups: The rows of a dataset, of all sheets, with at least two encoders.
        dataset: Name of the dataset.
        file: The PNG file. A PDF is written beside it.
    """
    encoders, key = several_encoders(groups), quality_metric(groups)
    labels = sorted({_label(group, groups) for group in groups}, key=str.lower)
    figure, axes = canvas((5.5, 3.4))
    axis, times = axes[0], []
    for number, label in enumerate(labels):
        for group in (group for group in groups if _label(group, groups) == label):
            time = mean_cost(group.records, TIME) * COSTS[TIME].scale
            quality = 100 * mean(record.value(MEAN, key) for record in group.records)
            if group.first.card.encoder not in encoders or math.isnan(time) or math.isnan(quality):
                continue
            times.append(time)
            axis.plot([time], [quality], label=label, markersize=4.5, **marks(number))
            letter = LETTERS[encoders.index(str(group.first.card.encoder))]
            place = {"textcoords": "offset points", "xytext": (0, 5), "ha": "center"}
            axis.annotate(letter, (time, quality), fontsize=TEXT, color=COLOURS[number % len(COLOURS)], **place)
    axis.margins(0.1)
    if times and min(times) > 0:
        logarithmic(axis, "x")
    axis.set_xlabel(COSTS[TIME].label, fontsize=TEXT)
    axis.set_ylabel(f"{LABELS[key]} [%]", fontsize=TEXT)
    legend(figure, axes, labels)
    machines = cost_machines([record for group in groups for record in group.records])
    letters = ", ".join(f"{letter}: {name}" for letter, name in zip(LETTERS, encoders, strict=False))
    save(figure, file, f"{dataset}: quality against inference time, {machines}; image sizes may differ; {letters}")


def _label(group: Group, groups: Sequence[Group]) -> str:
    """The label of a row; with its experiment where several rows of one encoder have that label."""
    first = group.first
    alike = [
        each for each in groups if (each.first.label, each.first.card.encoder) == (first.label, first.card.encoder)
    ]
    return first.label if len(alike) == 1 else f"{first.label} ({first.experiment})"
