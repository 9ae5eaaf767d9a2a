"""SimpleNet: its size, its losses, its noise and its two groups of parameters. Its plain twin is in test_plain.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mddbench.batch import Batch
from mddbench.detector import Detector, load_method
from mddbench.engine.optimizer import make_optimizer
from mddbench.experiments.schema import OptimizerSettings
from mddbench.nn.encoder import FrozenEncoder
from mddbench.nn.patches import patch_embeddings
from mddbench.seeding import seed_everything
from networks import plain_twin

METHOD = load_method("simplenet")
CATEGORIES = torch.zeros(4, dtype=torch.int64)


@pytest.fixture
def encoder() -> FrozenEncoder:
    """Of random weights, in double precision; two levels as the authors'."""
    seed_everything(7)
    return FrozenEncoder("tf_efficientnet_lite0", (2, 3)).double()


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(5)
    return Batch(torch.rand(4, 3, 64, 64, generator=generator, dtype=torch.float64), CATEGORIES)


def detector_of(encoder: FrozenEncoder, **settings: Any) -> Detector:
    seed_everything(0)
    detector: Detector = METHOD(encoder, METHOD.Settings(**{"width": 40, "hidden": 12, **settings}), 2)
    return detector.double()


def test_parameters_match_the_authors_count() -> None:
    """3.938 M: 1536 x 1536 + 1536 of the projection, 1536 x 1024 + 1024, 2 x 1024 and 1024 of the classifier."""
    with torch.device("meta"):
        detector = METHOD(FrozenEncoder("wide_resnet50_2", (2, 3)), METHOD.Settings(), 15)
    trained = sum(value.numel() for value in detector.parameters() if value.requires_grad)
    frozen = sum(value.numel() for value in detector.parameters() if not value.requires_grad)
    assert trained == 1536 * 1536 + 1536 + 1536 * 1024 + 1024 + 2 * 1024 + 1024
    assert (round(trained / 1e6, 3), round(frozen / 1e6, 3)) == (3.938, 24.863)


@pytest.mark.parametrize(
    "settings",
    [{}, {"width": None}, {"relative_noise": True, "noise": 0.3}, {"margin": 0.1, "noise": 2.0, "sigma": 0.0}],
)
def test_losses_and_maps_equal_the_plain_ones(encoder: FrozenEncoder, batch: Batch, settings: dict[str, Any]) -> None:
    detector = detector_of(encoder, **settings)
    torch.set_default_dtype(torch.float64)
    try:
        twin = plain_twin("simplenet", detector)
        seed_everything(1)
        expected = twin.train().loss(batch.images, batch.categories, batch.progress)
        seed_everything(1)
        terms = detector.train().training_step(batch)
        torch.testing.assert_close(terms["normal"] + terms["noisy"], expected, rtol=1e-9, atol=1e-9)
        with torch.no_grad():
            maps, plain = detector.eval().anomaly_maps(batch.images), twin.eval().maps(batch.images)
        torch.testing.assert_close(maps, plain, rtol=1e-9, atol=1e-9)
    finally:
        torch.set_default_dtype(torch.float32)


class Answers(torch.nn.Module):
    """A classifier that gives normal patches one score and noisy ones another."""

    def __init__(self, normal: float, noisy: float) -> None:
        super().__init__()
        self.scores = (normal, noisy)

    def forward(self, vectors: Tensor) -> Tensor:
        return torch.tensor(self.scores, dtype=vectors.dtype).repeat_interleave(len(vectors) // 2)[:, None]


@pytest.mark.parametrize(
    ("normal", "noisy", "losses"),
    [(0.5, -0.5, (0, 0)), (9.0, -9.0, (0, 0)), (0.2, 0.1, (0.3, 0.6)), (-1.0, 1.0, (1.5, 1.5)), (0.6, 0.0, (0, 0.5))],
)
def test_a_loss_is_what_is_missing_to_the_margin(
    encoder: FrozenEncoder, batch: Batch, normal: float, noisy: float, losses: tuple[float, float]
) -> None:
    detector = detector_of(encoder)
    detector.classifier = Answers(normal, noisy)
    terms = detector.training_step(batch)
    assert (float(terms["normal"]), float(terms["noisy"])) == pytest.approx(losses)


@pytest.mark.parametrize("relative", [False, True])
def test_noise_has_the_deviation_it_should(encoder: FrozenEncoder, batch: Batch, relative: bool) -> None:
    detector, seen = detector_of(encoder, noise=0.2, relative_noise=relative), []
    detector.classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    detector.training_step(batch)
    normal, noisy = seen[0].chunk(2)
    features = patch_embeddings(encoder(batch.images), 40)
    torch.testing.assert_close(normal, detector.projection(features.flatten(0, 2)).detach())
    expected = 0.2 * (features.std().item() if relative else 1.0)
    assert (noisy - normal).std().item() == pytest.approx(expected, rel=0.03)


def test_the_two_parts_have_a_rate_and_a_weight_decay_each(encoder: FrozenEncoder) -> None:
    detector = detector_of(encoder, rate_ratio=3.0)
    optimizer = make_optimizer(detector, OptimizerSettings(name="adamw", lr=1e-4, weight_decay=0.01))
    assert optimizer is not None
    first, second = optimizer.param_groups
    assert (first["lr"], first["weight_decay"]) == pytest.approx((1e-4, 0.01))
    assert (second["lr"], second["weight_decay"]) == pytest.approx((3e-4, 1e-5))
    counted = {id(value) for group in (first, second) for value in group["params"]}
    assert counted == {id(value) for value in detector.parameters() if value.requires_grad}


def test_cached_features_give_the_same_losses(encoder: FrozenEncoder, batch: Batch) -> None:
    detector = detector_of(encoder).train()
    given = Batch(torch.zeros_like(batch.images), batch.categories, features=tuple(encoder(batch.images)))
    losses = []
    for each in (batch, given):
        seed_everything(3)
        losses.append({name: term.item() for name, term in detector.training_step(each).items()})
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("name", "levels", "size"),
    [("vit_tiny_patch16_224", (5, 11), 96), ("swin_tiny_patch4_window7_224", (0, 1, 2), 224), ("resnet18", (1,), 72)],
)
def test_any_encoder_and_size_will_do(name: str, levels: tuple[int, ...], size: int) -> None:
    detector: Detector = METHOD(FrozenEncoder(name, levels), METHOD.Settings(width=32, hidden=8), 1)
    with torch.inference_mode():
        maps = detector.eval().anomaly_maps(torch.rand(2, 3, size, size).to(memory_format=torch.channels_last))
    assert maps.shape == (2, size, size)
    assert torch.isfinite(maps).all()
