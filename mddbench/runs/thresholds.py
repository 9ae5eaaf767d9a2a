"""Thresholds that were set on normal images alone, as the record of a finished cell holds them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mddbench.runs.bounds import LONGEST_TEXT, Category, Natural, Number
from mddbench.settings import Strict

Text = Annotated[str, Field(min_length=1, max_length=LONGEST_TEXT)]


def fewest_images(percent: int) -> int:
    """Return the fewest normal images with which a threshold can keep false alarms at `percent`: 19 for 5 %."""
    return -(-100 // percent) - 1


class Scoped(Strict):
    """A threshold for all categories, and one for each. None stands where none could be set.

    Attributes:
        one: The threshold for all categories.
        each: Category -> its threshold.
    """

    one: Number | None
    each: dict[Category, Number | None]

    def of(self, category: str) -> dict[str, float]:
        """Return the thresholds for a category.

        Args:
            category: Name of the category.

        Returns:
            'one' and 'each' -> threshold, of those that could be set.
        """
        found = {"one": self.one, "each": self.each.get(category)}
        return {scope: threshold for scope, threshold in found.items() if threshold is not None}


class Thresholds(Strict):
    """The thresholds of a trained model. Higher scores are defective; a score equal to the threshold is not.

    Attributes:
        source: Which normal images they were set on.
        images: Category -> number of these images.
        image: Wanted share of false alarms in percent -> thresholds of image scores.
        pixel: Name of a rule -> thresholds of the pixels of anomaly maps.
    """

    source: Text
    images: dict[Category, Natural]
    image: dict[Annotated[str, Field(pattern=r"^\d{1,2}$")], Scoped]
    pixel: dict[Text, Scoped]

    def of_images(self, category: str) -> dict[tuple[int, str], float]:
        """Return (percent, scope) -> threshold of image scores, of those that could be set for a category."""
        return {(int(key), scope): t for key, scoped in self.image.items() for scope, t in scoped.of(category).items()}

    def of_pixels(self, category: str) -> dict[tuple[str, str], float]:
        """Return (rule, scope) -> threshold of pixels, of those that could be set for a category."""
        return {(rule, scope): t for rule, scoped in self.pixel.items() for scope, t in scoped.of(category).items()}

    def refusals(self, percent: int | None = None) -> list[str]:
        """Say which thresholds of image scores could not be set, and why.

        Args:
            percent: The wanted share of false alarms; None for all.

        Returns:
            A line for each share of which a threshold is missing.
        """
        lines = []
        for key, scoped in self.image.items():
            if percent is not None and int(key) != percent:
                continue
            needed, total = fewest_images(int(key)), sum(self.images.values())
            lacking = [category for category, threshold in scoped.each.items() if threshold is None]
            parts = [f"for all categories ({total} images)"] if scoped.one is None else []
            parts += (
                [
                    f"for each of {len(lacking)} of {len(scoped.each)} categories (such as {lacking[0]} with "
                    f"{self.images[lacking[0]]})"
                ]
                if lacking
                else []
            )
            if parts:
                lines.append(
                    f"no threshold at {key} % {' and '.join(parts)}: it needs {needed} normal images with finite scores"
                )
        return lines
