"""The critical-difference picture: mean ranks on a line, and a bar over methods that do not differ."""

from __future__ import annotations

from pathlib import Path

from mddbench.metrics.names import LABELS
from mddbench.report.figures.canvas import canvas, save
from mddbench.report.figures.style import ACCENT, INK, TEXT, WIDTH, folded
from mddbench.report.rows.ranks import LEVEL, Ranking

LINE, BAR = 0.19, 0.13
"""Heights of a method's name and of a bar, in inches."""


def draw_ranks(dataset: str, ranking: Ranking, file: Path) -> None:
    """Draw mean ranks, the best on the left. A thick bar joins methods of which no two differ after the correction.

    Args:
        dataset: Name of the dataset, for the title.
        ranking: The ranking.
        file: The PNG file; a PDF is written beside it.
    """
    labels, alike = list(ranking.mean_ranks), ranking.alike()
    half = -(-len(labels) // 2)
    below = BAR * (len(alike) + 1)
    height = 0.75 + below + LINE * half
    figure, (axis,) = canvas((WIDTH, height))
    axis.set_ylim(-(below + LINE * half), 0.0)
    axis.set_xlim(0.4, len(labels) + 0.6)
    for place, label in enumerate(labels):
        left = place < half
        row = place if left else len(labels) - 1 - place
        rank, depth = ranking.mean_ranks[label], -(below + LINE * (row + 0.5))
        edge = 0.5 if left else len(labels) + 0.5
        axis.plot([rank, rank, edge], [0, depth, depth], color=ACCENT, linewidth=0.8)
        words = folded(f"{label} {rank:.2f}", 2.6, TEXT).replace("\n", " ")
        axis.text(edge, depth, words, ha="left" if left else "right", va="bottom", fontsize=TEXT, parse_math=False)
    for number, members in enumerate(alike):
        ends = [ranking.mean_ranks[members[0]] - 0.04, ranking.mean_ranks[members[-1]] + 0.04]
        axis.plot(ends, [-BAR * (number + 1)] * 2, color=INK, linewidth=3.5, solid_capstyle="butt")
    axis.xaxis.tick_top()
    axis.xaxis.set_label_position("top")
    axis.set_xlabel(f"mean rank in {LABELS[ranking.metric]}", fontsize=TEXT)
    axis.set_yticks([])
    axis.grid(False)
    for side in ("left", "bottom"):
        axis.spines[side].set_visible(False)
    axis.spines["top"].set_visible(True)
    save(
        figure,
        file,
        f"{dataset}: mean ranks over {ranking.categories} categories. Bars join methods that do not differ at "
        f"{100 * LEVEL:.0f} % (Wilcoxon, Holm)",
    )
