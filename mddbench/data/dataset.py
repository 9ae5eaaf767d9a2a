"""Opens a dataset by name: read, checked, fingerprinted, decoded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mddbench.data.built import built
from mddbench.data.cache import decoded_splits
from mddbench.data.check import read_source
from mddbench.data.counts import fabricated_mark
from mddbench.data.fingerprint import Manifest, manifest
from mddbench.data.oddities import Oddities
from mddbench.data.own import mark_own
from mddbench.data.samples import DatasetSource, Sample, Tree
from mddbench.data.textures import Textures
from mddbench.errors import InputError
from mddbench.plugins import DATASETS, load_module
from mddbench.progress import WARNING, Reporter

MOST_WARNINGS = 5


@dataclass(frozen=True)
class Split:
    """Decoded images of a split, or of one category of it.

    images: (N, S, S, 3) uint8 RGB; masks: (N, S, S) bool; both in the order of the samples.
    """

    samples: tuple[Sample, ...]
    images: NDArray[np.uint8]
    masks: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def items(self) -> list[str] | None:
        """What each image shows, where several images show one; None if that is not known of all."""
        items = [sample.item for sample in self.samples]
        return items if all(items) else None

    def of(self, category: str) -> Split:
        """The samples of one category; they lie together, so nothing is copied."""
        part = self._places[category]
        return Split(self.samples[part], self.images[part], self.masks[part])

    @cached_property
    def _places(self) -> dict[str, slice]:
        places: dict[str, slice] = {}
        start = 0
        for category, members in groupby(sample.category for sample in self.samples):
            if category in places:
                raise ValueError(f"the samples of '{category}' do not lie together")
            places[category] = slice(start, start := start + sum(1 for _ in members))
        return places

    @property
    def has_masks(self) -> bool:
        """Whether every defective image has a mask, so that pixel metrics are defined."""
        return all(sample.masks for sample in self.samples if sample.anomalous)


@dataclass(frozen=True)
class Dataset:
    """A dataset ready to train on (`train`) and to be evaluated on (`test`); files: how many were read; mask_rule: what of a
    mask counts as defect; textures: to draw defects with, if given; fabricated: whether its images are drawn.
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

    @property
    def train_categories(self) -> NDArray[np.int64]:
        """(N,) the index of each training image's category."""
        index = {category: position for position, category in enumerate(self.categories)}
        return np.array([index[sample.category] for sample in self.train.samples], dtype=np.int64)

    def only(self, category: str) -> Dataset:
        """The dataset of one category."""
        return replace(self, categories=(category,), train=self.train.of(category), test=self.test.of(category))


def load_source(name: str) -> DatasetSource:
    """The constant DATASET of `mddbench/data/datasets/<name>.py`. Raises InputError for an unknown name."""
    module = load_module(name, DATASETS)
    source = getattr(module, "DATASET", None)
    if not isinstance(source, DatasetSource):
        raise InputError(f"'{name}' ({module.__name__}): expected a constant DATASET, found {type(source).__name__}")
    return source


def root_of(name: str, data_root: Path | None) -> Path | None:
    """Where a dataset lies: below the given root under its name, or the root itself."""
    if data_root is not None and (data_root / name).is_dir():
        return data_root / name
    return data_root


def read_dataset(name: str, root: Path | None, cache: Path, size: int) -> Tree:
    """A dataset's tree with its faults; an embedded one is written into the cache first. size: that images will have."""
    source = load_source(name)
    if source.build is not None:
        root = cache / f"{name}-v{source.version}"
        mark_own(cache)
        warning = built(source.build, root, cache / "manifests")
        tree = read_source(source, root, size)
        return replace(tree, warnings=(*filter(None, [warning]), *tree.warnings))
    if root is None:
        raise InputError(f"{name}: its images are not part of mddbench; give their folder by --data-root DIR")
    return read_source(source, root, size)


def dataset_manifest(tree: Tree, cache: Path, reporter: Reporter) -> Manifest:
    """Path, size and hash of every file of a tree, of unchanged ones as remembered. Raises InputError for an unreadable one."""
    mark_own(cache)
    return manifest(tree.root, tree.files(), reporter, remembered=cache / "manifests")


def open_dataset(name: str, root: Path | None, cache: Path, size: int, reporter: Reporter) -> Dataset:
    """Read, check, fingerprint and decode a dataset at `size` x `size` pixels.

    Raises InputError for the first fault of the tree or of a file.
    """
    source = load_source(name)
    tree = read_dataset(name, root, cache, size).sound(name)
    files = dataset_manifest(tree, cache, reporter)
    reporter.say(f"{name}: {len(files.entries)} files below {tree.root}, fingerprint {files.fingerprint[:16]}")
    _warn((*tree.warnings, *copies(tree, files)), name, reporter)
    parts = tree.select("train"), tree.select("test")
    arrays = decoded_splits(parts, size, cache / "decoded", files, reporter, source.mask_rule)
    oddities = Oddities()
    for each in arrays:
        oddities.merge(each.oddities)
    _warn(oddities.lines(tree.root), name, reporter)
    train, test = (Split(samples, each.images, each.masks) for samples, each in zip(parts, arrays, strict=True))
    return Dataset(
        name,
        tree.categories,
        files.fingerprint,
        len(files.entries),
        train=train,
        test=test,
        mask_rule=str(source.mask_rule),
        fabricated=root is not None and fabricated_mark(root) is not None,
    )


def copies(tree: Tree, files: Manifest) -> tuple[str, ...]:
    """A warning if a test image is a copy of a training image, to the byte: what it measures is memory."""
    trained = {files.of(sample.image).sha256 for sample in tree.select("train")}
    found = [sample.image for sample in tree.select("test") if files.of(sample.image).sha256 in trained]
    return (f"{len(found)} test images are copies of training images, {found[0]} for one",) if found else ()


def _warn(warnings: tuple[str, ...], name: str, reporter: Reporter) -> None:
    for line in warnings[:MOST_WARNINGS]:
        reporter.say(f"{WARNING}{name}: {line}")
    if warnings[MOST_WARNINGS:]:
        reporter.say(f"{WARNING}{name}: {len(warnings) - MOST_WARNINGS} more; `mddbench data check {name}` lists them")
