"""The published datasets: how many images they have, and what is special about their layouts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mddbench.data.counts import FABRICATED
from mddbench.data.dataset import load_source, open_dataset
from mddbench.data.fabricate import fabricate, published_counts
from mddbench.errors import InputError
from mddbench.execution.options import RunOptions
from mddbench.execution.plan import image_counts
from mddbench.progress import LineReporter, SilentReporter
from support import read, write_tree

QUIET = SilentReporter()


@pytest.mark.parametrize(
    ("name", "categories", "totals"),
    [
        ("mvtec", 15, (3629, 467, 1258)),
        ("visa", 12, (8659, 962, 1200)),
        ("real_iad", 30, (36465, 63256, 51329)),
        ("uni_medical", 3, (13339, 2514, 4499)),
        ("btad", 3, (1799, 451, 290)),
        ("mpdd", 6, (888, 176, 282)),
        ("mvtec_loco", 5, (2076, 575, 993)),
        ("elpv", 2, (746, 762, 374)),
    ],
)
def test_published_counts(name: str, categories: int, totals: tuple[int, int, int]) -> None:
    source = load_source(name)
    assert source.published is not None
    assert len(source.published.categories) == categories
    assert source.published.all == totals
    shared_out = published_counts(source)
    assert tuple(sum(column) for column in zip(*shared_out.values(), strict=True)) == totals


@pytest.mark.parametrize(("name", "train", "test"), [("visa", 8659, 2162), ("real_iad", 36465, 114585)])
def test_a_dataset_that_is_not_there_is_counted_as_published(name: str, train: int, test: int, tmp_path: Path) -> None:
    """So that a plan for several datasets can be priced where only some of them lie."""
    cpu = torch.device("cpu")
    for root in (None, tmp_path):
        assert image_counts(name, RunOptions(tmp_path, tmp_path, cpu, data_root=root), 256) == (train, test)
    with pytest.raises(InputError, match="no category below"):
        image_counts("folder", RunOptions(tmp_path, tmp_path, cpu, data_root=tmp_path), 256)


@pytest.fixture
def drawn(tmp_path: Path) -> Callable[[str], Path]:
    """Fabricates a dataset, the test's own to break."""

    def draw(name: str) -> Path:
        fabricate(name, load_source(name), tmp_path / name, full=False)
        return tmp_path / name

    return draw


def published(root: Path) -> Path:
    """A fabricated tree as if its images were the dataset's."""
    (root / FABRICATED).unlink()
    return root


def test_counts_that_differ_are_faults_or_warnings(drawn: Callable[[str], Path]) -> None:
    faults = read("mvtec", published(drawn("mvtec"))).faults
    assert any("expected 209 normal training images of category 'bottle'" in fault for fault in faults)
    assert len(faults) == 15 * 3
    tree = read("btad", published(drawn("btad")))  # two of three categories are second hand
    assert len(tree.faults) == 3
    assert all("'02'" in fault for fault in tree.faults)
    assert sum("'01'" in warning for warning in tree.warnings) == 3
    loco = read("mvtec_loco", published(drawn("mvtec_loco")))
    assert not any("training" in fault for fault in loco.faults)


def test_totals_are_compared_where_no_more_is_known(drawn: Callable[[str], Path]) -> None:
    tree = read("real_iad", published(drawn("real_iad")))
    everywhere = f"in all of Real-IAD below {tree.root}, found"
    assert f"expected 36465 normal training images {everywhere} 300" in tree.faults
    assert f"expected 114585 test images {everywhere} 390" in tree.faults
    assert f"expected 63256 normal test images {everywhere} 150" in tree.warnings


def test_a_category_of_another_dataset_and_one_that_is_missing(drawn: Callable[[str], Path]) -> None:
    root = drawn("mpdd")
    (root / "tubes").rename(root / "pipes")
    faults = read("mpdd", root).faults
    assert any("pipes: not a category of fabricated mpdd" in fault for fault in faults)
    assert any("tubes of fabricated mpdd's 6 categories are not below" in fault for fault in faults)


def test_a_fabricated_tree_is_marked(drawn: Callable[[str], Path], tmp_path: Path) -> None:
    root = drawn("btad")
    assert open_dataset("btad", root, tmp_path / "cache", 32, QUIET).fabricated
    (root / "BTech_Dataset_transformed" / "01" / "train" / "ok" / "000.bmp").unlink()
    (fault,) = read("btad", root).faults
    assert "expected 10 normal training images of category '01'" in fault
    (root / FABRICATED).write_text("{}")
    with pytest.raises(InputError, match="not as `mddbench data fabricate` writes it"):
        read("btad", root)


def test_fabricating_needs_an_empty_folder(drawn: Callable[[str], Path]) -> None:
    root = drawn("folder")
    with pytest.raises(InputError, match="expected an empty folder"):
        fabricate("folder", load_source("folder"), root, full=False)
    with pytest.raises(InputError, match="there is nothing to fabricate"):
        fabricate("mini", load_source("mini"), root / "new", full=False)


def test_a_copied_test_image_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = write_tree(tmp_path / "tree")
    open_dataset("folder", tree, tmp_path / "cache", 16, LineReporter())
    assert "warning" not in capsys.readouterr().err
    shutil.copy(tree / "bolt/train/good/001.png", tree / "bolt/test/good/001.png")
    open_dataset("folder", tree, tmp_path / "cache", 16, LineReporter())
    assert "warning: folder: 1 test images are copies of training images" in capsys.readouterr().err


@pytest.mark.parametrize("inside", ["VisA_pytorch/1cls", "1cls", "."])
def test_visa_is_read_converted_too(inside: str, tmp_path: Path) -> None:
    write_tree(tmp_path / inside, categories=("candle",))
    tree = read("visa", tmp_path)
    assert tree.counts == {"candle": (6, 3, 3)}
    assert any("expected 900 normal training images of category 'candle'" in fault for fault in tree.faults)


@pytest.mark.parametrize(("size", "release"), [(224, "256"), (256, "256"), (320, "512"), (2000, "512")])
def test_real_iads_release_fits_the_size(size: int, release: str, drawn: Callable[[str], Path]) -> None:
    root = drawn("real_iad")
    shutil.copytree(root / "realiad_256", root / "realiad_512")
    tree = read("real_iad", root, size)
    assert tree.faults == ()
    assert {sample.image.relative_to(root).parts[0] for sample in tree.samples} == {f"realiad_{release}"}
    assert ["smaller than 2000 pixels" in warning for warning in tree.warnings] == [True] * (size == 2000)


def test_real_iads_views_share_an_item(drawn: Callable[[str], Path]) -> None:
    tree = read("real_iad", drawn("real_iad"))
    items: dict[str, set[str]] = {}
    for sample in tree.select("test"):
        if sample.category == "toy" and "/NG/" in sample.image.as_posix():
            items.setdefault(sample.item, set()).add(sample.defect)
    assert items == {"toy_0000_NG_HS": {"HS", "good"}, "toy_0001_NG_HS": {"HS", "good"}}


def test_views_whose_item_is_not_told_are_a_warning(drawn: Callable[[str], Path]) -> None:
    root = drawn("real_iad")
    file = root / "realiad_jsons" / "realiad_jsons" / "toy.json"
    raw = json.loads(file.read_text())
    image = raw["test"][0]["image_path"]
    (root / "realiad_256" / "toy" / image).rename(root / "realiad_256" / "toy" / "odd.jpg")
    raw["test"][0]["image_path"] = "odd.jpg"
    file.write_text(json.dumps(raw))
    (warning,) = read("real_iad", root).warnings
    assert "1 test images' names do not tell whose view they are" in warning


def test_loco_trains_on_validation_images_and_unites_masks(drawn: Callable[[str], Path], tmp_path: Path) -> None:
    tree = read("mvtec_loco", drawn("mvtec_loco"))
    parts = [sample.image.parts[-3] for sample in tree.select("train") if sample.category == "pushpins"]
    assert (parts.count("train"), parts.count("validation")) == (8, 2)
    assert all(len(sample.masks) == 2 for sample in tree.samples if sample.anomalous)


def test_bmads_own_layout_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "brain" / "train" / "good" / "img").mkdir(parents=True)
    (fault,) = read("uni_medical", tmp_path).faults
    assert "BMAD's own release" in fault


def test_uniads_lines_are_read(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "data" / "images")
    lines: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}
    for sample in read("folder", tree).samples:
        entry: dict[str, Any] = {"filename": sample.image.relative_to(tree).as_posix(), "clsname": sample.category}
        entry |= {"label": int(sample.anomalous), "label_name": "defective" if sample.anomalous else "good"}
        if sample.masks:
            entry["maskname"] = sample.masks[0].relative_to(tree).as_posix()
        lines[sample.split].append(entry)
    for name, entries in lines.items():
        (tmp_path / "data" / f"{name}.json").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    found = read("meta", tmp_path / "data")
    assert found.faults == ()
    assert found.counts == {"bolt": (6, 3, 3), "nut": (6, 3, 3)}
    assert all(sample.masks for sample in found.samples if sample.anomalous)
