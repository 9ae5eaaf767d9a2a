"""`mddbench server-archive`: the hidden test images of MVTec AD 2, as its server takes them."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from mddbench.data.dataset import load_source
from mddbench.data.datasets import mvtec_ad2
from mddbench.data.fabricate import fabricate
from mddbench.data.hidden import HiddenSplit
from mddbench.errors import InputError
from mddbench.inference.finished import FinishedModel, find_cell
from mddbench.inference.heat import enlarged
from mddbench.inference.predict import predict
from mddbench.inference.server_archive import BINARY, MAPS, archive_faults, missing_images, pack, write_archive
from mddbench.inference.sources import find_images
from mddbench.progress import SilentReporter
from support import Done, mddbench

QUIET = SilentReporter()
SMALL = (
    *("--set", "encoder.name=tf_efficientnet_lite0"),
    *("--set", "image_size=32"),
    *("--set", "settings.channels=10"),
    *("--set", "settings.sigma=0.5"),
    *("--tracking", "none", "--seeds", "0", "--no-report", "-q"),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with drawn images in `root`, and a cell trained on them in `out`."""
    folder = tmp_path_factory.mktemp("ad2")
    fabricate("mvtec_ad2", load_source("mvtec_ad2"), folder / "root", full=False)
    ran = mddbench("run", "mvtec_ad2/padim", "--data-root", folder / "root", "--out", folder / "out", *SMALL)
    assert ran.returncode == 0, ran.stderr
    return folder


@pytest.fixture
def splits(place: Path, monkeypatch: pytest.MonkeyPatch) -> list[HiddenSplit]:
    """The hidden splits, as if each had the two images that are drawn."""
    monkeypatch.setattr(mvtec_ad2, "PRIVATE", dict.fromkeys(mvtec_ad2.PRIVATE, 2))
    return mvtec_ad2.hidden(place / "root")


@pytest.fixture
def model(place: Path) -> FinishedModel:
    return FinishedModel.load(find_cell("mvtec_ad2/padim", place / "out"), torch.device("cpu"))


@pytest.fixture
def archive(place: Path, splits: list[HiddenSplit], model: FinishedModel, tmp_path: Path) -> Path:
    write_archive(model, splits, "sigma", tmp_path / "upload", QUIET)
    return tmp_path / "upload"


def test_files_hold_the_maps_and_what_is_above_the_threshold(
    place: Path, archive: Path, model: FinishedModel, splits: list[HiddenSplit]
) -> None:
    assert list(archive_faults(archive, splits, QUIET)) == []
    image = place / "root" / "rice" / "test_private_mixed" / "001_mixed.png"
    (prediction,) = predict(model, find_images([str(image)]))
    assert prediction.map is not None
    assert model.record.thresholds is not None
    threshold = model.record.thresholds.pixel["sigma"].each["rice"]
    assert threshold is not None
    full = enlarged(prediction.map, (40, 64))
    written = tifffile.imread(archive / MAPS / "rice" / "test_private_mixed" / "001_mixed.tiff")
    binary = np.asarray(Image.open(archive / BINARY / "rice" / "test_private_mixed" / "001_mixed.png"))
    np.testing.assert_allclose(written.astype(np.float64), full / threshold, rtol=1e-3)
    np.testing.assert_array_equal(binary, np.where(full.astype(np.float64) > threshold, 255, 0))
    shares = [(np.asarray(Image.open(file)) > 0).mean() for file in (archive / BINARY).rglob("*.png")]
    assert any(0 < share < 1 for share in shares)


def test_the_packed_file_has_all_of_it(archive: Path) -> None:
    assert pack(archive, QUIET) == archive.with_name("upload.tar.gz")
    with tarfile.open(archive.with_name("upload.tar.gz")) as packed:
        names = packed.getnames()
    assert len(names) == 2 * 8 * 2 * 2
    assert "upload/anomaly_images_thresholded/can/test_private/000_regular.png" in names


def _float32(file: Path) -> None:
    tifffile.imwrite(file, tifffile.imread(file).astype(np.float32))


def _colour(file: Path) -> None:
    Image.open(file).convert("RGB").save(file)


def _grey(file: Path) -> None:
    Image.fromarray(np.full((40, 64), 7, np.uint8)).save(file)


def _smaller(file: Path) -> None:
    tifffile.imwrite(file, np.zeros((8, 8), np.float16))


def _broken(file: Path) -> None:
    file.write_bytes(b"II*\0")


def _cut(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 3 :: 2] = bytes(len(content[len(content) // 3 :: 2]))
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("part", "spoil", "words"),
    [
        (MAPS, _float32, "expected float16, found float32"),
        (MAPS, _smaller, "is 8 x 8 pixels, its image 40 x 64"),
        (MAPS, _broken, "cannot be read"),
        (MAPS, _cut, "cannot be read"),
        (MAPS, Path.unlink, "missing"),
        (BINARY, _colour, "expected one channel, found (40, 64, 3)"),
        (BINARY, _grey, "expected values 0 and 255, found 7"),
        (BINARY, _broken, "cannot be read"),
        (BINARY, lambda file: file.rename(file.with_name("x.png")), "missing"),
    ],
)
def test_a_fault_is_one_line(archive: Path, splits: list[HiddenSplit], part: str, spoil: Any, words: str) -> None:
    file = next((archive / part / "vial" / "test_private").iterdir())
    spoil(file)
    faults = list(archive_faults(archive, splits, QUIET))
    assert any(words in fault and str(file) in fault for fault in faults), faults


def test_folders_too_few_and_too_many_are_named(archive: Path, splits: list[HiddenSplit]) -> None:
    shutil.rmtree(archive / BINARY)
    (archive / MAPS / "nut").mkdir()
    (archive / ".notes").mkdir()
    faults = "\n".join(archive_faults(archive, splits, QUIET))
    assert f"{archive / BINARY}: missing" in faults
    assert f"{archive / MAPS / 'nut'}: not expected" in faults
    assert f"{archive / '.notes'}: not expected" in faults


def test_it_is_written_again_and_nothing_foreign_is_removed(
    archive: Path, splits: list[HiddenSplit], model: FinishedModel
) -> None:
    (archive / MAPS / "can" / "old.tiff").touch()
    write_archive(model, splits, "quantile", archive, QUIET)
    assert list(archive_faults(archive, splits, QUIET)) == []
    (archive / "mine.txt").touch()
    with pytest.raises(InputError, match=r"holds mine.txt, which is no part of an archive"):
        write_archive(model, splits, "sigma", archive, QUIET)


def test_what_is_missing_is_one_line(place: Path, model: FinishedModel, tmp_path: Path, command: Any) -> None:
    whole = mvtec_ad2.hidden(place / "root")
    assert len(missing_images(whole)) == 2 * (sum(mvtec_ad2.PRIVATE.values()) - 8 * 2)
    asked = ("server-archive", model.folder, "--to", tmp_path / "upload")
    done: Done = command(*asked, "--data-root", place / "root")
    assert done.status == 2
    assert "can/test_private/002_regular.png: not there; 4058 of 4090 hidden images are missing" in done.err
    assert command(*asked, "--data-root", place / "root", "--check").status == 2, "sizes cannot be compared"
    assert "give the dataset's folder by --data-root" in command(*asked).err
    assert "--rule none: expected one of quantile, sigma" in command(*asked, "--rule", "none").err
    plain = model.record.model_copy(update={"thresholds": None})
    without = FinishedModel(model.folder, plain, model.detector, {})
    with pytest.raises(InputError, match="train with --set calibration=validation"):
        write_archive(without, whole, "sigma", tmp_path / "upload", QUIET)


def test_a_relative_folder_and_no_folder(
    splits: list[HiddenSplit], model: FinishedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    write_archive(model, splits, "sigma", Path(), QUIET)
    assert pack(Path(), QUIET) == tmp_path / "here.tar.gz"
    with pytest.raises(InputError, match="expected a folder with a name of its own"):
        write_archive(model, splits, "sigma", Path("/"), QUIET)


def test_the_command_writes_checks_and_packs(
    place: Path, splits: list[HiddenSplit], tmp_path: Path, command: Any
) -> None:
    asked = ("server-archive", "mvtec_ad2/padim", "--out", place / "out", "--data-root", place / "root")
    done: Done = command(*asked, "--to", tmp_path / "upload")
    assert (done.status, done.out.strip()) == (0, str(tmp_path / "upload.tar.gz"))
    (tmp_path / "upload" / MAPS / "rice" / "test_private" / "000_regular.tiff").unlink()
    checked: Done = command(*asked, "--to", tmp_path / "upload", "--check")
    assert checked.status == 1
    assert "000_regular.tiff: missing" in checked.err
    assert len(splits) == 16


def test_other_datasets_have_no_hidden_images(finished_cells: Path, command: Any) -> None:
    done: Done = command("server-archive", "folder/padim", "--out", finished_cells / "out", "--to", "x")
    assert done.status == 2
    assert "folder: its authors keep no labels of test images" in done.err


def test_the_light_of_an_image() -> None:
    names = {"004_regular": "regular", "17_shift_2": "shift_2", "000_mixed": "", "photo": ""}
    assert {name: mvtec_ad2.light(Path(f"{name}.png")) for name in names} == names


def test_a_check_counts_test_images_by_their_light(place: Path, command: Any) -> None:
    done: Done = command("data", "check", "mvtec_ad2", "--data-root", place / "root", "--image-size", "32")
    assert done.status == 0, done.err
    # 13 test images of each of 8 categories, in six lights by turns
    words = "overexposed 16, regular 24, shift_1 16, shift_2 16, shift_3 16, underexposed 16"
    assert f"test images by condition: {words}" in done.out
