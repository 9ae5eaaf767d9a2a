"""AMA: a plain twin, who is moved by which term, atypical images, and the two-sided score."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mddbench.batch import Batch
from mddbench.detector import Detector, load_method
from mddbench.nn.encoder import FrozenEncoder
from mddbench.nn.smoothing import gaussian_smooth
from mddbench.seeding import seed_everything
from mddbench.settings import validated

pytestmark = pytest.mark.usefixtures("double_by_default")
METHOD = load_method("ama")
SMALL = {
    "widths": [4, 6],
    "latent": 5,
    "generator_widths": [6, 4, 4],
    "critic_widths": [4, 6],
    "sampled": 0.4,
    "critic_pool": 2,
}


@pytest.fixture
def batch() -> Batch:
    return Batch(
        torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(5)), torch.zeros(5, dtype=torch.int64)
    )


def detector_of(encoder: FrozenEncoder, **settings: object) -> Detector:
    seed_everything(0)
    return METHOD(encoder, validated(METHOD.Settings, {**SMALL, **settings}, "test"), 2).double()


def encoded(detector: Detector, signed: Tensor) -> Tensor:
    features = F.adaptive_avg_pool2d(detector.down(signed), 4)
    latent = torch.einsum("bchw,lchw->bl", features, detector.latent.weight) + detector.latent.bias
    return latent[:, :, None, None]


def generated(detector: Detector, latent: Tensor) -> Tensor:
    generator = detector.generator
    features = torch.einsum("bl,lchw->bchw", latent[:, :, 0, 0], generator.first.weight)
    features = features + generator.first.bias[:, None, None]
    for block in generator.blocks:
        wide = block.norm(features).clamp(min=0).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        inner = block.second(block.second_norm(block.first(wide)).clamp(min=0))
        features = inner + block.beside(features).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    norm, _, convolution, _ = generator.last
    return torch.tanh(convolution(norm(features).clamp(min=0)))


def convolved(layer: nn.Module, features: Tensor) -> Tensor:
    """With the vectors of the critic as they are."""
    matrix = layer.weight.flatten(1)
    right = F.normalize(matrix.T @ layer.left, dim=0).detach()
    return F.conv2d(
        features, layer.gain * layer.weight / (layer.left @ matrix @ right), layer.bias, padding=layer.padding
    )


def judged(critic: nn.Module, images: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    features = F.avg_pool2d(torch.cat([images, others], dim=1), 2)
    for number, block in enumerate(critic.blocks):
        inner = convolved(block.first, features.clamp(min=0) if number else features).clamp(min=0)
        inner, beside = convolved(block.second, inner), convolved(block.beside, features)
        features = F.avg_pool2d(inner + beside, 2) if number < 2 else inner + beside
    features = features.clamp(min=0)
    return features.mean(dim=(2, 3)) @ critic.last.weight[0, :, 0, 0] / critic.last.weight.norm(), features


@pytest.mark.parametrize(("progress", "count"), [(0.0, 0), (0.5, 2)])
def test_losses_equal_the_plain_ones(encoder: FrozenEncoder, batch: Batch, progress: float, count: int) -> None:
    """With atypical images from a tenth of the training on: the first two of five."""
    detector = detector_of(encoder).train()
    torch.manual_seed(3)
    terms = {name: value.item() for name, value in detector.training_step(replace(batch, progress=progress)).items()}
    with torch.no_grad():
        images = 2 * batch.images - 1
        if count:
            torch.manual_seed(3)
            inward = 0.5 * torch.rand(count, 1, 1, 1)
            images[:count] = generated(detector, inward * encoded(detector, images[:count]))
        latent = encoded(detector, images)
        rebuilt = generated(detector, latent)
        weights = torch.tensor([-5.0] * count + [1.0] * (5 - count))
        same, other = judged(detector.critic, images, images)[0], judged(detector.critic, images, rebuilt)[0]
    assert terms["critic"] == pytest.approx((weights * other).mean().item() - (weights * same).mean().item(), rel=1e-7)
    assert terms["mirrored"] == pytest.approx(-(weights * other).mean().item(), rel=1e-7)
    lengths = [math.hypot(*vector) for vector in latent[count:, :, 0, 0].tolist()]
    assert terms["latent"] == pytest.approx(0.01 * sum(lengths) / len(lengths), rel=1e-7)


@pytest.mark.parametrize("two_sided", [True, False])
def test_maps_and_scores_equal_the_plain_ones(encoder: FrozenEncoder, batch: Batch, two_sided: bool) -> None:
    detector = detector_of(encoder, two_sided=two_sided, sigma=2.0).train()
    for _ in range(3):
        detector.training_step(batch)
    with torch.no_grad():
        maps, scores = detector.eval().maps_and_scores(batch.images)
        images = 2 * batch.images - 1
        rebuilt = generated(detector, encoded(detector, images))
        mine, other = judged(detector.critic, images, images)[1], judged(detector.critic, images, rebuilt)[1]
    wide = F.interpolate((mine - other).abs().sum(dim=1)[:, None], (32, 32), mode="bilinear")[:, 0]
    torch.testing.assert_close(maps, gaussian_smooth(wide, 2.0), rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(maps, detector.anomaly_maps(batch.images), rtol=0, atol=0)
    expected = (mine.mean(dim=(2, 3)) - other.mean(dim=(2, 3))).abs().sum(dim=1)
    if two_sided:
        weight, mean, square = detector.moments.tolist()
        assert weight == pytest.approx(1 - 0.98**3)
        mean, square = mean / weight, square / weight
        expected = (expected - mean).abs() / math.sqrt(square - mean**2)
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-9)


def test_an_image_too_like_its_reconstruction_is_abnormal_if_the_score_is_two_sided(
    encoder: FrozenEncoder, batch: Batch
) -> None:
    detector = detector_of(encoder).eval()
    _, plain = detector_of(encoder, two_sided=False).eval().maps_and_scores(batch.images)
    mean = plain.mean().item()
    detector.moments.copy_(torch.tensor([1.0, mean, mean**2 + 0.25 * mean**2]))
    _, scores = detector.maps_and_scores(batch.images)
    torch.testing.assert_close(scores, (plain - mean).abs() / (0.5 * mean))


@pytest.mark.parametrize("progress", [0.0, 0.5])
def test_each_term_reaches_its_player_only(encoder: FrozenEncoder, batch: Batch, progress: float) -> None:
    detector = detector_of(encoder, critic_rate=4.0)
    groups = detector.parameter_groups(1e-3)
    assert [group["lr"] for group in groups] == [1e-3, 4e-3]
    for name, expected in (("critic", [False, True]), ("mirrored", [True, False]), ("latent", [True, False])):
        detector.zero_grad(set_to_none=True)
        detector.train().training_step(replace(batch, progress=progress))[name].backward()
        assert [any(value.grad is not None for value in group["params"]) for group in groups] == expected, name


def test_the_critic_stretches_differences_32fold_at_most(encoder: FrozenEncoder) -> None:
    """Its last map, with five blocks: whatever its weights are."""
    critic = detector_of(encoder, critic_widths=[4, 6, 6]).critic.train()
    with torch.no_grad():
        for value in critic.parameters():
            value.copy_(10 * torch.randn_like(value))
        images, change = torch.rand(20, 6, 32, 32), 0.01 * torch.randn(20, 6, 32, 32)
        for _ in range(30):
            _, before = critic(images[:, :3], images[:, 3:])
        _, after = critic.eval()(*(images + change).chunk(2, dim=1))
        _, before = critic(images[:, :3], images[:, 3:])
    assert ((after - before).flatten(1).norm(dim=1) / change.flatten(1).norm(dim=1)).max() < 32


def test_the_two_wasserstein_terms_cancel_but_for_the_pair_of_an_image_with_itself(
    encoder: FrozenEncoder, batch: Batch
) -> None:
    detector = detector_of(encoder).train()
    terms = detector.training_step(batch)
    same, _ = detector.critic.eval()(2 * batch.images - 1, 2 * batch.images - 1)
    assert (terms["critic"] + terms["mirrored"]).item() == pytest.approx(-same.mean().item(), rel=1e-7)
