"""What the paper claims of the two decoders' disagreement, on defects planted into held-out normal images of mini."""

from __future__ import annotations

import runpy
from typing import Any

import numpy as np
import pytest
import torch

from mddbench.batch import as_images
from mddbench.data.dataset import Dataset, open_dataset
from mddbench.detector import Detector, load_method, method_settings
from mddbench.engine.batches import TrainingImages
from mddbench.engine.train import Trainer
from mddbench.execution.holdout import hold_out
from mddbench.experiments.catalogue import load_experiment
from mddbench.metrics.suite import evaluate, mean_over_categories
from mddbench.nn.encoder import FrozenEncoder
from mddbench.progress import SilentReporter
from mddbench.seeding import seed_everything
from support import ROOT

QUIET = SilentReporter()


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return hold_out(open_dataset("mini", None, tmp_path_factory.mktemp("cache"), 96, QUIET))


@pytest.fixture(scope="module")
def detector(planted: Dataset, encoder: FrozenEncoder, tmp_path_factory: pytest.TempPathFactory) -> Detector:
    experiment = load_experiment("mini/mddnet", {"epochs": 14})
    method = load_method("mddnet")
    seed_everything(0)
    found = method(encoder, method_settings(method, experiment.settings, "test"), len(planted.categories))
    trainer = Trainer(found, experiment, 0, tmp_path_factory.mktemp("run") / "checkpoint.pt")
    trainer.run(TrainingImages(planted.train.images, planted.train_categories), QUIET)
    return found.eval()


@pytest.fixture(scope="module")
def study(planted: Dataset, detector: Detector) -> dict[str, dict[str, float]]:
    """Signals -> metric or 'everywhere' and 'hard', the false positives at a recall of one half."""
    script: dict[str, Any] = runpy.run_path(str(ROOT / "benchmarks" / "false_positives.py"))
    names = [*script["KEYS"], "everywhere", "hard"]
    found = script["study"](detector, planted)
    return {words: dict(zip(names, row, strict=False)) for words, row in found.items()}


def test_the_decoders_disagree_on_planted_defects(study: dict[str, dict[str, float]]) -> None:
    """At a threshold that finds half of a defect's pixels, chance would mark half of the others."""
    found = study["restoration against identity"]
    assert found["everywhere"] < 0.25
    assert found["hard"] < 0.35


def test_the_decoders_disagreement_is_quieter_on_hard_normal_texture(study: dict[str, dict[str, float]]) -> None:
    assert study["restoration against identity"]["hard"] < study["teacher against restoration"]["hard"]


def test_metrics_stand_beside_the_false_positives(
    study: dict[str, dict[str, float]], planted: Dataset, detector: Detector
) -> None:
    """Those of both signals are those of the model as it is."""
    assert list(study) == ["teacher against restoration", "restoration against identity", "both"]
    found = {}
    for category in planted.categories:
        split = planted.test.of(category)
        with torch.inference_mode():
            maps = detector.anomaly_maps(as_images(np.asarray(split.images), torch.device("cpu"))).numpy()
        labels, scores = np.array([sample.anomalous for sample in split.samples]), maps.max(axis=(1, 2))
        masks = np.asarray(split.masks)
        found[category] = evaluate(maps=maps, masks=masks, image_scores=scores, image_labels=labels)
    assert study["both"]["mad"] == pytest.approx(mean_over_categories(found)["mad"], abs=1e-4)


def test_rates_are_those_of_a_loop(planted: Dataset) -> None:
    script: dict[str, Any] = runpy.run_path(str(ROOT / "benchmarks" / "false_positives.py"))
    split = planted.test.of("brick")
    maps = np.random.default_rng(0).random(split.masks.shape, dtype=np.float32)
    masks, pixels = np.asarray(split.masks), script["hard_pixels"](split)
    everywhere, hard = script["rates"](maps, masks, pixels, 0.8)
    assert pixels[~masks].mean() == pytest.approx(0.1, abs=0.01)
    assert not pixels[masks].any()
    threshold = sorted(maps[masks])[int(0.2 * masks.sum())]
    assert everywhere == pytest.approx(np.mean(maps[~masks] >= threshold), abs=1e-3)
    assert hard == pytest.approx(0.8, abs=0.02)  # noise knows nothing of texture
    strength = script["texture"](np.asarray(split.images))
    assert float(strength.std()) > 0
