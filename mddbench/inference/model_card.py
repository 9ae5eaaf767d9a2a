"""The card beside an exported model: what it is, what it takes and gives, how good it was, and how it was made."""

from __future__ import annotations

import math
from collections.abc import Iterable

from mddbench.inference.export import INPUT, MOST_DIFFERENCE, OUTPUTS, Exported
from mddbench.inference.finished import FinishedModel
from mddbench.inference.verdicts import Threshold
from mddbench.metrics.names import COLUMNS, LABELS, MEAN
from mddbench.report.tables.markdown import escaped
from mddbench.report.tables.table import DASH
from mddbench.runs.card import Setting
from mddbench.sizes import height_and_width
from mddbench.version import VERSION


def model_card(model: FinishedModel, exported: Exported, category: str | None, threshold: Threshold) -> str:
    """Write the card as Markdown.

    Args:
        model: The model that was exported.
        exported: The file.
        category: Category of the images that the file is for; None for all.
        threshold: Images with a higher score are defective.

    Returns:
        The text.
    """
    record = model.record
    names = [category] if category else record.categories
    lines = [
        f"# {escaped(record.label)} on {escaped(record.dataset)}",
        "",
        f"`{exported.file.name}` is the trained model of a cell of mddbench {VERSION}. It finds defects in images of "
        f"{_joined(escaped(name) for name in names)}.",
        "",
        *_interface(model, exported, threshold),
        "",
        *_measured(model),
        "",
        *_origin(model),
        "",
        "The encoder's weights and the training images have licences of their own, which hold for this file, too.",
    ]
    return "\n".join(lines) + "\n"


def _interface(model: FinishedModel, exported: Exported, threshold: Threshold) -> list[str]:
    """Say what the file takes and gives."""
    (height, width), (scores, maps, defective) = height_and_width(model.image_size), OUTPUTS
    batch = "B images at once, for any B" if exported.batch is None else "one image at a time (B = 1)"
    verdict = (
        "and no verdict, since no threshold was given."
        if threshold.value is None
        else f"and `{defective}` (B,) bool, true for a score above {threshold.value!r} ({threshold.origin})."
    )
    return [
        "## Input and outputs",
        "",
        f"It takes {batch}: `{INPUT}` (B, {height}, {width}, 3) uint8, RGB. Images of another size must be resized before, "
        "bilinearly with antialiasing and without keeping the aspect ratio, as Pillow's `resize` does it; another way "
        "to resize gives other scores.",
        "",
        f"It gives `{scores}` (B,), higher is more anomalous; `{maps}` (B, {height}, {width}), a score of each pixel; "
        f"{verdict}",
        "",
        f"On {exported.probes} images its scores differed from the suite's by {exported.difference:.1e} of the largest "
        f"one at most; a difference above {MOST_DIFFERENCE:.0e} would have been refused.",
    ]


def _measured(model: FinishedModel) -> list[str]:
    """Show the seven metrics of each category."""
    return [
        "## Measured",
        "",
        "On the test split of the data that it was trained for, by the definitions of mddbench, in percent:",
        "",
        f"| category | {' | '.join(LABELS[key] for key in COLUMNS)} |",
        f"|:--|{'--:|' * len(COLUMNS)}",
        *(_row(model, name) for name in (MEAN, *model.record.categories)),
        "",
        *_remarks(model),
        "Numbers on other images can be lower: other cameras, light, products and kinds of defects were not tried.",
    ]


def _origin(model: FinishedModel) -> list[str]:
    """Say how the model was made."""
    record = model.record
    return [
        "## Made by",
        "",
        "| | |",
        "|:--|:--|",
        f"| experiment | {escaped(record.experiment)}, seed {record.seed} |",
        f"| identity of the cell | `{record.identity}` |",
        f"| fingerprint of the data | `{record.fingerprint}` |",
        f"| SHA-256 of the learned tensors | `{record.model_sha256}` |",
        *(f"| {escaped(label)} | {escaped(value)} |" for label, value in record.card.rows()),
    ]


def _remarks(model: FinishedModel) -> list[str]:
    """Say what else a reader of the numbers must know."""
    setting = model.record.card.setting
    remarks = []
    if isinstance(setting, Setting) and setting.development:
        remarks.append("Settings were chosen on these test images, so the numbers are no test results.  ")
    if isinstance(setting, Setting) and setting.held_out:
        remarks.append("Measured on training images that were held out, with drawn defects.  ")
    if model.record.card.upper_bound:
        remarks.append("The method is told the category of each image: an upper bound.  ")
    return remarks


def _row(model: FinishedModel, category: str) -> str:
    values = (model.record.value(category, key) for key in COLUMNS)
    cells = (DASH if math.isnan(value) else f"{100 * value:.1f}" for value in values)
    return f"| {escaped(category)} | {' | '.join(cells)} |"


def _joined(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
