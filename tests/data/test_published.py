"""The published datasets: their layouts, and that their counts are looked at."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mddbench.data.dataset import load_source, open_dataset
from mddbench.data.datasets import mvtec, uni_medical, visa
from mddbench.errors import InputError
from mddbench.plan import RunOptions, image_counts
from mddbench.progress import LineReporter, SilentReporter
from support import save, write_tree


@pytest.mark.parametrize(
    ("counts", "train", "good", "defective"),
    [(mvtec.COUNTS, 3629, 467, 1258), (visa.COUNTS, 8659, 962, 1200), (uni_medical.COUNTS, 13339, 2514, 4499)],
)
def test_counts_add_up_to_the_published_totals(counts: Any, train: int, good: int, defective: int) -> None:
    assert [sum(column) for column in zip(*counts.values(), strict=True)] == [train, good, defective]


@pytest.mark.parametrize(("name", "train", "test"), [("visa", 8659, 2162), ("real_iad", 36465, 114585)])
def test_a_dataset_that_is_not_there_is_counted_as_published(name: str, train: int, test: int, tmp_path: Path) -> None:
    """So that a plan for several datasets can be priced where only some of them lie."""
    cpu = torch.device("cpu")
    for root in (None, tmp_path):
        assert image_counts(name, RunOptions(tmp_path, tmp_path, cpu, data_root=root)) == (train, test)
    with pytest.raises(InputError, match="no category below"):
        image_counts("folder", RunOptions(tmp_path, tmp_path, cpu, data_root=tmp_path))


def test_a_copied_test_image_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = write_tree(tmp_path / "tree")
    open_dataset("folder", tree, tmp_path / "cache", 16, LineReporter())
    assert "warning" not in capsys.readouterr().err
    shutil.copy(tree / "bolt/train/good/001.png", tree / "bolt/test/good/001.png")
    open_dataset("folder", tree, tmp_path / "cache", 16, LineReporter())
    assert "warning: 1 test images are copies of training images" in capsys.readouterr().err


def test_real_iads_totals() -> None:
    totals = load_source("real_iad").totals
    assert totals is not None
    assert sum(totals) == 151_050


@pytest.mark.parametrize(("name", "inside"), [("visa", "VisA_pytorch/1cls"), ("visa", "1cls"), ("uni_medical", ".")])
def test_counts_that_differ_are_faults(name: str, inside: str, tmp_path: Path) -> None:
    write_tree(tmp_path / inside, categories=("candle", "brain"))
    tree = load_source(name).read(tmp_path)
    assert len(tree.select("train")) == 12
    assert any("normal training images of category" in fault and "found 6" in fault for fault in tree.faults)
    assert any("not a category of" in fault for fault in tree.faults)


def test_visa_as_it_is_downloaded_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "split_csv").mkdir()
    (fault,) = load_source("visa").read(tmp_path).faults
    assert "converted layout" in fault


@pytest.fixture
def real_iad(tmp_path: Path) -> Path:
    root = tmp_path / "iad"
    entries: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}
    for number, (split, kind, masked) in enumerate(
        [("train", "OK", False)] * 3 + [("test", "OK", False), ("test", "AK", True), ("test", "AK", False)]
    ):
        image = f"{kind}/S{number:04d}/toy_{number:04d}_{kind}_C1_2023.jpg"
        save(np.full((20, 20, 3), 40 * number, dtype=np.uint8), root / "realiad_256/toy" / image)
        mask = image.replace(".jpg", ".png") if masked else None
        if mask:
            save(np.eye(20, dtype=np.uint8) * 255, root / "realiad_256/toy" / mask)
        entries[split].append({"category": "toy", "anomaly_class": kind, "image_path": image, "mask_path": mask})
    (root / "realiad_jsons").mkdir()
    content = {"meta": {"prefix": "toy/", "normal_class": "OK"}, **entries}
    (root / "realiad_jsons/toy.json").write_text(json.dumps(content))
    return root


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the whole dataset were what the fixture writes."""
    monkeypatch.setattr("mddbench.data.datasets.real_iad.CATEGORIES", 1)
    monkeypatch.setattr("mddbench.data.datasets.real_iad.TOTALS", (3, 2, 1))


def test_a_part_of_real_iad_is_a_fault(real_iad: Path) -> None:
    (fault,) = load_source("real_iad").read(real_iad).faults
    assert "expected 30 categories with 36465 training" in fault
    assert "found 1 with 3, 2 and 1" in fault


@pytest.mark.usefixtures("small")
def test_real_iad_is_read_by_its_splits(real_iad: Path, tmp_path: Path) -> None:
    dataset = open_dataset("real_iad", real_iad, tmp_path / "cache", 16, SilentReporter())
    assert len(dataset.train) == 3
    assert [sample.defect for sample in dataset.test.samples] == [
        "good",
        "AK",
        "good",
    ]  # a view of a sample may be normal
    assert dataset.test.masks.any(axis=(1, 2)).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw["test"][0].update(image_path="../../etc/passwd"), "leads out of the dataset's folder"),
        (lambda raw: raw["test"][1].update(mask_path="/etc/passwd"), "leads out of the dataset's folder"),
        (lambda raw: raw["meta"].update(prefix="../"), "leads out of the dataset's folder"),
        (lambda raw: raw["meta"].update(prefix="nut/"), "found no such folder"),
        (lambda raw: raw.pop("train"), "not a split of Real-IAD"),
        (lambda raw: raw["train"].append(3), "not a split of Real-IAD"),
    ],
)
def test_a_split_that_is_wrong_is_a_fault(real_iad: Path, change: Any, message: str) -> None:
    file = real_iad / "realiad_jsons/toy.json"
    raw = json.loads(file.read_text())
    change(raw)
    file.write_text(json.dumps(raw))
    faults = load_source("real_iad").read(real_iad).faults
    assert any(message in fault for fault in faults)
    assert all("\n" not in fault for fault in faults)
