"""MemAE on pixels and on features: plain twins, what the loss holds, and that a planted defect is seen."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mddbench.batch import Batch
from mddbench.detector import Detector, load_method
from mddbench.errors import InputError
from mddbench.nn.encoder import FrozenEncoder
from mddbench.nn.smoothing import gaussian_smooth
from mddbench.seeding import seed_everything
from mddbench.settings import validated

pytestmark = pytest.mark.usefixtures("double_by_default")
PIXELS, FEATURES = load_method("memae"), load_method("memae_features")
SMALL = {"widths": (4, 6, 8), "addressing": {"items": 20, "temperature": 0.2}}


@pytest.fixture
def encoder() -> FrozenEncoder:
    seed_everything(7)
    return FrozenEncoder("tf_efficientnet_lite0", (1, 2, 3)).double()


@pytest.fixture
def batch() -> Batch:
    return Batch(
        torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(5)), torch.zeros(3, dtype=torch.int64)
    )


def detector_of(method: type[Detector], encoder: FrozenEncoder, **settings: object) -> Detector:
    seed_everything(0)
    return method(encoder, validated(method.Settings, settings, "test"), 2).double()


def read_plainly(queries: Tensor, items: Tensor, temperature: float, cosine: bool = False) -> tuple[Tensor, Tensor]:
    """What is read from a memory with the threshold 1 / N, and the entropy of the weights."""
    if cosine:
        similar = torch.stack([F.cosine_similarity(queries, item[None], dim=1) for item in items], dim=1)
    else:
        similar = torch.stack([(queries * item).sum(dim=1) for item in items], dim=1)
    weights = torch.softmax(similar / temperature, dim=1)
    weights = torch.where(weights > 1 / len(items), weights, torch.zeros(()))
    weights = weights / weights.sum(dim=1, keepdim=True)
    nats = torch.where(weights > 0, -weights * torch.log(weights.clamp(min=1e-300)), torch.zeros(()))
    return weights @ items, nats.sum(dim=1).mean()


def normed(features: Tensor, norm: nn.BatchNorm2d, training: bool) -> Tensor:
    """Batch normalisation and LeakyReLU 0.2, in numbers."""
    mean, variance = norm.running_mean, norm.running_var
    if training:
        mean, variance = features.mean(dim=(0, 2, 3)), features.var(dim=(0, 2, 3), unbiased=False)
    assert mean is not None
    assert variance is not None
    scaled = (features - mean[:, None, None]) / (variance[:, None, None] + norm.eps).sqrt()
    scaled = scaled * norm.weight[:, None, None] + norm.bias[:, None, None]
    return torch.maximum(scaled, 0.2 * scaled)


def pixels_plainly(detector: Detector, images: Tensor, training: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Images on [-1, 1], what is rebuilt of them, and the entropy."""
    signed = features = 2 * images - 1
    for convolution, norm, _ in detector.down:
        features = F.conv2d(features, convolution.weight, convolution.bias, stride=2, padding=1)
        features = normed(features, norm, training)
    count, channels, height, width = features.shape
    queries = features.permute(0, 2, 3, 1).reshape(-1, channels)
    read, nats = read_plainly(queries, detector.memory.items, detector.settings.addressing.temperature)
    features = read.reshape(count, height, width, channels).permute(0, 3, 1, 2)
    *blocks, last = detector.up
    for convolution, norm, _ in blocks:
        weights = convolution.weight, convolution.bias
        features = normed(F.conv_transpose2d(features, *weights, 2, 1, output_padding=1), norm, training)
    return signed, F.conv_transpose2d(features, last.weight, last.bias, 2, 1, output_padding=1), nats


def test_pixels_losses_and_maps_equal_the_plain_ones(encoder: FrozenEncoder, batch: Batch) -> None:
    detector = detector_of(PIXELS, encoder, **SMALL, sigma=1.0)
    terms = detector.train().training_step(batch)
    signed, rebuilt, nats = pixels_plainly(detector, batch.images, training=True)
    assert terms["reconstruction"].item() == pytest.approx(((signed - rebuilt) ** 2).mean().item(), rel=1e-9)
    assert terms["entropy"].item() == pytest.approx(2e-4 * nats.item(), rel=1e-6)
    with torch.no_grad():
        maps = detector.eval().anomaly_maps(batch.images)
        signed, rebuilt, _ = pixels_plainly(detector, batch.images, training=False)
        lengths = torch.sqrt(((signed - rebuilt) ** 2).sum(dim=1))
    torch.testing.assert_close(maps, gaussian_smooth(lengths, 1.0), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(detector.image_scores(maps), maps.mean(dim=(1, 2)))


def test_an_images_score_is_the_mean_or_the_maximum(encoder: FrozenEncoder) -> None:
    maps = torch.tensor([[[1.0, 2.0], [3.0, 6.0]]])
    scores = [float(detector_of(PIXELS, encoder, image_score=rule).image_scores(maps)) for rule in ("mean", "max")]
    assert scores == [3.0, 6.0]


def test_pixels_need_sizes_that_can_be_halved(encoder: FrozenEncoder) -> None:
    with pytest.raises(InputError, match=r"memae: image_size 36 does not fit; use a multiple of 8"):
        detector_of(PIXELS, encoder, **SMALL).anomaly_maps(torch.zeros(1, 3, 36, 36))


def test_features_losses_and_maps_equal_the_plain_ones(encoder: FrozenEncoder, batch: Batch) -> None:
    detector = detector_of(
        FEATURES, encoder, width=6, sigma=2.0, addressing={"items": 15, "temperature": 0.1, "similarity": "cosine"}
    )
    lengths: list[float] = [1.0] * 3

    def plainly(training: bool) -> tuple[Tensor, Tensor, Tensor]:
        levels = encoder(batch.images)
        if training:
            roots = [math.sqrt(float((level**2).mean())) for level in levels]
            lengths[:] = [0.9 * old + 0.1 * new for old, new in zip(lengths, roots, strict=True)]
        size = tuple(levels[1].shape[2:])
        scaled = [level / (length + 1e-6) for level, length in zip(levels, lengths, strict=True)]
        joined = torch.cat([F.interpolate(each, size, mode="bilinear") for each in scaled], dim=1)
        count, channels, height, width = joined.shape
        rows = joined.permute(0, 2, 3, 1).reshape(-1, channels)

        def pointwise(values: Tensor, layers: nn.Sequential) -> Tensor:
            first, norm, _, last = layers
            hidden = (values @ first.weight[:, :, 0, 0].T + first.bias).T[None, :, :, None]
            inner: Tensor = normed(hidden, norm, training)[0, :, :, 0].T
            result: Tensor = inner @ last.weight[:, :, 0, 0].T + last.bias
            return result

        read, nats = read_plainly(pointwise(rows, detector.down), detector.memory.items, 0.1, cosine=True)
        rebuilt = pointwise(read, detector.up)
        return (
            rows,
            rebuilt,
            nats if training else ((rows - rebuilt) ** 2).sum(dim=1).sqrt().reshape(count, height, width),
        )

    terms = detector.train().training_step(batch)
    rows, rebuilt, nats = plainly(training=True)
    assert terms["reconstruction"].item() == pytest.approx(((rows - rebuilt) ** 2).mean().item(), rel=1e-9)
    assert terms["entropy"].item() == pytest.approx(2e-4 * nats.item(), rel=1e-6)
    with torch.no_grad():
        maps, (*_, distances) = detector.eval().anomaly_maps(batch.images), plainly(training=False)
    expected = gaussian_smooth(F.interpolate(distances[:, None], (32, 32), mode="bilinear")[:, 0], 2.0)
    torch.testing.assert_close(maps, expected, rtol=1e-9, atol=1e-9)


def test_cached_features_give_the_same_losses(encoder: FrozenEncoder, batch: Batch) -> None:
    given = Batch(torch.zeros_like(batch.images), batch.categories, features=tuple(encoder(batch.images)))
    losses = [detector_of(FEATURES, encoder, width=6).train().training_step(each) for each in (batch, given)]
    first, second = ({name: term.item() for name, term in terms.items()} for terms in losses)
    assert first == second


def test_a_planted_defect_stands_out_after_training(encoder: FrozenEncoder) -> None:
    """Stripes are learnt; a square of noise is no mixture of stripes."""
    torch.set_default_dtype(torch.float32)
    rows = torch.arange(32).float()
    phases = torch.arange(16).float()[:, None, None]
    stripes = (0.5 + 0.4 * torch.sin(rows[None, None] / 2 + phases)).expand(16, 32, 32)
    images = stripes[:, None].repeat(1, 3, 1, 1)
    detector = detector_of(PIXELS, encoder, widths=[8, 16, 16], addressing={"items": 30}).float().train()
    optimizer = torch.optim.Adam(detector.parameter_groups(5e-3))
    for _ in range(150):
        loss = torch.stack([*detector.training_step(Batch(images, torch.zeros(16).long())).values()]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    defective = images.clone()
    defective[:, :, 12:20, 12:20] = torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        maps = detector.eval().anomaly_maps(defective)
    inside = maps[:, 12:20, 12:20].mean()
    outside = (maps.sum() - maps[:, 8:24, 8:24].sum()) / (16 * (32 * 32 - 16 * 16))
    assert inside > 2 * outside
    assert set(detector.diagnostics()) == {"alive_items", "answered_queries"}
    assert detector.diagnostics()["answered_queries"] > 0.99
