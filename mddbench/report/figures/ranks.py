"""The critical-difference picture: mean ranks on a line, and a bar over methods that do not differ."""

from __future__ import annotations

from pathlib import Path

from mddbench.metrics.names import LABELS
from mddbench.report.figures.canvas import canvas, save
from mddbench.report.figures.style import ACCENT, INK, LETTER, TEXT, WIDTH, folded, page_width
from mddbench.report.rows.ranks import LEVEL, Ranking

LINE, BAR = 0.19, 0.13
"""Heights of a method's name and of a bar, in inches."""
SPARE, ROUNDS = 0.1, 8
"""Room between a name and its line, in ranks; and how often the room for names is widened, which widens their share, too."""


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
    words = {
        label: folded(f"{label} {rank:.2f}", 2.6, TEXT).replace("\n", " ") for label, rank in ranking.mean_ranks.items()
    }
    first, last = _edges(ranking, words, half)
    axis.set_xlim(first - 0.1, last + 0.1)
    for place, label in enumerate(labels):
        left = place < half
        row = place if left else len(labels) - 1 - place
        rank, depth = ranking.mean_ranks[label], -(below + LINE * (row + 0.5))
        edge = first if left else last
        axis.plot([rank, rank, edge], [0, depth, depth], color=ACCENT, linewidth=0.8)
        axis.text(
            edge, depth, words[label], ha="left" if left else "right", va="bottom", fontsize=TEXT, parse_math=False
        )
    for number, members in enumerate(alike):
        ends = [ranking.mean_ranks[members[0]] - 0.04, ranking.mean_ranks[members[-1]] + 0.04]
        axis.plot(ends, [-BAR * (number + 1)] * 2, color=INK, linewidth=3.5, solid_capstyle="butt")
    axis.xaxis.tick_top()
    axis.xaxis.set_label_position("top")
    axis.set_xlabel(f"mean rank in {LABELS[ranking.metric]}", fontsize=TEXT)
    axis.set_xticks(range(1, len(labels) + 1, 1 + len(labels) // 12))
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


def _edges(ranking: Ranking, words: dict[str, str], half: int) -> tuple[float, float]:
    """Where the names begin and end on the axis of ranks, so that no name reaches the line of its rank.

    Args:
        ranking: The ranking.
        words: Label -> what is written for it.
        half: Number of names on the left.

    Returns:
        The edge of the names on the left, and of those on the right.
    """
    ranks, labels = ranking.mean_ranks, list(ranking.mean_ranks)
    width = {label: LETTER * TEXT * len(text) / 72 / page_width() for label, text in words.items()}
    first, last = 0.5, len(labels) + 0.5
    for _ in range(ROUNDS):
        span = last - first + 0.2
        first = min([first, *(ranks[label] - SPARE - width[label] * span for label in labels[:half])])
        last = max([last, *(ranks[label] + SPARE + width[label] * span for label in labels[half:])])
    return first, last
