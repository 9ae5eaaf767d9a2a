"""The figures of a sheet by their file names. Each is drawn when its function is called."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from mddbench.report.figures.ablations import draw_diagnostics, has_diagnostics
from mddbench.report.figures.across import draw_across
from mddbench.report.figures.curves import KINDS, MethodRuns, draw_category_curves, draw_curves, draw_scores, has_curves
from mddbench.report.figures.heat_maps import draw_gallery, draw_qualitative
from mddbench.report.figures.robustness import draw_levels, draw_robustness
from mddbench.report.figures.training_and_cost import draw_dots, draw_prices, draw_training
from mddbench.report.rows.entries import Entry
from mddbench.report.rows.groups import Group, Sheet
from mddbench.report.rows.shifted import ShiftedRows
from mddbench.runs.evidence import Evidence
from mddbench.runs.panels import Panel

Draw = Callable[[Path], None]
"""Draws one figure and writes it to a file."""
OFF_PAGE = "gallery-"
"""Start of the names of files of figures that a page does not show: it has the tiles themselves."""
TITLES = {
    "training": "Training curves",
    "per-category": "Each category",
    "cost-quality": "Quality against cost",
    "budgets": "Quality against training time",
    "encoders": "Quality against inference time, by encoder",
    "curves": "Curves of the pixels",
    "curves-precision-recall": "Precision against recall of each category",
    "curves-region-overlap": "Region overlap of each category",
    "qualitative": "The same defects by each method",
    "scores": "Image scores",
    "across": "AUROC between categories",
    "diagnostics": "Diagnostics of the method",
    "differences": "Paired differences",
    "selection": "The selection gap",
    "robustness": "Changed test images",
    "robustness-levels": "Quality over the levels of each change",
    "robustness-alarms": "False alarms over the levels of each change",
    "ranks": "Mean ranks, and which methods differ",
    "ablation": "Ablation",
}
"""Start of a file's name -> title of the figure."""


def sheet_pictures(sheet: Sheet, entries: Mapping[str, Entry]) -> dict[str, Draw]:
    """Choose the figures of a sheet.

    Args:
        sheet: The sheet.
        entries: Identity of a record -> its entry.

    Returns:
        File name -> function that draws the figure, or draws nothing if the runs did not keep its data.
    """
    groups, dataset, names = sheet.groups, sheet.dataset, file_names(sheet.groups)
    first = {group.label: entries[group.first.identity] for group in groups}
    panels = partial(_panels, first)
    members = {group.label: [entries[record.identity] for record in group.records] for group in groups}
    curves = partial(_curves, members)
    pictures: dict[str, Draw] = {}
    pictures["qualitative.png"] = partial(_draw_if_any, panels, partial(draw_qualitative, dataset=dataset))
    pictures["per-category.png"] = partial(draw_dots, groups, dataset)
    pictures["cost-quality.png"] = partial(draw_prices, groups, dataset)
    pictures["curves.png"] = partial(_draw_if_any, curves, partial(draw_curves, dataset=dataset))
    for kind, (field, *_) in enumerate(KINDS):
        draw = partial(draw_category_curves, dataset=dataset, kind=kind)
        pictures[f"curves-{field.replace('_', '-')}.png"] = partial(_draw_if_any, curves, draw)
    pictures["training.png"] = partial(draw_training, groups, dataset)
    for group in groups:
        name, entry = names[group.label], first[group.label]
        title = f"{group.label} on {group.first.shown_dataset}, seed {group.first.seed}"
        gallery, scores = partial(draw_gallery, title=title), partial(draw_scores, group.first, group.label)
        pictures[f"{OFF_PAGE}{name}.png"] = partial(_draw_if_any, entry.panels, gallery)
        pictures[f"scores-{name}.png"] = partial(_draw_if_any, entry.evidence, scores)
        across = partial(draw_across, group.label, dataset)
        pictures[f"across-{name}.png"] = partial(_draw_if_any, partial(_evidence, members[group.label]), across)
        if has_diagnostics(group):
            pictures[f"diagnostics-{name}.png"] = partial(draw_diagnostics, group)
    return pictures


def robustness_pictures(load: Callable[[], ShiftedRows], dataset: str) -> dict[str, Draw]:
    """Choose the figures of changed test images.

    Args:
        load: Loads the rows that have results on them.
        dataset: Name of the dataset.

    Returns:
        File name -> function that draws the figure, or draws nothing if there are no results.
    """

    def if_any(draw: Callable[..., None], file: Path) -> None:
        found = load()
        if found.points:
            draw(found, dataset, file=file)

    return {
        "robustness.png": partial(if_any, draw_robustness),
        "robustness-levels.png": partial(if_any, partial(draw_levels, alarms=False)),
        "robustness-alarms.png": partial(if_any, partial(draw_levels, alarms=True)),
    }


def picture_title(file: Path, labels: Mapping[str, str]) -> str:
    """Return the title of a figure from the name of its file. `labels` maps a method's name in files to its label.

    >>> picture_title(Path("mini/scores-mdd-net.png"), {"mdd-net": "MDD-Net"})
    'Image scores: MDD-Net'
    """
    kind, _, rest = file.stem.partition("-")
    words = TITLES.get(file.stem) or TITLES.get(kind) or kind.capitalize()
    return words if file.stem in TITLES or not rest else f"{words}: {labels.get(rest, rest.replace('_', ' '))}"


def file_names(groups: Sequence[Group]) -> dict[str, str]:
    """Find names of rows for use in names of files.

    Args:
        groups: The rows of a sheet.

    Returns:
        Label -> name, different for each row.
    """
    names = {}
    for group in groups:
        plain = "-".join("".join(sign if sign.isalnum() else " " for sign in group.label.lower()).split())
        is_method = group.label == group.first.label  # other labels say more, and their protocol keeps names apart
        names[group.label] = plain if is_method else f"{plain}-{group.first.protocol[:8]}"
    taken = Counter(names.values())
    longer = {group.label: f"{names[group.label]}-{group.first.protocol[:8]}" for group in groups}
    return {label: name if taken[name] == 1 else longer[label] for label, name in names.items()}


def _draw_if_any(load: Callable[[], Sequence[object]], draw: Callable[..., None], file: Path) -> None:
    data = load()
    if data:
        draw(data, file=file)


def _panels(entries: Mapping[str, Entry]) -> list[tuple[str, tuple[Panel, ...]]]:
    """Label and panels of each method whose run kept panels."""
    loaded = [(label, entry.panels()) for label, entry in entries.items()]
    return [(label, panels) for label, panels in loaded if panels]


def _curves(entries: Mapping[str, Sequence[Entry]]) -> list[MethodRuns]:
    """The rows whose runs kept evidence; none if no category has curves."""
    runs = {label: _evidence(members) for label, members in entries.items()}
    rows = [(label, kept) for label, kept in runs.items() if kept]
    return rows if has_curves(rows) else []


def _evidence(entries: Sequence[Entry]) -> tuple[tuple[Evidence, ...], ...]:
    """The evidence of each run that kept some."""
    return tuple(filter(None, (entry.evidence() for entry in entries)))
