"""Regions of defects that stay apart, and from which area on each counts as found."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mddbench.data.dataset import Dataset, load_source, open_dataset
from mddbench.data.fabricate import fabricate
from mddbench.data.saturation import Saturation, read_saturations
from mddbench.errors import InputError
from mddbench.execution.holdout import hold_out
from mddbench.progress import SilentReporter

QUIET = SilentReporter()
SIZE = 48
CONFIG = "defects_config.json"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = tmp_path_factory.mktemp("loco") / "root"
    fabricate("mvtec_loco", load_source("mvtec_loco"), root, full=False)
    return open_dataset("mvtec_loco", root, root.parent / "cache", SIZE, QUIET)


def test_each_mask_file_is_a_region_with_its_own_saturation(dataset: Dataset) -> None:
    assert dataset.regions is not None
    found = dataset.regions.of(dataset.test.samples)
    seen = set()
    for image, sample, mask in zip(found, dataset.test.samples, dataset.test.masks, strict=True):
        assert image.kind == (sample.defect if sample.anomalous else "")
        assert len(image.regions) == len(sample.masks) == (2 if sample.anomalous else 0)
        union = np.zeros(SIZE * SIZE, dtype=bool)
        for region, file in zip(image.regions, sample.masks, strict=True):
            union[region.pixels] = True
            native = np.asarray(Image.open(file))
            area, value = int((native > 0).sum()), int(native.max())
            seen.add(value)
            if not area:  # the defect lies in the other half of the image
                assert not len(region.pixels)
                continue
            # As in `fabricate`: value 255 saturates at 20 pixels, 254 at half of the region.
            assert region.share == (min(20, area) / area if value == 255 else int(0.5 * area) / area)
        assert not union[~mask.reshape(-1)].any()
        assert np.count_nonzero(mask) - np.count_nonzero(union) <= SIZE  # at most a row at the seam of two masks
    assert seen == {0, 254, 255}


def test_a_share_is_at_least_a_pixel_and_at_most_the_region() -> None:
    assert Saturation(1000.0, relative=False).share(10) == 1.0
    assert Saturation(0.01, relative=True).share(10) == 0.1
    assert Saturation(0.59, relative=True).share(10) == 0.5  # whole pixels
    assert Saturation(3.0, relative=False).share(12) == 0.25


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{}", "expected a list of entries, found dict"),
        ("[", "not valid JSON"),
        ("[1]", "expected entries with a whole pixel_value"),
        ('[{"pixel_value": true, "saturation_threshold": 1, "relative_saturation": true}]', "whole pixel_value"),
        ('[{"pixel_value": 1, "saturation_threshold": 2, "relative_saturation": true}]', "expected a positive area"),
        ('[{"pixel_value": 1, "saturation_threshold": 0, "relative_saturation": false}]', "expected a positive area"),
        ('[{"pixel_value": 1, "saturation_threshold": NaN, "relative_saturation": false}]', "expected a positive area"),
    ],
)
def test_a_broken_file_of_saturations_is_one_line(content: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / CONFIG
    file.write_text(content)
    with pytest.raises(InputError, match=words) as raised:
        read_saturations(file, tmp_path)
    assert str(raised.value).startswith(str(file))
    assert "\n" not in str(raised.value)


def test_a_file_outside_the_dataset_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere.json").write_text("[]")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / CONFIG).symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(InputError, match="symbolic link"):
        read_saturations(tmp_path / "root" / CONFIG, tmp_path / "root")


def test_a_value_without_an_entry_and_a_changed_mask_are_refused(dataset: Dataset, tmp_path: Path) -> None:
    assert dataset.regions is not None
    sample = next(sample for sample in dataset.test.samples if sample.anomalous)
    (tmp_path / CONFIG).write_text(
        json.dumps([{"pixel_value": 1, "saturation_threshold": 1, "relative_saturation": True}])
    )
    elsewhere = replace(dataset.regions, root=tmp_path, saturation=lambda _: tmp_path / CONFIG)
    with pytest.raises(InputError, match="expected an entry with pixel_value 255"):
        elsewhere.of([sample])
    before = sample.masks[0].read_bytes()
    try:
        Image.fromarray(np.asarray(Image.open(sample.masks[0])).T.copy()).save(sample.masks[0])
        with pytest.raises(InputError, match="has changed"):
            dataset.regions.of([sample])
    finally:
        sample.masks[0].write_bytes(before)


def test_drawn_defects_have_no_regions(dataset: Dataset) -> None:
    assert hold_out(dataset).regions is None
