"""One image of a dataset and what is known of it, and the tree it was found in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mddbench.errors import InputError

Kind = Literal["train", "test"]
GOOD = "good"


@dataclass(frozen=True)
class Sample:
    """An image file with its category, split, kind of defect ('good' for none) and mask file, if it has one."""

    image: Path
    category: str
    split: Kind
    defect: str = GOOD
    mask: Path | None = None

    @property
    def anomalous(self) -> bool:
        """The image's label: from the folder, never from the mask."""
        return self.defect != GOOD


@dataclass(frozen=True)
class Tree:
    """What reading a dataset's folder found: samples in a fixed order, and every fault as one line."""

    root: Path
    samples: tuple[Sample, ...]
    faults: tuple[str, ...] = ()

    @property
    def categories(self) -> tuple[str, ...]:
        return tuple(sorted({sample.category for sample in self.samples}))

    def select(self, split: Kind) -> tuple[Sample, ...]:
        return tuple(sample for sample in self.samples if sample.split == split)

    def sound(self, dataset: str) -> Tree:
        """The tree itself, if it has no fault; else InputError with the first fault and the number of the others."""
        if self.faults:
            raise_first(dataset, self.root, self.faults)
        return self


def raise_first(dataset: str, root: Path, faults: tuple[str, ...] | list[str]) -> None:
    """Raise InputError for the first of some faults, saying how to see the others."""
    more = f" (and {len(faults) - 1} more: `mddbench data check {dataset} --data-root {root}`)" if faults[1:] else ""
    raise InputError(f"{dataset}: {faults[0]}{more}")


@dataclass(frozen=True)
class DatasetSource:
    """A dataset as its file in `mddbench/data/datasets/` describes it, in a constant named DATASET.

    read: finds samples and faults below a root; it must not raise for a faulty tree.
    build: writes the dataset below an empty folder, for a dataset that needs no download; None if the user brings it.
    version: changes whenever `build` would write other images.
    expected: category -> (train, test good, test defective) counts, for estimates and checks; totals: the same of all
    categories, where no more is known.
    """

    description: str
    read: Callable[[Path], Tree]
    build: Callable[[Path], None] | None = None
    version: int = 1
    expected: dict[str, tuple[int, int, int]] | None = None
    totals: tuple[int, int, int] | None = None
