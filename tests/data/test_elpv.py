"""Solar cells from a package: what is read, what is left out, and that no module is on both sides of the split."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mddbench.data.dataset import load_source, open_dataset, read_dataset, root_of
from mddbench.data.datasets.elpv import DATASET, MODULE_OF, MODULES
from mddbench.data.fabricate import fabricate
from mddbench.data.samples import Sample
from mddbench.errors import InputError
from mddbench.execution.options import RunOptions
from mddbench.execution.plan import image_counts
from mddbench.progress import LineReporter
from mddbench.runs.records import read_record, record_files
from support import mddbench, read

TWINS = range(1735, 1795), range(2277, 2337)


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    fabricate("elpv", DATASET, tmp_path / "drawn", full=False)
    return tmp_path / "drawn"


@pytest.fixture(scope="session")
def installed() -> Path:
    root = root_of("elpv", None)
    if root is None:
        pytest.skip("elpv-dataset is not installed (it is part of the extra 'test')")
    return root


def cell(sample: Sample) -> int:
    return int(sample.image.stem.removeprefix("cell"))


def test_modules_are_as_many_as_the_authors_say() -> None:
    assert Counter(module.kind for module in MODULES) == {"mono": 18, "poly": 26}
    assert list(MODULE_OF) == list(range(1, 2625))
    assert [(module.cells[0], len(module.cells)) for module in MODULES if len(module.cells) != 60] == [
        (1201, 54),
        (1795, 50),
        (2145, 72),
        (2397, 48),
    ]


def test_the_package_holds_what_is_expected(installed: Path) -> None:
    tree = read("elpv", installed)
    assert tree.faults == tree.warnings == ()
    rows = [line.split() for line in (installed / "labels.csv").read_text().splitlines()]
    assert len(rows) == 2624
    unsure = sum(0.3 < float(probability) < 0.4 for _, probability, _ in rows)
    of_training = sum(
        float(probability) > 0.5 and MODULE_OF[int(image[-8:-4])].trains for image, probability, _ in rows
    )
    assert (unsure, of_training, len(tree.samples)) == (295, 447, 2624 - 295 - 447)
    kinds = Counter(sample.defect for sample in tree.select("test"))
    assert kinds == {"good": 762, "defective": 338, "probably_defective": 36}


def test_no_module_is_on_both_sides(installed: Path) -> None:
    sides: dict[int, set[str]] = {}
    for sample in read("elpv", installed).samples:
        sides.setdefault(MODULES.index(MODULE_OF[cell(sample)]), set()).add(sample.split)
    assert len(sides) == len(MODULES)
    assert all(len(side) == 1 for side in sides.values())


def test_the_module_that_was_photographed_twice_is_on_one_side(installed: Path) -> None:
    """Its cells have the same grains in both photographs, cell by cell."""
    assert not any(MODULE_OF[number].trains for numbers in TWINS for number in numbers)
    details = []
    for numbers in TWINS:
        cells = []
        for number in numbers:
            with Image.open(installed / "images" / f"cell{number:04d}.png") as image:
                small = np.asarray(image.resize((50, 50), Image.Resampling.BOX), dtype=np.float64)
                smooth = np.asarray(image.resize((6, 6), Image.Resampling.BOX).resize((50, 50)), dtype=np.float64)
            cells.append((small - smooth)[4:-4, 4:-4].ravel())
        each = np.array(cells) - np.median(cells, axis=0)
        details.append(each / np.linalg.norm(each, axis=1, keepdims=True))
    alike = details[0] @ details[1].T
    assert (alike.argmax(axis=1) == np.arange(60)).mean() > 0.7


def test_a_package_that_is_not_installed_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("mddbench.data.samples.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'pip install "mddbench\[elpv\]"') as caught:
        read_dataset("elpv", root_of("elpv", None), tmp_path, 64)
    assert "\n" not in str(caught.value)
    options = RunOptions(tmp_path, tmp_path, torch.device("cpu"))
    assert image_counts("elpv", options, 128) == (746, 762 + 374), "so that a plan can be priced before"


def test_images_come_from_the_package_unless_a_folder_is_given(
    drawn: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package = tmp_path / "site" / "elpv_dataset"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('nobody needs to import it')")
    shutil.copytree(drawn, package / "data")
    monkeypatch.syspath_prepend(package.parent)
    assert root_of("elpv", None) == package / "data"
    assert root_of("elpv", tmp_path) == tmp_path
    assert root_of("elpv", drawn) == drawn
    dataset = open_dataset("elpv", root_of("elpv", None), tmp_path / "cache", 32, LineReporter())
    assert dataset.fabricated
    assert "images under CC BY-NC-SA 4.0, not for commercial use; cite Buerhop-Lutz" in capsys.readouterr().err
    assert dataset.mask_rule == "none (images of probability 2/3 and 1 are defective, 0 normal, 1/3 left out)"


def test_a_clone_of_the_packages_repository_is_read(drawn: Path, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    shutil.copytree(drawn, clone / "src" / "elpv_dataset" / "data")
    samples = read("elpv", clone).samples
    assert [cell(sample) for sample in samples] == [cell(sample) for sample in read("elpv", drawn).samples]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("images/cell0001.png 0.0", "line 1: expected 3 columns, found 2"),
        ("images/cell0061.png 0.0 mono", "'images/cell0061.png': expected type 'poly', found 'mono'"),
        ("images/cell2625.png 0.0 mono", "expected images/cell0001.png to images/cell2624.png"),
        ("../cell0001.png 0.0 mono", "expected images/cell0001.png to images/cell2624.png"),
        ("images/cell0001.png 0.5 mono", "expected probability 0, 1/3, 2/3 or 1, found '0.5'"),
        ("images/cell0001.png nan mono", "expected probability 0, 1/3, 2/3 or 1, found 'nan'"),
        ("images/cell0001.png often mono", "expected probability 0, 1/3, 2/3 or 1, found 'often'"),
    ],
)
def test_labels_of_another_kind_are_faults(line: str, fault: str, drawn: Path) -> None:
    file = drawn / "labels.csv"
    file.write_text(f"{line}\n{file.read_text()}")
    faults = read("elpv", drawn).faults
    assert any(fault in each and str(file) in each for each in faults)


def test_a_run_has_image_level_metrics_and_no_others(drawn: Path, tmp_path: Path) -> None:
    small = ("epochs=1", "image_size=64", "batch_size=4", "settings.bottleneck_width=16")
    changes = [part for setting in small for part in ("--set", setting)]
    arguments = ("run", "elpv/rd4ad", "--data-root", drawn, "--tracking", "none", "--out", tmp_path / "out")
    ran = mddbench(*arguments, *changes)
    assert ran.returncode == 0, ran.stderr
    record = read_record(record_files(tmp_path / "out")[0])
    assert {key for key, value in record.metrics["mean"].items() if value is not None} == {"i_auroc", "i_ap", "i_f1max"}
    assert "mask rule none (images of probability 2/3 and 1 are defective" in ran.stdout
    assert "elpv: one model for 2 categories, fabricated images" in ran.stdout


def test_it_says_its_terms(drawn: Path, tmp_path: Path) -> None:
    checked = mddbench("data", "check", "elpv", "--data-root", drawn, "--out", tmp_path / "out", "--quiet")
    assert checked.returncode == 0, checked.stderr
    assert load_source("elpv").terms in checked.stdout
