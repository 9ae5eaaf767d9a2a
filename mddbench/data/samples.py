"""One image of a dataset and what is known of it, and the tree it was found in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from mddbench.data.images import ABOVE_ZERO, MaskRule
from mddbench.errors import InputError

Kind = Literal["train", "test"]
GOOD = "good"


@dataclass(frozen=True, slots=True)
class Sample:
    """An image file with its category, split, kind of defect ('good' for none) and mask files, whose union is the defect.

    item: the thing that is pictured, where a dataset has several views of each; '' where it has not.
    """

    image: Path
    category: str
    split: Kind
    defect: str = GOOD
    masks: tuple[Path, ...] = ()
    item: str = ""

    @property
    def anomalous(self) -> bool:
        """The image's label: from the folder or the split file, never from the mask."""
        return self.defect != GOOD


@dataclass(frozen=True)
class Tree:
    """What reading a dataset's folder found: samples in a fixed order, those of a category together; faults, which stop a run,
    and warnings, one line each; sources: files that say which images there are, and so belong to the fingerprint.
    """

    root: Path
    samples: tuple[Sample, ...]
    faults: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    sources: tuple[Path, ...] = ()

    @cached_property
    def categories(self) -> tuple[str, ...]:
        return tuple(sorted({sample.category for sample in self.samples}))

    @cached_property
    def counts(self) -> Counts:
        """Category -> how many images there are."""
        counts = {category: [0, 0, 0] for category in self.categories}
        for sample in self.samples:
            counts[sample.category][0 if sample.split == "train" else 1 + sample.anomalous] += 1
        return {category: (train, good, defective) for category, (train, good, defective) in counts.items()}

    def select(self, split: Kind) -> tuple[Sample, ...]:
        return tuple(sample for sample in self.samples if sample.split == split)

    def files(self) -> Iterator[Path]:
        """Every file that is read: images, masks and sources."""
        for sample in self.samples:
            yield sample.image
            yield from sample.masks
        yield from self.sources

    def sound(self, dataset: str) -> Tree:
        """The tree itself, if it has no fault; else InputError with the first fault and the number of the others."""
        if self.faults:
            raise_first(dataset, self.root, self.faults)
        return self


def raise_first(dataset: str, root: Path, faults: tuple[str, ...] | list[str]) -> None:
    """Raise InputError for the first of some faults, saying how to see the others."""
    more = f" (and {len(faults) - 1} more: `mddbench data check {dataset} --data-root {root}`)" if faults[1:] else ""
    raise InputError(f"{dataset}: {faults[0]}{more}")


class SecondHand(int):
    """A number of images that is told of a dataset, but not by its authors: a difference is a warning and not a fault."""


Counts = dict[str, tuple[int, int, int]]
"""category -> (train, test good, test defective)."""
Known = tuple[int | None, int | None, int | None]
"""The same where some may not be known."""


@dataclass(frozen=True)
class Published:
    """How many images a dataset has: by category, as far as they are known, and in all."""

    title: str
    categories: dict[str, Known] = field(default_factory=dict)
    totals: Known = (None, None, None)

    @property
    def all(self) -> Known:
        """The totals as given, or else the categories' sums."""
        columns = zip(*self.categories.values(), strict=True) if self.categories else ((None,),) * 3
        sums = map(_sum, columns)
        train, good, defective = (total if total is not None else s for total, s in zip(self.totals, sums, strict=True))
        return train, good, defective


def _sum(numbers: tuple[int | None, ...]) -> int | None:
    """None if a number is not known, second hand if one is."""
    known = [number for number in numbers if number is not None]
    if len(known) < len(numbers):
        return None
    return SecondHand(sum(known)) if any(isinstance(number, SecondHand) for number in known) else sum(known)


@dataclass(frozen=True)
class DatasetSource:
    """A dataset as its file in `mddbench/data/datasets/` describes it, in a constant named DATASET.

    read: finds samples, faults and warnings below a root; it must not raise for a faulty tree, and it need not look whether a
    file that it names is there. It is told the side in pixels that images will have, for datasets that come in several sizes.
    layout: the tree it expects, drawn for people.
    build: writes the dataset below an empty folder, for a dataset that needs no download; None if the user brings it.
    version: changes whenever `build` would write other images.
    published: how many images it has, for estimates and checks.
    mask_rule: what of a mask counts as defect.
    fabricate: writes a small tree of drawn images below an empty folder in the dataset's own layout, traps included, with so
    many images, and returns what it was told.
    """

    description: str
    read: Callable[[Path, int], Tree]
    layout: str = ""
    build: Callable[[Path], None] | None = None
    version: int = 1
    published: Published | None = None
    mask_rule: MaskRule = ABOVE_ZERO
    fabricate: Callable[[Path, Counts], None] | None = None
