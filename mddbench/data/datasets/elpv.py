"""ELPV: photographs of 2624 solar cells by electroluminescence, with real defects. Each image has a label and no mask.

Source: Buerhop-Lutz et al., EU PVSEC 2018; Deitsch et al., Solar Energy 185 (2019) and Machine Vision and Applications
32 (2021). The images have the licence CC BY-NC-SA 4.0 and come with the package elpv-dataset.

The two categories are cells of monocrystalline and of polycrystalline modules.

Labels: labels.csv gives each cell a probability of a defect, which says what an expert saw and how surely.
0 is normal. 1 and 2/3 are defective. 1/3 stands for 'normal, but not surely': these cells are not used.

Split: the package has none, and it does not say which module a cell comes from. Cells of one module are alike, so a
module must not be on both sides. The cells are numbered module by module. The type changes, and so do layout, brightness
and grain, every 60 cells with four exceptions (RUNS). This gives the 18 and 26 modules that the authors name.
Modules 1, 3, 5, ... of each type are for training, and modules 2, 4, 6, ... for testing.
Defective cells of modules for training are not used. Beside normal cells of other modules they would be judged by their
module, too. Cells 1735 to 1794 and 2277 to 2336 are photographs of one module. Both are for testing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mddbench.data.fabricate import Drawing, save
from mddbench.data.images import MaskRule
from mddbench.data.listing import base_of
from mddbench.data.samples import GOOD, Counts, DataPackage, DatasetSource, Published, Sample, Tree
from mddbench.data.splits import ImageFolder, SplitError, SplitFile, read_columns

RUNS = (
    ("mono", 1, 60),
    ("poly", 5, 60),
    ("mono", 3, 60),
    ("poly", 6, 60),
    ("mono", 5, 60),
    ("mono", 1, 54),
    ("mono", 6, 60),
    ("poly", 3, 60),
    ("poly", 1, 50),
    ("poly", 5, 60),
    ("mono", 1, 72),
    ("poly", 3, 60),
    ("mono", 1, 48),
    ("poly", 3, 60),
)
"""The modules in the order of the cells' numbers, in runs: type, number of modules, and cells of each module."""
DEFECTS = {"0.00": GOOD, "0.33": None, "0.67": "probably_defective", "1.00": "defective"}
"""The kind of defect for each probability, rounded. None for cells that are not used."""
COLUMNS = ("path", "probability", "type")
CELL = re.compile(r"images/cell([0-9]{4})\.png")
CLONE = ("src/elpv_dataset/data", "elpv_dataset/data")
"""The folders in which the images lie in a clone of the package's repository."""
LAYOUT = """\
ROOT/                                  in the installed package, elpv_dataset/data/
  labels.csv                           a cell a line: image, probability of a defect, mono or poly
  images/cell0001.png                  to cell2624.png
"""


@dataclass(frozen=True)
class Module:
    """A photovoltaic module.

    Attributes:
        kind: Its type, 'mono' or 'poly'.
        number: Its number among the modules of its type, from 1.
        cells: The numbers of its cells.
    """

    kind: str
    number: int
    cells: range

    @property
    def trains(self) -> bool:
        """True if its normal cells are for training."""
        return self.number % 2 == 1


def _modules() -> Iterator[Module]:
    """Yield all modules in the order of their cells' numbers."""
    first, numbers = 1, Counter[str]()
    for kind, modules, cells in RUNS:
        for _ in range(modules):
            numbers[kind] += 1
            yield Module(kind, numbers[kind], range(first, first + cells))
            first += cells


MODULES = tuple(_modules())
MODULE_OF = {cell: module for module in MODULES for cell in module.cells}


def read(root: Path, _: int) -> Tree:
    """Read the samples that labels.csv names.

    Args:
        root: The dataset's folder, or a clone of the package's repository.
        _: The image size, which does not matter here.

    Returns:
        The tree.
    """
    base = base_of(root, CLONE)
    labels = base / "labels.csv"
    if not labels.exists():
        fault = f"expected labels.csv of elpv-dataset in {root}, found none; leave out --data-root to read the package"
        return Tree(root, (), (fault,))
    split_file, folder = SplitFile(labels, "; install elpv-dataset anew"), ImageFolder(base)
    split_file.add(read_columns(labels, root, COLUMNS), lambda row: _sample(folder, row))
    samples = sorted(split_file.samples, key=lambda sample: (sample.category, sample.split != "train"))
    return Tree(base, tuple(samples), tuple(split_file.faults), sources=(labels,))


def _sample(folder: ImageFolder, row: dict[str, str]) -> Sample | None:
    """The sample of a row; None for a cell that is not used."""
    path, found = row["path"], CELL.fullmatch(row["path"])
    module = MODULE_OF.get(int(found[1])) if found else None
    if module is None:
        raise SplitError(f"image {path!r}: expected images/cell0001.png to images/cell{max(MODULE_OF):04d}.png")
    if row["type"] != module.kind:
        raise SplitError(f"image {path!r}: expected type '{module.kind}', found {row['type']!r}")
    try:
        defect = DEFECTS[f"{float(row['probability']):.2f}"]
    except (ValueError, KeyError):
        raise SplitError(
            f"image {path!r}: expected probability 0, 1/3, 2/3 or 1, found {row['probability']!r}"
        ) from None
    if defect is None or (module.trains and defect != GOOD):
        return None
    return folder.sample(path, module.kind, "train" if module.trains else "test", defect)


def fabricate(root: Path, counts: Counts) -> None:
    """Write drawn grey images and labels.csv, with some cells that must not be used.

    Args:
        root: The empty folder of the tree.
        counts: The numbers of images of each category.
    """
    lines = []
    for index, (category, (train, good, defective)) in enumerate(counts.items()):
        drawing = Drawing(index, (60, 60))
        for trains, probabilities in (
            (True, [0.0] * train + [1.0, 2 / 3, 1 / 3]),
            (False, [0.0] * good + [(1.0, 2 / 3)[number % 2] for number in range(defective)] + [1 / 3]),
        ):
            cells = [
                cell
                for module in MODULES
                if (module.kind, module.trains) == (category, trains)
                for cell in module.cells
            ]
            for number, probability in enumerate(probabilities):
                cell = cells[number * len(cells) // len(probabilities)]
                save(drawing.image(cell, probability > 0.5)[0], root / "images" / f"cell{cell:04d}.png", "L")
                lines.append(f"images/cell{cell:04d}.png  {probability!s:<18}  {category}\n")
    (root / "labels.csv").write_text("".join(sorted(lines)))


DATASET = DatasetSource(
    description="ELPV, solar cells of 2 types, real defects, image labels only, from a package",
    read=read,
    layout=LAYOUT,
    package=DataPackage("elpv_dataset", "data", "mddbench[elpv]"),
    terms="images under CC BY-NC-SA 4.0, not for commercial use; cite Buerhop-Lutz et al. 2018 and Deitsch et al. 2019, "
    "2021 (docs/datasets.md)",
    published=Published("ELPV", {"mono": (285, 303, 157), "poly": (461, 459, 217)}),
    mask_rule=MaskRule(labels="images of probability 2/3 and 1 are defective, 0 normal, 1/3 left out"),
    fabricate=fabricate,
)
