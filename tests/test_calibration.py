"""Thresholds without test labels: which images are held out, what is stored, and what a table says."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_evaluate import QUIET, TellingReporter, brightness

from mddbench.data.dataset import Dataset, load_source, open_dataset
from mddbench.data.fabricate import fabricate
from mddbench.data.rows import Rows
from mddbench.engine.evaluate import EvaluationOptions, evaluate
from mddbench.errors import CellError, InputError
from mddbench.execution.calibration import calibrated
from mddbench.experiments.catalogue import load_experiment
from mddbench.metrics.names import SEVEN
from mddbench.nn.encoder import FrozenEncoder
from mddbench.report.build import build_report
from mddbench.report.rows.entries import Entry
from mddbench.report.write import page_of
from mddbench.runs.card import CARD_FIELDS, Role
from mddbench.runs.records import Record, as_json, parse_record, read_record
from mddbench.runs.thresholds import Thresholds
from support import ROOT, experiment, mddbench, record, write_tree

CATEGORIES = ("bolt", "nut_100%")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("calibration")
    tree = write_tree(folder / "tree", ("bolt", "nut", "rod"), train=40)
    return open_dataset("folder", tree, folder / "cache", 64, QUIET)


def files(split: Any) -> list[Path]:
    return [sample.image for sample in split.samples]


def test_a_share_of_each_category_is_held_out_by_the_seed(dataset: Dataset) -> None:
    found = [calibrated(dataset, experiment(calibration=0.25), seed) for seed in (0, 0, 1)]
    for each in found:
        assert each.calibration is not None
        assert sorted(files(each.train) + files(each.calibration)) == sorted(files(dataset.train))
        assert each.test is dataset.test
        assert each.fingerprint == dataset.fingerprint
        for category in dataset.categories:
            assert (len(each.calibration.of(category)), len(each.train.of(category))) == (10, 30)
    first, again, other = (files(each.calibration) for each in found)
    assert first == again
    assert first != other
    stems = [{file.stem for file in first if file.parents[2].name == category} for category in dataset.categories]
    assert stems[0] != stems[1]  # each category has a draw of its own


def test_pixels_go_with_their_samples_and_nothing_is_copied(dataset: Dataset) -> None:
    found = calibrated(dataset, experiment(calibration=0.25), 0)
    assert isinstance(found.train.images, Rows)
    whole = {sample.image: pixels for sample, pixels in zip(dataset.train.samples, dataset.train.images, strict=True)}
    for split in (found.train, found.calibration):
        assert split is not None
        for sample, pixels in zip(split.samples, np.asarray(split.images), strict=True):
            np.testing.assert_array_equal(pixels, whole[sample.image])
    alone = found.only("nut")
    assert alone.calibration is not None
    assert {sample.category for sample in alone.calibration.samples} == {"nut"}
    assert np.asarray(alone.train.images[3:5]).shape == (2, 64, 64, 3)


def test_rows_are_those_of_the_array() -> None:
    array, indices = np.arange(60).reshape(10, 2, 3), np.array([7, 1, 4, 9])
    rows, plain = Rows(array, indices), array[indices]
    assert (len(rows), rows.shape, rows.dtype) == (4, plain.shape, plain.dtype)
    np.testing.assert_array_equal(np.array(rows), plain)
    np.testing.assert_array_equal(rows[np.array([3, 0])], plain[[3, 0]])
    np.testing.assert_array_equal(rows[2], plain[2])
    np.testing.assert_array_equal(np.asarray(rows[1:3][1:]), plain[1:3][1:])
    np.testing.assert_array_equal(np.stack(list(rows)), plain)
    with pytest.raises(IndexError):
        rows[4]


def test_without_the_setting_nothing_changes(dataset: Dataset) -> None:
    plain = experiment()
    assert calibrated(dataset, plain, 0) is dataset
    assert plain.calibration == 0
    assert "calibration" not in plain.model_dump()
    assert experiment(calibration=0.1).model_dump()["calibration"] == 0.1
    assert "calibration" not in load_experiment("mini/rd4ad").model_dump()


@pytest.mark.parametrize(
    ("value", "words"), [(0.6, "less than or equal to 0.5"), ("test", "validation: the dataset's own"), (-0.1, "")]
)
def test_a_wrong_setting_is_one_line(value: object, words: str) -> None:
    with pytest.raises(InputError, match=rf"calibration.*{words}") as raised:
        experiment(calibration=value)
    assert "\n" not in str(raised.value)


def test_too_few_images_and_a_dataset_without_validation_are_refused(dataset: Dataset) -> None:
    with pytest.raises(InputError, match="holds out 0 of the 40 training images of 'bolt'"):
        calibrated(dataset, experiment(calibration=0.01), 0)
    with pytest.raises(InputError, match="folder: calibration: validation: the dataset has no validation images"):
        calibrated(dataset, experiment(calibration="validation"), 0)


def test_the_datasets_own_validation_images_are_used(tmp_path: Path) -> None:
    fabricate("mvtec_loco", load_source("mvtec_loco"), tmp_path / "root", full=False)
    loco = open_dataset("mvtec_loco", tmp_path / "root", tmp_path / "cache", 48, QUIET)
    found = calibrated(loco, experiment(calibration="validation"), 0)
    assert found.calibration is not None
    assert {file.parents[1].name for file in files(found.calibration)} == {"validation"}
    assert {file.parents[1].name for file in files(found.train)} == {"train"}
    assert len(found.calibration) + len(found.train) == len(loco.train)
    assert found.calibration_source == "the dataset's own validation images"


def test_thresholds_and_rates_are_those_of_a_second_computation(encoder: FrozenEncoder, dataset: Dataset) -> None:
    """Brightness needs no training, so its scores can be computed here from the pixels."""
    found = calibrated(dataset, experiment(calibration=0.5), 3)
    told = TellingReporter()
    result = evaluate(brightness(encoder), found, "float32", told, EvaluationOptions())
    assert result.thresholds is not None
    assert found.calibration is not None

    def maps_of(split: Any) -> np.ndarray:
        images = torch.from_numpy(np.array(split.images)).permute(0, 3, 1, 2).float() / 255
        return images.mean(dim=1).numpy().astype(np.float64)

    held_out = {category: maps_of(found.calibration.of(category)) for category in dataset.categories}
    scores = {category: np.sort(maps.max(axis=(1, 2))) for category, maps in held_out.items()}
    together = np.sort(np.concatenate(list(scores.values())))
    assert result.thresholds.images == dict.fromkeys(dataset.categories, 20)
    expected = {("one", None): together[57]}  # the 58th of 60: 61 x 0.95 = 57.95
    expected |= {("each", category): own[19] for category, own in scores.items()}  # the 20th of 20: 21 x 0.95 = 19.95
    at_5 = result.thresholds.image["5"]
    assert at_5.one == pytest.approx(expected["one", None], abs=1e-6)
    errors = []
    for category in dataset.categories:
        assert at_5.each[category] == pytest.approx(expected["each", category], abs=1e-6)
        test = dataset.test.of(category)
        maps, labels = maps_of(test), np.array([sample.anomalous for sample in test.samples])
        alarms, values = maps.max(axis=(1, 2)) > expected["one", None], result.further[category]
        assert values["fpr_05_one"] == alarms[~labels].mean()
        assert values["tpr_05_one"] == alarms[labels].mean()
        errors.append(abs(alarms[~labels].mean() - 0.05))
        sigma = held_out[category].mean() + 3 * held_out[category].std()
        assert result.thresholds.pixel["sigma"].each[category] == pytest.approx(sigma, abs=1e-6)
        detected = maps > sigma
        seg_f1 = 2 * (detected & test.masks).sum() / (detected.sum() + test.masks.sum())
        assert values["seg_f1_sigma_each"] == pytest.approx(seg_f1, abs=1e-9)
    assert result.further["mean"]["fpr_error_05_one"] == pytest.approx(np.mean(errors))
    # At 1 % 99 images are needed: it is said, and no metric is there.
    (line,) = [line for line in told.lines if "no threshold at" in line]
    assert "no threshold at 1 % for all categories (60 images) and for each of 3 of 3 categories" in line
    assert "it needs 99 normal images" in line
    assert result.thresholds.image["1"].one is None
    assert not [key for values in result.further.values() for key in values if "_01_" in key and "aupro" not in key]


def test_the_seven_metrics_do_not_depend_on_it(encoder: FrozenEncoder, dataset: Dataset) -> None:
    plain, held = (
        evaluate(brightness(encoder), each, "float32", QUIET, EvaluationOptions())
        for each in (dataset, calibrated(dataset, experiment(calibration=0.5), 0))
    )
    assert plain.metrics == held.metrics
    assert plain.thresholds is None


def test_a_broken_map_of_a_held_out_image_names_it(encoder: FrozenEncoder, dataset: Dataset) -> None:
    found = calibrated(dataset, experiment(calibration=0.5), 0)
    assert found.calibration is not None
    name = found.calibration.of("bolt").samples[2].image.name
    with pytest.raises(CellError, match=f"setting thresholds of bolt: the map or score of {name} holds NaN"):
        evaluate(brightness(encoder, broken=2), found, "float32", QUIET, EvaluationOptions())


def test_a_run_keeps_its_thresholds_with_the_model_and_in_its_record(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "folder", train=40)
    run = ("run", "folder/padim", "--data-root", tree, "--out", tmp_path / "out", "--cache-dir", tmp_path / "cache")
    small = ("--set", "image_size=64", "--seeds", "0", "--no-report")
    done = mddbench(*run, *small, "--set", "calibration=0.5")
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "out" / "cells").glob("*seed0*/")
    found = read_record(folder / "record.json")
    assert found.thresholds is not None
    assert found.thresholds.images == {"bolt": 20, "nut": 20}
    assert found.history[0].images == 40  # the other half of 80
    assert found.card.calibration == "50 % of the training images of each category"
    assert found.settings["calibration"] == 0.5
    assert set(found.metrics["mean"]) == {*SEVEN, "mad"}
    again = mddbench(*run, *small)
    assert again.returncode == 0, again.stderr
    plain = next(
        read_record(each / "record.json") for each in (tmp_path / "out" / "cells").glob("*seed0*/") if each != folder
    )
    assert plain.identity != found.identity
    assert plain.thresholds is None
    assert "calibration" not in as_json(plain)
    assert plain.card.differing_task(found.card) == [
        ("held out for thresholds", None, "50 % of the training images of each category")
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([], "thresholds"),
        ({"source": "x"}, "is missing"),
        ({"source": "x", "images": {"a": 1}, "image": {"5": {"one": "1"}}}, "image.5.one"),
    ],
)
def test_thresholds_of_a_record_that_do_not_fit_are_one_line(content: Any, words: str) -> None:
    raw = json.loads(as_json(record()))
    with pytest.raises(InputError, match=words) as raised:
        parse_record(json.dumps(raw | {"thresholds": content}), "record.json")
    assert "\n" not in str(raised.value)


def with_thresholds(seed: int, fpr: tuple[float, float] = (0.0, 0.25), each: bool = True, **changes: Any) -> Record:
    threshold = {"one": 1.5, "each": dict.fromkeys(CATEGORIES, 1.0 if each else None)}
    values = {
        category: {
            f"{key}_05_{scope}": value
            for scope in (("one", "each") if each else ("one",))
            for key, value in (("fpr", rate), ("tpr", 0.5), ("f1", 0.4), ("fpr_error", abs(rate - 0.05)))
        }
        for category, rate in zip(CATEGORIES, fpr, strict=True)
    }
    means = {key: float(np.mean([values[category][key] for category in CATEGORIES])) for key in values["bolt"]}
    content: dict[str, Any] = {
        "source": "20 % of the training images of each category",
        "images": dict.fromkeys(CATEGORIES, 20 if each else 15),
        "image": {"5": threshold},
        "pixel": {},
    }
    card = {"setting": "one model for 2 categories", "epochs": 3, "calibration": content["source"]}
    further = {"mean": means, **values}
    return record(seed, further=further, thresholds=Thresholds(**content), card=card, **changes)


def test_a_record_keeps_them() -> None:
    new = with_thresholds(0)
    assert parse_record(as_json(new), "new") == new
    raw = json.loads(as_json(new))
    raw["thresholds"]["image"]["5"]["one"] = "high"
    with pytest.raises(InputError, match=r"thresholds\.image\.5\.one"):
        parse_record(json.dumps(raw), "broken")


def test_the_table_shows_rates_the_worst_category_and_refusals(tmp_path: Path) -> None:
    refused = {"each": False, "protocol": "b" * 12, "label": "Refused"}
    records = [with_thresholds(0), with_thresholds(1, (0.1, 0.05)), with_thresholds(0, **refused)]
    report = build_report([Entry(each, tuple, f"run-{each.identity}") for each in records], [])
    text = report.texts[Path("mini/thresholds-5.md")]
    rows = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]]
        for line in text.splitlines()
        if line.startswith("| ")
    }
    shown = dict(zip(rows["Method"], rows["RD4AD"], strict=True))
    assert (shown["n"], shown["Held out"]) == ("2", "40")
    assert shown["FPR, one"] == "10.0 ± 3.5"  # (0 + 25) / 2 and (10 + 5) / 2
    assert shown["Worst, one"] == "17.5 ± 10.6"
    assert shown["Error, one"].strip("*") == "7.5 ± 7.1"  # (5 + 20) / 2 and (5 + 0) / 2
    other = dict(zip(rows["Method"], rows["Refused"], strict=True))
    assert other["FPR, each"] == other["Worst, each"] == "–"
    assert "Refused: no threshold at 5 % for each of 2 of 2 categories (such as bolt with 15)" in text
    of_categories = report.texts[Path("mini/thresholds-rd4ad.md")]
    assert "| nut_100% | 2 | 20 | 15.0 ± 14.1 |" in of_categories
    titles = [table.title for section in page_of(report, tmp_path).sections for table in section.tables]
    assert "mini: thresholds without test labels, 5 % false alarms wanted" in titles


def test_rows_with_held_out_images_stand_in_a_sheet_of_their_own() -> None:
    found = build_report([Entry(each, tuple) for each in (record(0), with_thresholds(0, protocol="c" * 12))], [])
    assert "Held out" not in found.texts[Path("mini/main.md")]
    (table,) = [file for file in found.texts if file.name == "thresholds-5.md"]
    assert table.parent != Path("mini")


def test_the_plain_name_is_that_of_rows_without_and_other_names_stay() -> None:
    """More held-out rows than others do not take it, and the folder of another protocol is what it was before."""
    held = [with_thresholds(seed, protocol="c" * 12) for seed in range(3)]
    small = record(0, protocol="d" * 12, card={"setting": "one model for 2 categories", "epochs": 7})
    found = build_report([Entry(each, tuple) for each in (*held, small, record(0), record(1))], [])
    folders = {file.parent.name for file in found.texts}
    assert "Protocol: setting one model for 2 categories; epochs 3" in found.texts[Path("mini/main.md")]
    assert "held out" not in found.texts[Path("mini/main.md")]
    task = {name: None for name, field in CARD_FIELDS.items() if field.role is Role.TASK and not field.later}
    earlier = json.dumps(task | {"setting": small.card.setting, "epochs": 7}, sort_keys=True, default=str)
    assert f"mini-{hashlib.sha256(earlier.encode()).hexdigest()[:8]}" in folders


def test_no_committed_record_of_mini_has_them() -> None:
    for file in (ROOT / "results" / "mini").rglob("*.json"):
        assert read_record(file).thresholds is None
