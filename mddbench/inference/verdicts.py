"""The threshold of image scores for a finished model: given by the user, or set on normal images that were held out."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mddbench.errors import InputError
from mddbench.inference.finished import FinishedModel

USUAL = 5
"""Percent of false alarms for which the threshold is taken if there are stored ones and the user names none."""


@dataclass(frozen=True)
class Threshold:
    """A threshold of image scores; higher scores are defective.

    Attributes:
        value: The threshold; None if there is none.
        origin: Where it comes from, or why there is none, in words.
    """

    value: float | None
    origin: str


def choose_threshold(
    model: FinishedModel, given: float | None = None, false_alarms: int | None = None, category: str | None = None
) -> Threshold:
    """Choose the threshold of a model.

    Args:
        model: The model.
        given: The threshold that the user gave; None if there is none.
        false_alarms: Wanted share of false alarms in percent, for a threshold that was set with the training;
            None for the usual share if there are such thresholds.
        category: Category of the images, whose own threshold is taken if it could be set; None if it is not known.

    Returns:
        The threshold.

    Raises:
        InputError: If both were given, or if there is no threshold for the wanted share.
    """
    if given is not None:
        if false_alarms is not None:
            raise InputError("a threshold and a share of false alarms: give one of them")
        if not math.isfinite(given):
            raise InputError(f"threshold {given}: expected a finite number")
        return Threshold(given, "as given")
    thresholds = model.record.thresholds
    if thresholds is None:
        if false_alarms is not None:
            raise InputError(f"{model.folder}: no threshold was set; train with --set calibration=0.2, or give one")
        return Threshold(None, "none: give one, or train with --set calibration=0.2, which sets some")
    percent = USUAL if false_alarms is None else false_alarms
    stored = thresholds.image.get(str(percent))
    if stored is None:
        known = ", ".join(f"{key} %" for key in thresholds.image)
        raise InputError(f"false alarms {percent} %: no threshold was set for it; there are {known}")
    found = stored.of(category) if category is not None else {"one": stored.one} if stored.one is not None else {}
    scope = "each" if "each" in found else "one"
    if scope in found:
        words = f"of {category}" if scope == "each" else "for all categories"
        return Threshold(found[scope], f"{percent} % false alarms {words}, set on {thresholds.source}")
    reasons = "; ".join(thresholds.refusals(percent)) or f"no threshold at {percent} %"
    if false_alarms is not None:
        raise InputError(f"false alarms {percent} %: {reasons}")
    return Threshold(None, f"none: {reasons}")
