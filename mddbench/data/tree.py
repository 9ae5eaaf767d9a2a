"""Reads MVTec-AD's folder layout, from which most datasets of the field are copied:

    ROOT/<category>/train/good/*.png
    ROOT/<category>/test/{good,<defect>}/*.png
    ROOT/<category>/ground_truth/<defect>/<stem>_mask.png

Masks are paired by file stem (with or without `_mask`), never by position; labels come from the folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mddbench.data.samples import GOOD, Sample, Tree

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})


def read_tree(root: Path, *, masks_required: bool) -> Tree:
    """Samples and faults of all categories below `root`, in alphabetical order.

    Every folder below `root` is a category, hidden ones apart.
    masks_required: whether each category must have ground_truth; one without it has image-level metrics only. A category that
    has ground_truth must have a mask for each defective image.
    """
    if not root.is_dir():
        return Tree(
            root, (), (f"expected the dataset's folder at {root}, found {_kind(root)}; give it by --data-root",)
        )
    if (root / "train").is_dir() and (root / "test").is_dir():
        return Tree(root, (), (f"{root} looks like one category (it holds train/ and test/); give its parent folder",))
    samples: list[Sample] = []
    faults: list[str] = []
    categories = _folders(root)
    if not categories:
        faults.append(
            f"no category below {root}: expected folders <category>/train/good and <category>/test/<defect>, "
            f"found {_listing(root)}"
        )
    for folder in categories:
        if folder.name == "mean":
            faults.append(f"{folder}: 'mean' is what the mean over categories is called; rename the category")
        for found in (*_train(folder), *_test(folder, masks_required)):
            if isinstance(found, Sample):
                samples.append(found)
            else:
                faults.append(found)
    return Tree(root, tuple(samples), tuple(faults))


def with_counts(tree: Tree, counts: dict[str, tuple[int, int, int]], title: str) -> Tree:
    """The tree with a fault for every category whose numbers of images differ from the published ones, unless it has others.

    counts: category -> (train, test good, test defective); title: the dataset's name.
    """
    if tree.faults:
        return tree
    faults = [fault for category, expected in counts.items() for fault in _differences(tree, category, expected)]
    faults += [
        f"{tree.root / category}: not a category of {title}; read other folders with the dataset 'folder'"
        for category in tree.categories
        if category not in counts
    ]
    return Tree(tree.root, tree.samples, tuple(faults))


def _differences(tree: Tree, category: str, expected: tuple[int, int, int]) -> list[str]:
    mine = [sample for sample in tree.samples if sample.category == category]
    train = sum(sample.split == "train" for sample in mine)
    defective = sum(sample.anomalous for sample in mine)
    found = (train, len(mine) - train - defective, defective)
    kinds = ("normal training", "normal test", "defective test")
    return [
        f"expected {wanted} {kind} images of category '{category}' below {tree.root}, found {count}"
        for kind, wanted, count in zip(kinds, expected, found, strict=True)
        if wanted != count
    ]


def _train(category: Path) -> Iterator[Sample | str]:
    good = category / "train" / GOOD
    images = _images(good)
    if not images:
        found = "no image there" if good.is_dir() else "no such folder"
        yield f"category '{category.name}' needs normal training images in {good}: found {found}"
    yield from (Sample(image, category.name, "train") for image in images)


def _test(category: Path, masks_required: bool) -> Iterator[Sample | str]:
    test, truth = category / "test", category / "ground_truth"
    kinds = _folders(test) if test.is_dir() else []
    if not any(_images(kind) for kind in kinds):
        found = "no such folder" if not test.is_dir() else "no image in any folder there"
        yield f"category '{category.name}' needs test images in {test}/<{GOOD} or defect>: found {found}"
    with_masks = truth.is_dir() or masks_required
    for kind in kinds:
        images = _images(kind)
        if not images:
            yield f"{kind}: the folder holds no image ({', '.join(sorted(IMAGE_SUFFIXES))}); fill or remove it"
        yield from _repeated(images)
        if kind.name == GOOD or not with_masks:
            yield from (Sample(image, category.name, "test", kind.name) for image in images)
        else:
            yield from _paired(images, truth / kind.name, category.name)
    if truth.is_dir():
        names = {kind.name for kind in kinds}
        for folder in _folders(truth):
            if folder.name not in names:
                yield f"{folder}: masks for a defect '{folder.name}' that {test} does not have"


def _paired(images: list[Path], masks_folder: Path, category: str) -> Iterator[Sample | str]:
    masks: dict[str, Path] = {}
    for mask in _images(masks_folder):
        stem = mask.stem.removesuffix("_mask")
        if stem in masks:
            yield f"{mask}: a second mask for image '{stem}' beside {masks[stem].name}; remove one"
        masks[stem] = mask
    for image in images:
        mask_found = masks.pop(image.stem, None)
        if mask_found is None:
            yield f"{image}: no mask for it; expected {masks_folder / (image.stem + '_mask.png')}"
        yield Sample(image, category, "test", image.parent.name, mask_found)
    for mask in masks.values():
        expected = masks_folder.parents[1] / "test" / masks_folder.name / f"{mask.stem.removesuffix('_mask')}.*"
        yield f"{mask}: a mask without an image; expected {expected}"


def _repeated(images: list[Path]) -> Iterator[str]:
    seen: dict[str, Path] = {}
    for image in images:
        if image.stem in seen:
            yield f"{image}: two images of one stem ({seen[image.stem].name} too), so a mask could belong to either; rename one"
        seen[image.stem] = image


def _folders(parent: Path) -> list[Path]:
    return sorted(path for path in parent.iterdir() if path.is_dir() and not path.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(
        path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    )


def _kind(path: Path) -> str:
    return "a file" if path.exists() else "nothing"


def _listing(root: Path) -> str:
    names = sorted(path.name for path in root.iterdir())
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") if names else "an empty folder"
