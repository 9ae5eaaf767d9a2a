"""The figure of a search for settings: all trials of each method in one row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from mddbench.metrics.names import LABELS
from mddbench.report.figures.canvas import canvas, legend, save
from mddbench.report.figures.style import ACCENT, INK, QUIET, TEXT, WIDTH, folded
from mddbench.runs.search import METRICS, SearchResult

NAMES = ("trial", "recipe", "best")


def draw_searches(results: Sequence[SearchResult], file: Path) -> None:
    """Draw the score of each trial, with marks for the recipe and the best trial.

    Args:
        results: The results of the searches, at least one.
        file: The PNG file. A PDF is written beside it.
    """
    ordered = sorted(results, key=lambda result: result.score(result.winner), reverse=True)
    figure, axes = canvas((WIDTH, 1.0 + 0.28 * len(ordered)), (1, 1))
    axis = axes[0]
    for row, result in enumerate(ordered):
        scores = [100 * result.score(trial) for trial in result.trials if math.isfinite(result.score(trial))]
        axis.plot(scores, [row] * len(scores), "|", color=QUIET, markersize=9, label=NAMES[0])
        for name, trial, marker, colour in (
            (NAMES[1], result.recipe, "o", INK),
            (NAMES[2], result.winner, "D", ACCENT),
        ):
            if math.isfinite(result.score(trial)):
                style = {
                    "markersize": 7 if name == NAMES[1] else 4,
                    "markerfacecolor": "none" if name == NAMES[1] else colour,
                }
                axis.plot(
                    [100 * result.score(trial)], [row], marker, color=colour, label=name, linestyle="none", **style
                )
    labels = [folded(result.label, 1.4, TEXT) for result in ordered]
    axis.set_yticks(range(len(ordered)), labels, parse_math=False)
    axis.set_ylim(len(ordered) - 0.5, -0.5)
    axis.set_xlabel(
        f"{' or '.join(LABELS[key] for key in METRICS if key in {result.metric for result in results})} [%]",
        fontsize=TEXT,
    )
    legend(figure, axes, list(NAMES))
    kind = "held-out images with drawn defects" if results[0].judged_on.held_out else "development data"
    save(figure, file, f"The search for settings on {kind} (axis does not start at 0)")
