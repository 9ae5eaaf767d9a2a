"""What each category loses or gains where it shares a model with others, from an ablation of how many share one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mddbench.metrics.names import LABELS, MEAN
from mddbench.report.figures.canvas import canvas, name_axes, save
from mddbench.report.figures.style import ACCENT, GRID, INK, QUIET, TEXT, WIDTH, folded, is_narrow, shown_metrics
from mddbench.report.rows.groups import Group, counted_seeds, defined_metrics
from mddbench.report.rows.studies import Study
from mddbench.report.tables.differences import MINUS
from mddbench.runs.card import Setting

SHARING = {"categories_per_model", "setting"}
"""The settings that say which categories share a model."""
LEAST_REACH = 2.0  # of an axis to both sides, in percentage points


def sharing_of(study: Study) -> tuple[Group, Group] | None:
    """Find the variants of an ablation with the fewest and the most categories in a model.

    Args:
        study: The ablation.

    Returns:
        Both variants; None if all variants have equally many or vary something else, or if the two have no seed in common.
    """
    varied = {setting for changes in study.ablation.variants.values() for setting in changes}
    if not varied <= SHARING:
        return None
    numbered = [(number, group) for group in study.groups if (number := _per_model(group)) is not None]
    if len(numbered) < 2:
        return None
    fewest, most = (choose(numbered, key=lambda pair: pair[0]) for choose in (min, max))
    return (fewest[1], most[1]) if fewest[0] < most[0] and _shared_seeds(fewest[1], most[1]) else None


def draw_sharing(study: Study, groups: tuple[Group, Group], file: Path) -> None:
    """Draw for each category its metrics with the most categories in a model minus those with the fewest.

    Each seed is a small dot, and their mean a large one. The mean over categories comes last.

    Args:
        study: The ablation.
        groups: The variants with the fewest and the most categories in a model, see `sharing_of`.
        file: The PNG file; PDF and SVG are written beside it.
    """
    fewest, most = groups
    keys = shown_metrics(defined_metrics(groups))
    names = [*most.first.categories, MEAN]
    width = 1.0 if is_narrow() else 1.5
    figure, axes = canvas((WIDTH, 0.7 + 0.17 * len(names)), (1, len(keys)), share="y")
    for axis, key in zip(axes, keys, strict=True):
        differences = 100 * _differences(fewest, most, names, key)
        rows = np.arange(len(names))
        axis.axvline(0, color=ACCENT, linewidth=0.8)
        axis.axhline(len(names) - 1.5, color=GRID, linewidth=0.8)
        for of_seed in differences:
            axis.plot(of_seed, rows, "o", color=QUIET, markersize=2.2)
        axis.plot(differences.mean(axis=0), rows, "o", color=INK, markersize=4.5)
        reach = max(LEAST_REACH, 1.1 * float(np.nanmax(np.abs(differences), initial=0.0)))
        axis.set_xlim(-reach, reach)
        axis.set_title(LABELS[key], fontsize=TEXT)
        axis.grid(False, axis="y")
    axes[0].set_yticks(range(len(names)), [folded(name, width, TEXT) for name in names], parse_math=False)
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    name_axes(axes, "percentage points")
    seeds = counted_seeds([_shared_seeds(fewest, most)])
    words = f"{_words(most)} {MINUS} {_words(fewest)}"
    save(figure, file, f"{fewest.first.label} on {study.dataset}: {words}, {seeds}; right of 0, sharing helps")


def _per_model(group: Group) -> int | None:
    """The number of categories in a model; None if it is not known."""
    setting = group.first.card.setting
    if not isinstance(setting, Setting):
        return None
    return 1 if setting.models == "separate" else setting.per_model or setting.categories


def _words(group: Group) -> str:
    number = _per_model(group)
    return "a category alone" if number == 1 else f"{number} in a model"


def _shared_seeds(first: Group, second: Group) -> list[int]:
    return sorted({record.seed for record in first.records} & {record.seed for record in second.records})


def _differences(fewest: Group, most: Group, names: Sequence[str], key: str) -> NDArray[np.float64]:
    """The differences in [-1, 1] of a metric, (seeds, names)."""
    of_seed = [{record.seed: record for record in group.records} for group in (fewest, most)]
    return np.array([
        [of_seed[1][seed].value(name, key) - of_seed[0][seed].value(name, key) for name in names]
        for seed in _shared_seeds(fewest, most)
    ])
