"""The evaluator: batches into metrics, panels and intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mddbench.batch import Batch
from mddbench.data.dataset import Dataset, load_source, open_dataset
from mddbench.data.fabricate import fabricate
from mddbench.detector import Detector
from mddbench.engine.evaluate import EvaluationOptions, choose_engine, evaluate
from mddbench.errors import CellError
from mddbench.metrics.names import LOW_RATES, PIXEL_LEVEL, SEVEN, Engine
from mddbench.metrics.suite import evaluate as seven_metrics
from mddbench.nn.encoder import FrozenEncoder
from mddbench.progress import SilentReporter
from mddbench.runs.evidence import load_evidence, save_evidence
from mddbench.runs.maps import MapKeeper
from mddbench.settings import Strict

QUIET = SilentReporter()


class TellingReporter(SilentReporter):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


class Brightness(Detector):
    """The brighter, the more anomalous; NaN for the image that `broken` counts to."""

    label, version = "Brightness", 1

    class Settings(Strict):
        broken: int = -1

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        return {}

    def anomaly_maps(self, images: Tensor) -> Tensor:
        maps = images.mean(dim=1)
        if self.settings.broken >= 0:
            maps[self.settings.broken, 0, 0] = float("nan")
        return maps


@pytest.fixture
def dataset(tree: Path, tmp_path: Path) -> Dataset:
    return open_dataset("folder", tree, tmp_path / "cache", 64, QUIET)


def brightness(encoder: FrozenEncoder, **settings: Any) -> Brightness:
    return Brightness(encoder, Brightness.Settings(**settings), 2)


class Listening(Brightness):
    """Keeps what it is told of its images."""

    class Settings(Brightness.Settings):
        asks: bool = False

    heard: list[int | None]

    @property
    def wants_test_labels(self) -> bool:
        return bool(self.settings.asks)

    def anomaly_maps(self, images: Tensor) -> Tensor:
        self.heard.append(None)
        return super().anomaly_maps(images)

    def anomaly_maps_of(self, images: Tensor, category: int) -> Tensor:
        self.heard.append(category)
        return super().anomaly_maps(images)


def test_no_label_reaches_a_method_that_did_not_ask_for_the_upper_bound(
    encoder: FrozenEncoder, dataset: Dataset
) -> None:
    for asks, expected in ((False, [None, None]), (True, [0, 1])):
        detector = Listening(encoder, Listening.Settings(asks=asks), 2)
        detector.heard = []
        evaluate(detector, dataset, "float32", QUIET, EvaluationOptions())
        assert detector.heard == expected


@pytest.mark.parametrize("batch", [1, 2, 32])
def test_metrics_and_panels_are_those_of_all_maps_at_once(
    encoder: FrozenEncoder, dataset: Dataset, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mddbench.engine.inference.BATCH_SIZE", batch)
    detector = brightness(encoder)
    found = evaluate(detector, dataset, "float32", QUIET, EvaluationOptions())
    assert set(found.metrics) == {"mean", *dataset.categories}
    assert (found.bounds, found.confidence) == ({}, {})
    for category in dataset.categories:
        split = dataset.test.of(category)
        images = torch.from_numpy(np.array(split.images)).permute(0, 3, 1, 2).float() / 255
        maps = detector.anomaly_maps(images).numpy()
        labels, scores = np.array([sample.anomalous for sample in split.samples]), maps.max(axis=(1, 2))
        expected = seven_metrics(maps=maps, masks=split.masks, image_scores=scores, image_labels=labels)
        assert found.metrics[category] == pytest.approx(expected, abs=1e-6)
        panels = {panel.role: panel for panel in found.panels if panel.category == category}
        assert set(panels) == {"best", "worst", "typical", "normal"}
        areas = split.masks.sum(axis=(1, 2))
        assert panels["typical"].mask.sum() == np.sort(areas[labels])[(labels.sum() - 1) // 2]
        evidence = next(part for part in found.evidence if part.category == category)
        assert evidence.names == tuple(sample.image.name for sample in split.samples)
        np.testing.assert_array_equal(evidence.labels, labels)
        np.testing.assert_allclose(evidence.scores, scores, atol=1e-6)
        assert panels["normal"].score == pytest.approx(scores[~labels].max(), abs=1e-6)
        assert not panels["normal"].mask.any()
        assert panels["best"].mask.any()


def test_further_metrics_stand_beside_the_seven(encoder: FrozenEncoder, dataset: Dataset) -> None:
    found = evaluate(brightness(encoder), dataset, "float32", QUIET, EvaluationOptions())
    without = evaluate(brightness(encoder), dataset, "float32", QUIET, EvaluationOptions(further=False))
    assert without.further == {}
    assert found.metrics == without.metrics
    assert set(found.further) == {"mean", *dataset.categories}
    measured = {metric.key for metric in LOW_RATES} - {"spro_05"}  # whose regions this dataset does not have
    for values in found.further.values():
        assert set(values) == measured
        assert np.isnan(values["aupimo"])  # three small normal images
    for key in ("aupro_05", "aupro_01"):
        assert found.further["mean"][key] == np.mean([found.further[name][key] for name in dataset.categories])


def test_a_dataset_with_saturations_has_spro_unless_they_cannot_be_read(encoder: FrozenEncoder, tmp_path: Path) -> None:
    root = tmp_path / "root"
    fabricate("mvtec_loco", load_source("mvtec_loco"), root, full=False)
    loco = open_dataset("mvtec_loco", root, tmp_path / "cache", 64, QUIET)
    found = evaluate(brightness(encoder), loco, "float32", QUIET, EvaluationOptions()).further
    assert all(0 < values["spro_05"] <= 1 for values in found.values())
    assert all(found[name]["spro_05"] != found[name]["aupro_05"] for name in loco.categories)
    told, category = TellingReporter(), loco.categories[1]
    (root / category / "defects_config.json").unlink()
    fewer = evaluate(brightness(encoder), loco, "float32", told, EvaluationOptions()).further
    assert [line for line in told.lines if category in line and "AU-sPRO@0.05 is not measured" in line]
    assert [name for name, values in fewer.items() if "spro_05" not in values] == ["mean", category]
    others = [name for name in loco.categories if name != category]
    assert [fewer[name]["spro_05"] for name in others] == [found[name]["spro_05"] for name in others]


def test_a_broken_map_names_its_image(encoder: FrozenEncoder, dataset: Dataset) -> None:
    sample = dataset.test.of(dataset.categories[0]).samples[3]
    with pytest.raises(
        CellError, match=rf"{dataset.categories[0]}: the map of {sample.image.name} \({sample.defect}\)"
    ):
        evaluate(brightness(encoder, broken=3), dataset, "float32", QUIET, EvaluationOptions())


class FineBrightness(Brightness):
    """The same in steps that float32 cannot hold: all scores are 1 there."""

    def anomaly_maps(self, images: Tensor) -> Tensor:
        return 1.0 + 1e-9 * images.double().mean(dim=1)


@pytest.mark.parametrize("engine", ["exact", "histogram"])
def test_metrics_follow_from_the_scores_that_the_method_gave(
    engine: Engine, encoder: FrozenEncoder, dataset: Dataset, tmp_path: Path
) -> None:
    detector = FineBrightness(encoder, Brightness.Settings(), 2)
    coarse = brightness(encoder)
    found = evaluate(
        detector, dataset, "float32", QUIET, EvaluationOptions(engine, keeper=MapKeeper(tmp_path / "maps"))
    )
    plain = evaluate(coarse, dataset, "float32", QUIET, EvaluationOptions(engine))
    for category in dataset.categories:  # the order of the scores is the same, and so are the metrics
        assert found.metrics[category] == pytest.approx(plain.metrics[category], abs=1e-4)
        assert found.metrics[category]["i_auroc"] > 0
    save_evidence(found.evidence, tmp_path / "scores.npz")
    for part, kept in zip(found.evidence, load_evidence(tmp_path / "scores.npz"), strict=True):
        assert len(np.unique(part.scores)) > 1
        assert kept.scores.dtype == np.float64
        np.testing.assert_array_equal(kept.scores, part.scores)
    assert all(part.scores.dtype == np.float32 for part in plain.evidence)


def test_the_histogram_engine_comes_with_bounds(encoder: FrozenEncoder, dataset: Dataset) -> None:
    exact = evaluate(brightness(encoder), dataset, "float32", QUIET, EvaluationOptions())
    found = evaluate(brightness(encoder), dataset, "float32", QUIET, EvaluationOptions(engine="histogram"))
    for category in dataset.categories:
        for key in PIXEL_LEVEL:
            low, high = found.bounds[category][key]
            assert low <= exact.metrics[category][key] <= high
            assert high - low < 1
    (category, *_) = dataset.categories
    told = TellingReporter()
    asked = EvaluationOptions(engine="histogram", resamples=5)
    intervals = evaluate(brightness(encoder), dataset, "float32", told, asked).confidence[category]
    assert np.isnan(intervals["aupro"]).all()
    assert not np.isnan(intervals["i_auroc"]).any()
    assert told.lines == ["warning: the histogram engine has no confidence intervals of pixel metrics"]


def test_confidence_is_reproducible_and_holds_the_values(encoder: FrozenEncoder, dataset: Dataset) -> None:
    asked = EvaluationOptions(resamples=50, seed=5)
    first, second = (evaluate(brightness(encoder), dataset, "float32", QUIET, asked) for _ in range(2))
    assert first.confidence == second.confidence
    assert set(first.confidence) == {"mean", *dataset.categories}
    assert set(first.confidence["mean"]) == {*SEVEN, "mad"}
    for place, metrics in first.metrics.items():
        for key, value in metrics.items():
            low, high = first.confidence[place][key]
            assert low - 1e-9 <= value <= high + 1e-9 or low == high
    other = evaluate(brightness(encoder), dataset, "float32", QUIET, EvaluationOptions(resamples=50, seed=6))
    assert other.confidence != first.confidence


@pytest.mark.parametrize(
    ("images", "size", "engine"),
    [(200, 256, "exact"), (3800, 512, "exact"), (3800, 1024, "histogram"), (70_000, 256, "histogram")],
)
def test_the_engine_is_exact_wherever_it_fits(images: int, size: int, engine: str) -> None:
    assert choose_engine(images, size) == engine
