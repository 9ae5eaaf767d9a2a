"""The pictures of a sheet by the names of their files; each is drawn when it is asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from mddbench.report.figures.ablations import draw_diagnostics, has_diagnostics
from mddbench.report.figures.curves import KINDS, Shown, draw_category_curves, draw_curves, draw_scores, has_curves
from mddbench.report.figures.draw import Draw
from mddbench.report.figures.gallery import draw_gallery
from mddbench.report.figures.qualitative import draw_qualitative
from mddbench.report.figures.training_and_cost import draw_dots, draw_prices, draw_training
from mddbench.report.rows.entries import Entry
from mddbench.report.rows.groups import Group, Sheet
from mddbench.runs.evidence import Evidence
from mddbench.runs.panels import Panel

Panels = Callable[[], tuple[Panel, ...]]
RunEvidence = Callable[[], tuple[Evidence, ...]]
TITLES = {
    "training": "Training curves",
    "per-category": "Each category",
    "cost-quality": "Quality against cost",
    "curves": "Curves of the pixels",
    "curves-precision-recall": "Precision against recall of each category",
    "curves-region-overlap": "Region overlap of each category",
    "qualitative": "The same defects by each method",
    "scores": "Image scores",
    "diagnostics": "What the method says of itself",
    "differences": "Paired differences",
    "selection": "The selection gap",
    "ablation": "Ablation",
}


def sheet_pictures(sheet: Sheet, entries: Mapping[str, Entry]) -> dict[str, Draw]:
    """File name -> what draws it; it writes nothing if the runs kept too little. entries: by their records' identity."""
    groups, dataset, names = sheet.groups, sheet.dataset, file_names(sheet.groups)
    panels = {group.label: entries[group.first.identity].panels for group in groups}
    evidence = {group.label: [entries[one.identity].evidence for one in group.records] for group in groups}
    pictures: dict[str, Draw] = {}
    pictures["qualitative.png"] = partial(_qualitative, dataset, panels)
    pictures["per-category.png"] = partial(draw_dots, groups, dataset)
    pictures["cost-quality.png"] = partial(draw_prices, groups, dataset)
    pictures["curves.png"] = partial(_curves, dataset, evidence)
    for kind, (field, *_) in enumerate(KINDS):
        pictures[f"curves-{field.replace('_', '-')}.png"] = partial(_category_curves, dataset, evidence, kind)
    pictures["training.png"] = partial(draw_training, groups, dataset)
    for group in groups:
        name = names[group.label]
        pictures[f"gallery-{name}.png"] = partial(_gallery, group, panels[group.label])
        pictures[f"scores-{name}.png"] = partial(_scores, group, evidence[group.label][0])
        if has_diagnostics(group):
            pictures[f"diagnostics-{name}.png"] = partial(draw_diagnostics, group)
    return pictures


def picture_title(file: Path, labels: Mapping[str, str]) -> str:
    """What a picture shows, from its file's name. labels: of methods by the name that files have of them.

    >>> picture_title(Path("mini/scores-mdd-net.png"), {"mdd-net": "MDD-Net"})
    'Image scores: MDD-Net'
    """
    kind, _, rest = file.stem.partition("-")
    words = TITLES.get(file.stem) or TITLES.get(kind) or kind.capitalize()
    return words if file.stem in TITLES or not rest else f"{words}: {labels.get(rest, rest.replace('_', ' '))}"


def file_names(groups: Sequence[Group]) -> dict[str, str]:
    """The label of each of a sheet's rows -> its part of files' names, different for each."""
    plain = {group.label: _plain_name(group) for group in groups}
    taken = Counter(plain.values())
    longer = {group.label: f"{plain[group.label]}-{group.first.protocol[:8]}" for group in groups}
    return {label: name if taken[name] == 1 else longer[label] for label, name in plain.items()}


def _plain_name(group: Group) -> str:
    """A row's label as part of a file's name; where the label says more than the method, its protocol keeps names apart."""
    kept = "".join(sign if sign.isalnum() else "-" for sign in group.label.lower())
    plain = "-".join(part for part in kept.split("-") if part)
    return plain if group.label == group.first.label else f"{plain}-{group.first.protocol[:8]}"


def _gallery(group: Group, panels: Panels, file: Path) -> None:
    found = panels()
    if found:
        draw_gallery(found, f"{group.label} on {group.first.dataset}, seed {group.first.seed}", file)


def _scores(group: Group, evidence: RunEvidence, file: Path) -> None:
    found = evidence()
    if found:
        draw_scores(group.first, group.label, found, file)


def _curves(dataset: str, evidence: Mapping[str, Sequence[RunEvidence]], file: Path) -> None:
    shown = _shown(evidence)
    if has_curves(shown):
        draw_curves(shown, dataset, file)


def _category_curves(dataset: str, evidence: Mapping[str, Sequence[RunEvidence]], kind: int, file: Path) -> None:
    shown = _shown(evidence)
    if has_curves(shown):
        draw_category_curves(shown, dataset, kind, file)


def _qualitative(dataset: str, panels: Mapping[str, Panels], file: Path) -> None:
    found = [(label, kept()) for label, kept in panels.items()]
    methods = [(label, kept) for label, kept in found if kept]
    if methods:
        draw_qualitative(methods, dataset, file)


def _shown(evidence: Mapping[str, Sequence[RunEvidence]]) -> list[Shown]:
    """The rows whose runs kept their curves. evidence: of each row's runs."""
    rows = [Shown(label, tuple(filter(None, (kept() for kept in runs)))) for label, runs in evidence.items()]
    return [row for row in rows if row.runs]
