"""Reads folders in MVTec-AD's layout, from which most datasets of the field are copied, and its relatives:

    ROOT/<category>/train/good/*.png
    ROOT/<category>/test/{good,<defect>}/*.png
    ROOT/<category>/ground_truth/<defect>/<stem>_mask.png

Masks are paired by file stem, never by position; labels come from the folder.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mddbench.data.names import composed, twins
from mddbench.data.own import is_own
from mddbench.data.samples import GOOD, Sample, Tree

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
NOT_READ = frozenset({
    ".gif",
    ".heic",
    ".heif",
    ".avif",
    ".jfif",
    ".jp2",
    ".pgm",
    ".ppm",
    ".pbm",
    ".dcm",
    ".raw",
    ".npy",
})
"""Suffixes of images that people have and that are not read."""
LITTER = frozenset(
    {
        "__macosx",
        "@eadir",
        "#recycle",
        "@recycle",
        "lost+found",
        "$recycle.bin",
        "recycler",
        "system volume information",
    }
    | {"found.000", "temporary items", "network trash folder", "__pycache__"}
)
"""Folders that systems and programs leave on a disk, in lower case."""
MASK_ENDINGS = ("_mask", "_gt")
MVTEC_LAYOUT = """\
ROOT/<category>/
  train/good/*.png
  test/{good,<defect>}/*.png
  ground_truth/<defect>/<image>_mask.png
"""
HABITS = (GOOD, "ok", "normal")
"""What people call the folder of normal images."""


@dataclass(frozen=True)
class Layout:
    """How a dataset differs from MVTec-AD. normal: names of the folders of normal images; train: of the training images.

    masks_required: whether each category must have ground_truth; one without it has image-level metrics only. A category that
    has ground_truth must have a mask for each defective image.
    mask_folders: whether each image has a folder of masks, in place of one mask.
    free: take what people do with their own images, too: one category alone, training images straight in train/, kinds of
    defects in folders within folders.
    """

    normal: tuple[str, ...] = (GOOD,)
    train: tuple[str, ...] = ("train",)
    masks_required: bool = True
    mask_folders: bool = False
    free: bool = False


def read_tree(root: Path, layout: Layout) -> Tree:
    """Samples, faults and warnings of all categories below `root`, in alphabetical order.

    Every folder below `root` with a part of a category in it is one; of others there is a warning.
    """
    if not root.is_dir():
        what = "a file" if root.exists() else "nothing"
        return Tree(root, (), (f"expected the dataset's folder at {root}, found {what}; give it by --data-root",))
    parts = [name for name in ("train", "test") if (root / name).is_dir() and not (root / name / "train").is_dir()]
    if parts and not layout.free:
        held = " and ".join(f"{name}/" for name in parts)
        return Tree(root, (), (f"{root} looks like one category (it holds {held}); give its parent folder",))
    places = [root] if parts else [folder for folder in folders(root) if _is_category(folder, layout)]
    categories = [Category(place, layout, _given_name(place) if parts else place.name) for place in places]
    found = [item for category in categories for item in _tolerant(category.read)]
    faults = [*twins(places), *(item for item in found if isinstance(item, str))]
    if not categories:
        faults.append(
            f"no category below {root}: expected folders <category>/train/{layout.normal[0]} and <category>/test/<defect>, "
            f"found {_listing(root)}"
        )
    samples = tuple(item for item in found if isinstance(item, Sample))
    deeper = [child for folder in folders(root) for child in folders(folder) if _is_category(child, layout)]
    if deeper and not samples:
        fault = f"categories lie deeper than {root}, {deeper[0]} for one; give {deeper[0].parent} by --data-root"
        return Tree(root, (), (fault,))
    warnings = [str(line) for category in categories for line in _tolerant(category.warnings)]
    others = [folder for folder in folders(root) if folder not in places] if places and not parts else []
    warnings += [f"{folder}: not read, as it holds neither train/ nor test/" for folder in others]
    return Tree(root, samples, tuple(faults), tuple(warnings))


def _tolerant(read: Callable[[], Iterator[Sample | str]] | Callable[[], Iterator[str]]) -> Iterator[Sample | str]:
    """What a reader of one category yields; where a folder cannot be looked into, a fault in its place."""
    try:
        yield from read()
    except OSError as fault:
        yield f"{fault.filename}: cannot be read ({fault.strerror})"


class Category:
    """One category's folder."""

    def __init__(self, folder: Path, layout: Layout, name: str) -> None:
        self.folder, self.layout, self.name = folder, layout, composed(name)
        self.test, self.truth = folder / "test", folder / "ground_truth"

    @cached_property
    def truths(self) -> dict[str, Path]:
        """The folders of masks by what kind of defect they are for."""
        found = folders(self.truth)
        inner = [each for folder in found for each in nested(folder)] if self.layout.free else []
        return {_kind(each, self.truth): each for each in (*found, *inner)}

    def read(self) -> Iterator[Sample | str]:
        """Its samples, training images first, and its faults."""
        yield from self._train()
        yield from self._test()

    def warnings(self) -> Iterator[str]:
        """Folders and images that nobody reads, though somebody made them; normal test images that nobody finds."""
        kinds = [kind for kind, images in self._kinds() if images]
        if kinds and not any(map(self._is_normal, kinds)):
            names = " or ".join(self.layout.normal)
            yield f"{self.test}: no normal test images; their folder is called {names}, found {', '.join(kinds)}"
        for folder in folders(self.folder):
            if folder.name not in (*self.layout.train, "test", "ground_truth"):
                hint = "; masks belong into ground_truth/<defect>/" if not self.truth.is_dir() else ""
                yield f"{folder}: not read{hint}"
        for part in (*self.layout.train, "test"):
            for kind in (self.folder / part, *folders(self.folder / part)):
                odd = [entry.name for entry in _entries(kind) if _suffix(entry.name) in NOT_READ]
                if odd:
                    read = ", ".join(sorted(IMAGE_SUFFIXES))
                    yield f"{kind}: {len(odd)} images are not read, {odd[0]} for one; save them as {read}"

    def _train(self) -> Iterator[Sample | str]:
        images: list[Path] = []
        for part in self.layout.train:
            parent = self.folder / part
            if part != self.layout.train[0] and not parent.is_dir():
                yield f"{parent}: no such folder; unpack the dataset anew"
            for kind in folders(parent):
                if self._is_normal(kind.name):
                    images += self._below(kind)
                else:
                    yield (
                        f"{kind}: training images are normal ones, in {parent / self.layout.normal[0]}; move those of other "
                        f"folders to {self.test}"
                    )
            images += image_files(parent) if self.layout.free else []
        if not images:
            wanted = self.folder / self.layout.train[0] / self.layout.normal[0]
            found = "no image there" if wanted.is_dir() else "no such folder"
            also = f", nor in {' or '.join(self.layout.normal[1:])}" if self.layout.normal[1:] else ""
            yield f"category '{self.name}' needs normal training images in {wanted}: found {found}{also}"
        yield from (Sample(image, self.name, "train") for image in images)

    def _test(self) -> Iterator[Sample | str]:
        kinds = self._kinds()
        yield from twins((*folders(self.test), *folders(self.truth)))
        if not any(images for _, images in kinds):
            found = "no such folder" if not self.test.is_dir() else "no image in any folder there"
            yield f"category '{self.name}' needs test images in {self.test}/<{self.layout.normal[0]} or defect>: found {found}"
        if loose := image_files(self.test):
            yield f"{loose[0]}: test images lie in {self.test}/<{self.layout.normal[0]} or defect>/, which says what they are"
        with_masks = self.truth.is_dir() or self.layout.masks_required
        for kind, images in kinds:
            if not images:
                yield f"{self.test / kind}: the folder holds no image ({', '.join(sorted(IMAGE_SUFFIXES))}); fill or remove it"
            yield from _repeated(images)
            if self._is_normal(kind):
                yield from (Sample(image, self.name, "test") for image in images)
            elif not with_masks:
                yield from (Sample(image, self.name, "test", kind) for image in images)
            elif self.layout.mask_folders:
                yield from self._with_folders(images, kind)
            else:
                yield from self._paired(images, kind)
        yield from self._masks_for_nothing([kind for kind, _ in kinds])

    def _kinds(self) -> list[tuple[str, list[Path]]]:
        """Kinds of test images with their files; 'scratch/deep' is a kind within a kind."""
        kinds: list[tuple[str, list[Path]]] = []
        for folder in folders(self.test):
            inner = nested(folder) if self.layout.free else []
            images = image_files(folder)
            if images or not inner:
                kinds.append((_kind(folder, self.test), images))
            kinds += [(_kind(each, self.test), image_files(each)) for each in inner]
        return kinds

    def _below(self, folder: Path) -> list[Path]:
        inner = nested(folder) if self.layout.free else []
        return [image for each in (folder, *inner) for image in image_files(each)]

    def _is_normal(self, kind: str) -> bool:
        name = kind.partition("/")[0]
        return (name.lower() if self.layout.free else name) in self.layout.normal

    def _paired(self, images: list[Path], kind: str) -> Iterator[Sample | str]:
        masks: dict[str, Path] = {}
        place = self.truths.get(kind)
        if place is None:
            names = " or ".join(self.layout.normal)
            yield f"{self.test / kind}: no folder {self.truth / kind} with its masks; if its images are normal, call it {names}"
            yield from (Sample(image, self.name, "test", kind) for image in images)
            return
        for mask in image_files(place):
            stem = _without_ending(composed(mask.stem))
            if stem in masks:
                yield f"{mask}: a second mask for image '{stem}' beside {masks[stem].name}; remove one"
            masks[stem] = mask
        for image in images:
            stem = composed(image.stem)
            mask_found = masks.pop(stem, None) or masks.pop(_without_ending(stem), None)
            if mask_found is None:
                yield f"{image}: no mask for it; expected {place / (image.stem + MASK_ENDINGS[0] + '.png')}"
            yield Sample(image, self.name, "test", kind, (mask_found,) if mask_found else ())
        for stem, mask in masks.items():
            yield f"{mask}: a mask without an image; expected {self.test / kind / (stem + '.*')}"

    def _with_folders(self, images: list[Path], kind: str) -> Iterator[Sample | str]:
        place = self.truths.get(kind, self.truth / kind)
        found = {composed(folder.name): folder for folder in folders(place)}
        for image in images:
            folder = found.pop(composed(image.stem), None)
            masks = tuple(image_files(folder)) if folder else ()
            if not masks:
                yield f"{image}: no mask for it; expected {place / image.stem / '000.png'}"
            yield Sample(image, self.name, "test", kind, masks)
        for folder in found.values():
            yield f"{folder}: masks without an image; expected {self.test / kind / (folder.name + '.*')}"

    def _masks_for_nothing(self, kinds: list[str]) -> Iterator[str]:
        for name, folder in self.truths.items():
            alone = "/" not in name and not (self.layout.free and nested(folder))
            if name not in kinds and (image_files(folder) or alone):
                yield f"{folder}: masks for a defect '{name}' that {self.test} does not have"


def folders(parent: Path) -> list[Path]:
    """The folders in a folder, sorted; no hidden ones, litter, or what this program wrote; none, if there is no such folder."""
    found = (parent / entry.name for entry in _entries(parent) if entry.name.lower() not in LITTER and entry.is_dir())
    return [folder for folder in found if not is_own(folder)]


def image_files(folder: Path) -> list[Path]:
    """The files in a folder that are images by their names, hidden ones apart, sorted; none, if there is no such folder."""
    return [folder / e.name for e in _entries(folder) if _suffix(e.name) in IMAGE_SUFFIXES]


def base_of(root: Path, names: tuple[str, ...]) -> Path:
    """The first of some folders below `root` that is there, or `root` itself: where an archive unpacks to."""
    return next((root / name for name in names if (root / name).is_dir()), root)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: (composed(e.name), e.name))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is_category(folder: Path, layout: Layout) -> bool:
    """Whether a folder holds one of the parts of a category, or hides what it holds."""
    return not os.access(folder, os.R_OK | os.X_OK) or any((folder / part).is_dir() for part in (*layout.train, "test"))


def _suffix(name: str) -> str:
    """As pathlib's, in lower case, without making a path."""
    return name[name.rindex(".") :].lower() if "." in name else ""


def nested(folder: Path) -> list[Path]:
    """All folders below a folder, links apart, sorted."""
    found, waiting = [], [folder]
    while waiting:
        inner = [each for each in folders(waiting.pop()) if not each.is_symlink()]
        found += inner
        waiting += inner
    return sorted(found)


def _given_name(folder: Path) -> str:
    """What a folder is called where the user gave it: of a link its own name, of '.' the folder's."""
    return Path(os.path.abspath(folder)).name  # noqa: PTH100 - absolute() keeps '..'


def _kind(folder: Path, parent: Path) -> str:
    """What the folder of a kind of defect says: 'scratch', or 'scratch/deep' for one within another."""
    return composed(folder.relative_to(parent).as_posix())


def _without_ending(stem: str) -> str:
    return next((stem[: -len(end)] for end in MASK_ENDINGS if stem[-len(end) :].lower() == end), stem)


def _repeated(images: list[Path]) -> Iterator[str]:
    seen: dict[str, Path] = {}
    for image in images:
        stem = composed(image.stem)
        if stem in seen:
            yield f"{image}: two images of one stem ({seen[stem].name} too), so a mask could belong to either; rename one"
        seen[stem] = image


def _listing(root: Path) -> str:
    names = sorted(path.name for path in root.iterdir())
    return ascii(", ".join(names[:5]) + (", ..." if len(names) > 5 else ""))[1:-1] if names else "an empty folder"
