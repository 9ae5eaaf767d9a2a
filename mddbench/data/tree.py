"""Reads folders in MVTec-AD's layout and in similar layouts. Most datasets of the field copy it.

    ROOT/<category>/train/good/*.png
    ROOT/<category>/test/{good,<defect>}/*.png
    ROOT/<category>/ground_truth/<defect>/<stem>_mask.png

Masks are paired with images by file stem, never by position. Labels come from the folder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mddbench.data.listing import (
    IMAGE_SUFFIXES,
    NOT_READ,
    entries_of,
    first_names,
    folders,
    image_files,
    nested,
    suffix_of,
)
from mddbench.data.names import composed, lookalikes
from mddbench.data.samples import GOOD, Sample, Tree

MASK_ENDINGS = ("_mask", "_gt")
NUMBERED = re.compile(r"(.+)(?:_mask|_gt)[_-]?\d+", re.IGNORECASE)
"""The stem of a mask that is one of several of an image."""
MVTEC_LAYOUT = """\
ROOT/<category>/
  train/good/*.png
  test/{good,<defect>}/*.png
  ground_truth/<defect>/<image>_mask.png
"""
HABITS = (GOOD, "ok", "normal")
"""The names that people give to the folder of normal images."""


@dataclass(frozen=True)
class Layout:
    """The differences between a dataset's layout and MVTec-AD's.

    Attributes:
        normal: The names of the folders of normal images.
        train: The names of the folders of training images.
        masks_required: True if each category must have a folder ground_truth. A category without it has image-level
            metrics only. With it, each defective image must have a mask.
        mask_folders: True if each image has a folder of masks in place of one mask.
        test: The folder of test images, below a category's.
        truth: The folder of masks, below a category's. It may lie in the folder of test images.
        hidden: The names of the folders of images whose labels the authors keep. They are not read here.
        free: True to accept the habits of people with their own images, too: one category alone, training images
            directly in train/, several masks of one image, and kinds of defects in nested folders.
    """

    normal: tuple[str, ...] = (GOOD,)
    train: tuple[str, ...] = ("train",)
    masks_required: bool = True
    mask_folders: bool = False
    test: str = "test"
    truth: str = "ground_truth"
    hidden: tuple[str, ...] = ()
    free: bool = False


def read_tree(root: Path, layout: Layout) -> Tree:
    """Read all categories below a root. Each folder that holds a part of a category is a category.

    Args:
        root: The dataset's folder.
        layout: The layout of the dataset.

    Returns:
        The samples, faults and warnings of the categories, in alphabetical order. Other folders get a warning.
    """
    if not root.is_dir():
        present = "a file" if root.exists() else "nothing"
        return Tree(root, (), (f"expected the dataset's folder at {root}, found {present}; give it by --data-root",))
    parts = [name for name in ("train", layout.test) if (root / name).is_dir() and not (root / name / "train").is_dir()]
    if parts and not layout.free:
        part_names = " and ".join(f"{name}/" for name in parts)
        return Tree(root, (), (f"{root} looks like one category (it holds {part_names}); give its parent folder",))
    category_folders = [root] if parts else [folder for folder in folders(root) if _is_category(folder, layout)]
    categories = [
        Category(folder, layout, _given_name(folder) if parts else folder.name) for folder in category_folders
    ]
    items = [item for category in categories for item in _tolerant(category.read)]
    faults = [*lookalikes(category_folders), *(item for item in items if isinstance(item, str))]
    if not categories:
        faults.append(
            f"no category below {root}: expected folders <category>/train/{layout.normal[0]} and "
            f"<category>/test/<defect>, found {first_names(root)}"
        )
    samples = tuple(item for item in items if isinstance(item, Sample))
    deeper = [child for folder in folders(root) for child in folders(folder) if _is_category(child, layout)]
    if deeper and not samples:
        fault = f"categories lie deeper than {root}, {deeper[0]} for one; give {deeper[0].parent} by --data-root"
        return Tree(root, (), (fault,))
    warnings = [str(line) for category in categories for line in _tolerant(category.warnings)]
    if category_folders and not parts:
        other_folders = [folder for folder in folders(root) if folder not in category_folders]
        warnings += [f"{folder}: not read, as it holds neither train/ nor test/" for folder in other_folders]
    return Tree(root, samples, tuple(faults), tuple(warnings))


def _tolerant(read: Callable[[], Iterator[Sample | str]] | Callable[[], Iterator[str]]) -> Iterator[Sample | str]:
    """Yield what a reader of one category yields. If a folder cannot be read, a fault is the last item."""
    try:
        yield from read()
    except OSError as fault:
        yield f"{fault.filename}: cannot be read ({fault.strerror})"


class Category:
    """The folder of one category.

    Attributes:
        folder: The folder.
        layout: The layout of the dataset.
        name: The name of the category.
        test: The folder of test images.
        truth: The folder of masks.
        folders_of_images: The folders of masks that belong to one image each, of those that were read.
    """

    def __init__(self, folder: Path, layout: Layout, name: str) -> None:
        self.folder, self.layout, self.name = folder, layout, composed(name)
        self.test, self.truth = folder / layout.test, folder / layout.truth
        self.folders_of_images: set[Path] = set()

    @cached_property
    def mask_folders_by_kind(self) -> dict[str, Path]:
        """The folders of masks by the kind of defect that they belong to."""
        outer = folders(self.truth)
        inner = [inner for folder in outer for inner in nested(folder)] if self.layout.free else []
        return {_kind(folder, self.truth): folder for folder in (*outer, *inner)}

    def read(self) -> Iterator[Sample | str]:
        """Read the category.

        Yields:
            Its samples, training images first, and its faults.
        """
        yield from self._train()
        yield from self._test()

    def warnings(self) -> Iterator[str]:
        """Look for folders and images that are not read, and for missing normal test images.

        Yields:
            One line for each problem.
        """
        kinds = [kind for kind, images in self._kinds() if images]
        if kinds and not any(map(self._is_normal, kinds)):
            names = " or ".join(self.layout.normal)
            yield f"{self.test}: no normal test images; their folder is called {names}, found {', '.join(kinds)}"
        for folder in folders(self.folder):
            if folder.name not in (*self.layout.train, *self.layout.hidden) and folder not in (self.test, self.truth):
                hint = "; masks belong into ground_truth/<defect>/" if not self.truth.is_dir() else ""
                yield f"{folder}: not read{hint}"
        for part in (*self.layout.train, self.layout.test):
            for folder in (self.folder / part, *folders(self.folder / part)):
                unread = [entry.name for entry in entries_of(folder) if suffix_of(entry.name) in NOT_READ]
                if unread:
                    suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
                    yield f"{folder}: {len(unread)} images are not read, {unread[0]} for one; save them as {suffixes}"

    def _train(self) -> Iterator[Sample | str]:
        images: list[Path] = []
        for part in self.layout.train:
            parent = self.folder / part
            if part != self.layout.train[0] and not parent.is_dir():
                yield f"{parent}: no such folder; unpack the dataset anew"
            for folder in folders(parent):
                if self._is_normal(folder.name):
                    images += self._images_below(folder)
                else:
                    yield (
                        f"{folder}: training images are normal ones, in {parent / self.layout.normal[0]}; "
                        f"move those of other folders to {self.test}"
                    )
            images += image_files(parent) if self.layout.free else []
        if not images:
            expected = self.folder / self.layout.train[0] / self.layout.normal[0]
            reason = "no image there" if expected.is_dir() else "no such folder"
            also = f", nor in {' or '.join(self.layout.normal[1:])}" if self.layout.normal[1:] else ""
            yield f"category '{self.name}' needs normal training images in {expected}: found {reason}{also}"
        yield from (Sample(image, self.name, "train") for image in images)

    def _test(self) -> Iterator[Sample | str]:
        kinds = self._kinds()
        expected = f"{self.test}/<{self.layout.normal[0]} or defect>"
        yield from lookalikes((*folders(self.test), *folders(self.truth)))
        if not any(images for _, images in kinds):
            reason = "no such folder" if not self.test.is_dir() else "no image in any folder there"
            yield f"category '{self.name}' needs test images in {expected}: found {reason}"
        if loose := image_files(self.test):
            yield f"{loose[0]}: test images lie in {expected}/, which says what they are"
        with_masks = self.truth.is_dir() or self.layout.masks_required
        for kind, images in kinds:
            if not images:
                suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
                yield f"{self.test / kind}: the folder holds no image ({suffixes}); fill or remove it"
            yield from _repeated_stems(images)
            if self._is_normal(kind):
                yield from (Sample(image, self.name, "test") for image in images)
            elif not with_masks:
                yield from (Sample(image, self.name, "test", kind) for image in images)
            elif self.layout.mask_folders:
                yield from self._with_mask_folders(images, kind)
            else:
                yield from self._with_masks(images, kind)
        yield from self._unused_masks([kind for kind, _ in kinds])

    def _kinds(self) -> list[tuple[str, list[Path]]]:
        """The kinds of test images with their files. 'scratch/deep' is a kind in a nested folder."""
        kinds: list[tuple[str, list[Path]]] = []
        for folder in folders(self.test):
            if folder == self.truth:
                continue
            inner = nested(folder) if self.layout.free else []
            images = image_files(folder)
            if images or not inner:
                kinds.append((_kind(folder, self.test), images))
            kinds += [(_kind(inner_folder, self.test), image_files(inner_folder)) for inner_folder in inner]
        return kinds

    def _images_below(self, folder: Path) -> list[Path]:
        inner = nested(folder) if self.layout.free else []
        return [image for image_folder in (folder, *inner) for image in image_files(image_folder)]

    def _is_normal(self, kind: str) -> bool:
        name = kind.partition("/")[0]
        return (name.lower() if self.layout.free else name) in self.layout.normal

    def _with_masks(self, images: list[Path], kind: str) -> Iterator[Sample | str]:
        """The samples of a kind of defect where masks are paired with images by stem. In a free layout there may be several."""
        masks: dict[str, list[Path]] = {}
        mask_folder = self.mask_folders_by_kind.get(kind)
        if mask_folder is None:
            names = " or ".join(self.layout.normal)
            yield (
                f"{self.test / kind}: no folder {self.truth / kind} with its masks; "
                f"if its images are normal, call it {names}"
            )
            yield from (Sample(image, self.name, "test", kind) for image in images)
            return
        stems, several = {composed(image.stem) for image in images}, set[str]()
        for mask in image_files(mask_folder):
            stem, is_numbered = self._image_of(mask, stems)
            if stem in masks and not (is_numbered and stem in several):
                yield f"{mask}: a second mask for image '{stem}' beside {masks[stem][0].name}; {self._remedy(stem)}"
            masks.setdefault(stem, []).append(mask)
            several |= {stem} if is_numbered else set()
        for folder in folders(mask_folder) if self.layout.free else ():
            if (stem := composed(folder.name)) in stems and not (self.test / kind / folder.name).is_dir():
                self.folders_of_images.add(folder)
                if stem in masks:
                    yield f"{folder}: masks for image '{stem}' beside {masks[stem][0].name}; keep one of the two"
                masks.setdefault(stem, []).extend(image_files(folder))
        for image in images:
            stem = composed(image.stem)
            own_masks = masks.pop(stem, None) or masks.pop(_without_ending(stem), None)
            if not own_masks:
                yield f"{image}: no mask for it; expected {mask_folder / (image.stem + MASK_ENDINGS[0] + '.png')}"
            yield Sample(image, self.name, "test", kind, tuple(own_masks or ()))
        for stem, left in masks.items():
            yield f"{left[0]}: a mask without an image; expected {self.test / kind / (stem + '.*')}"

    def _image_of(self, mask: Path, stems: set[str]) -> tuple[str, bool]:
        """Return the stem of the image that a mask belongs to, and whether the mask is one of several."""
        stem = composed(mask.stem)
        several = NUMBERED.fullmatch(stem) if self.layout.free and stem not in stems else None
        return (several[1], True) if several else (_without_ending(stem), False)

    def _remedy(self, stem: str) -> str:
        """What to do about a second mask."""
        return f"call several {stem}_mask_1, {stem}_mask_2" if self.layout.free else "remove one"

    def _with_mask_folders(self, images: list[Path], kind: str) -> Iterator[Sample | str]:
        """The samples of a kind of defect where each image has a folder of masks, named by its stem."""
        parent = self.mask_folders_by_kind.get(kind, self.truth / kind)
        by_stem = {composed(folder.name): folder for folder in folders(parent)}
        for image in images:
            folder = by_stem.pop(composed(image.stem), None)
            masks = tuple(image_files(folder)) if folder else ()
            if not masks:
                yield f"{image}: no mask for it; expected {parent / image.stem / '000.png'}"
            yield Sample(image, self.name, "test", kind, masks)
        for folder in by_stem.values():
            yield f"{folder}: masks without an image; expected {self.test / kind / (folder.name + '.*')}"

    def _unused_masks(self, kinds: list[str]) -> Iterator[str]:
        """The faults of mask folders for kinds of defects that no test image has."""
        for name, folder in self.mask_folders_by_kind.items():
            is_plain = "/" not in name and not (self.layout.free and nested(folder))
            if folder in self.folders_of_images:
                continue
            if name not in kinds and (image_files(folder) or is_plain):
                yield f"{folder}: masks for a defect '{name}' that {self.test} does not have"


def _is_category(folder: Path, layout: Layout) -> bool:
    """True if a folder holds a part of a category, or if its content may not be read."""
    return not os.access(folder, os.R_OK | os.X_OK) or any(
        (folder / part).is_dir() for part in (*layout.train, layout.test)
    )


def _given_name(folder: Path) -> str:
    """The name of a folder that the user gave: for a link its own name, for '.' the name of the folder."""
    return Path(os.path.abspath(folder)).name  # noqa: PTH100 - absolute() keeps '..'


def _kind(folder: Path, parent: Path) -> str:
    """The kind of defect that a folder stands for: 'scratch', or 'scratch/deep' for a nested folder."""
    return composed(folder.relative_to(parent).as_posix())


def _without_ending(stem: str) -> str:
    """The stem of a mask's name without an ending such as '_mask'."""
    return next((stem[: -len(end)] for end in MASK_ENDINGS if stem[-len(end) :].lower() == end), stem)


def _repeated_stems(images: list[Path]) -> Iterator[str]:
    """The faults of images that have the same stem as an earlier one."""
    by_stem: dict[str, Path] = {}
    for image in images:
        stem = composed(image.stem)
        if stem in by_stem:
            yield (
                f"{image}: two images of one stem ({by_stem[stem].name} too), so a mask could belong to either; "
                "rename one"
            )
        by_stem[stem] = image
