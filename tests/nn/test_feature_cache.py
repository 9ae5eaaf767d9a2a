"""Cached features of the frozen teacher: the same bits, computed once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mddbench.batch import as_images
from mddbench.detector import load_method, method_settings
from mddbench.engine.batches import TrainingImages
from mddbench.engine.train import Conditions, Trainer
from mddbench.nn.encoder import FrozenEncoder
from mddbench.nn.feature_cache import FeatureCache
from mddbench.progress import SilentReporter
from mddbench.seeding import seed_everything
from support import experiment

CPU = torch.device("cpu")


class Told(SilentReporter):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (10, 64, 64, 3), dtype=np.uint8)


@pytest.fixture
def counted(encoder: FrozenEncoder, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each pass of the encoder was given."""
    passes: list[int] = []
    forward = FrozenEncoder.forward

    def counting(self: FrozenEncoder, images: torch.Tensor) -> list[torch.Tensor]:
        passes.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(FrozenEncoder, "forward", counting)
    return passes


def test_each_image_is_computed_once(encoder: FrozenEncoder, pixels: np.ndarray, counted: list[int]) -> None:
    cache = FeatureCache(encoder, len(pixels), 4)
    for chosen in ([3, 1, 4, 0], [2, 5, 6, 7], [0, 1, 2, 3], [7, 6, 0, 4]):
        found = cache.features(np.array(chosen), as_images(pixels[chosen], CPU))
        expected = FrozenEncoder.forward(encoder, as_images(pixels[chosen], CPU))
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
        assert all(one.is_contiguous(memory_format=torch.channels_last) for one in found)
    assert len(counted) - 4 == 2  # of the four batches the first two


def test_a_batch_of_another_size_neither_takes_nor_gives(
    encoder: FrozenEncoder, pixels: np.ndarray, counted: list[int]
) -> None:
    cache = FeatureCache(encoder, len(pixels), 4)
    cache.features(np.array([0, 1]), as_images(pixels[:2], CPU))
    assert not cache.cached.any()
    cache.features(np.arange(4), as_images(pixels[:4], CPU))
    cache.features(np.array([0, 1]), as_images(pixels[:2], CPU))
    assert counted == [2, 4, 2]


@pytest.mark.parametrize("method", ["rd4ad", "uniad", "mddnet"])
@pytest.mark.parametrize("drop_last", [True, False])
def test_training_gives_the_same_bits_with_and_without(
    method: str, drop_last: bool, encoder: FrozenEncoder, pixels: np.ndarray, tmp_path: Path, counted: list[int]
) -> None:
    settings = experiment(method=method, epochs=3, drop_last=drop_last, batch_size=4)
    data, kind, learned, passes = TrainingImages(pixels, np.arange(10) % 2), load_method(method), [], []
    own = {"grid": 8, "neighbours": 3} if method == "uniad" else {}
    for room in (0.0, 1.0):
        seed_everything(0)
        detector = kind(encoder, method_settings(kind, own, "test"), 2)
        counted.clear()
        history = Trainer(detector, settings, 0, tmp_path / f"{room}.pt", Conditions(room)).run(data, SilentReporter())
        learned.append((detector.learned_state(), [log.loss for log in history]))
        passes.append(sum(counted))
    assert learned[0][1] == learned[1][1]
    assert all(torch.equal(value, learned[1][0][name]) for name, value in learned[0][0].items())
    assert passes[1] < passes[0]


@pytest.mark.parametrize(
    ("room", "said"),
    [(1.0, "computed once"), (1e-6, "computed in every epoch, there being room for 1e-06 GiB (--feature-cache)")],
)
def test_what_they_take_is_told_before(
    room: float, said: str, encoder: FrozenEncoder, pixels: np.ndarray, tmp_path: Path
) -> None:
    kind, reporter = load_method("rd4ad"), Told()
    detector = kind(encoder, method_settings(kind, {}, "test"), 2)
    data = TrainingImages(pixels, np.arange(10) % 2)
    Trainer(detector, experiment(epochs=2), 0, tmp_path / "c.pt", Conditions(room)).run(data, reporter)
    assert any(
        line.startswith("the teacher's features of 10 images take 0.00 GiB") and line.endswith(said)
        for line in reporter.lines
    )
