"""Opens a dataset by name: read, checked, fingerprinted, decoded."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
from numpy.typing import NDArray

from mddbench.data.cache import decoded_split
from mddbench.data.fingerprint import FileEntry, fingerprint, manifest
from mddbench.data.samples import DatasetSource, Sample, Tree
from mddbench.data.textures import Textures
from mddbench.errors import InputError
from mddbench.plugins import DATASETS, load_module
from mddbench.progress import Reporter


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

    def of(self, category: str) -> Split:
        """The samples of one category; they lie together, so nothing is copied."""
        chosen = [index for index, sample in enumerate(self.samples) if sample.category == category]
        part = slice(chosen[0], chosen[-1] + 1)
        if len(chosen) != part.stop - part.start:
            raise ValueError(f"the samples of '{category}' do not lie together")
        return Split(self.samples[part], self.images[part], self.masks[part])

    @property
    def has_masks(self) -> bool:
        """Whether every defective image has a mask, so that pixel metrics are defined."""
        return all(sample.mask is not None for sample in self.samples if sample.anomalous)


@dataclass(frozen=True)
class Dataset:
    """A dataset ready to train on (`train`) and to be evaluated on (`test`); textures: to draw defects with, if given."""

    name: str
    categories: tuple[str, ...]
    fingerprint: str
    files: tuple[FileEntry, ...]
    train: Split
    test: Split
    textures: Textures | None = None

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


def read_dataset(name: str, root: Path | None, cache: Path) -> Tree:
    """A dataset's tree with its faults; an embedded one is written into the cache first."""
    source = load_source(name)
    if source.build is not None:
        root = _built(source, cache / f"{name}-v{source.version}")
    elif root is None:
        raise InputError(f"{name}: its images are not part of mddbench; give their folder by --data-root DIR")
    return source.read(root)


def open_dataset(name: str, root: Path | None, cache: Path, size: int, reporter: Reporter) -> Dataset:
    """Read, check, fingerprint and decode a dataset at `size` x `size` pixels.

    Raises InputError for the first fault of the tree or of a file.
    """
    tree = read_dataset(name, root, cache).sound(name)
    files = manifest(tree, reporter)
    digest = fingerprint(files)
    _warn_of_copies(tree, files, reporter)
    splits = []
    for kind in ("train", "test"):
        samples = tree.select(kind)
        images, masks = decoded_split(samples, size, cache / "decoded", digest, reporter)
        splits.append(Split(samples, images, masks))
    return Dataset(name, tree.categories, digest, files, train=splits[0], test=splits[1])


def _warn_of_copies(tree: Tree, files: tuple[FileEntry, ...], reporter: Reporter) -> None:
    """Say so if a test image is a copy of a training image, to the byte: what it measures is memory."""
    hashes = {entry.path: entry.sha256 for entry in files}
    trained = {hashes[sample.image.relative_to(tree.root).as_posix()] for sample in tree.select("train")}
    copies = [s.image for s in tree.select("test") if hashes[s.image.relative_to(tree.root).as_posix()] in trained]
    if copies:
        reporter.say(f"warning: {len(copies)} test images are copies of training images, {copies[0]} for one")


def _built(source: DatasetSource, folder: Path) -> Path:
    if not folder.exists():
        assert source.build is not None
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
        try:
            source.build(partial)
            partial.replace(folder)
        except OSError:
            if not folder.exists():
                raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder
