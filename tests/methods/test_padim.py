"""PaDiM beside a second, naive implementation: NumPy's covariance and a loop over positions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import mahalanobis
from torch import Tensor
from torch.nn import functional as F

from mddbench.batch import Batch
from mddbench.detector import Detector, load_method
from mddbench.errors import InputError
from mddbench.nn.encoder import FrozenEncoder
from mddbench.seeding import seed_everything

METHOD = load_method("padim")
CATEGORIES = torch.zeros(5, dtype=torch.int64)


@pytest.fixture
def encoder() -> FrozenEncoder:
    """Of random weights, in double precision."""
    seed_everything(7)
    return FrozenEncoder("tf_efficientnet_lite0", (1, 2, 3)).double()


@pytest.fixture
def batches() -> list[Batch]:
    images = torch.rand(14, 3, 64, 64, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return [Batch(part, CATEGORIES[: len(part)]) for part in images.split(5)]


@pytest.fixture
def others() -> Tensor:
    return torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(6), dtype=torch.float64)


def trained(encoder: FrozenEncoder, batches: list[Batch], **settings: Any) -> Detector:
    detector: Detector = METHOD(encoder, METHOD.Settings(**{"channels": 12, **settings}), 2).double()
    for batch in batches:
        assert detector.training_step(batch) == {}
    detector.finish_training()
    return detector.eval()


def naive_features(detector: Detector, images: Tensor) -> np.ndarray:
    """(B, C, H, W): each deeper number is repeated where its cell lies; all channels."""
    first, *deeper = detector.encoder(images)
    repeated = [
        level.repeat_interleave(2 ** (n + 1), 2).repeat_interleave(2 ** (n + 1), 3) for n, level in enumerate(deeper)
    ]
    return torch.cat([first, *repeated], dim=1).numpy()


def test_nothing_is_trained() -> None:
    """31.7 M numbers for ResNet-18 and 950 M for WideResNet-50-2 on the paper's grid of 56 x 56, for 100 and 550 channels."""
    for name, channels, millions in (("resnet18", 100, 31.7), ("wide_resnet50_2", 550, 950.4)):
        with torch.device("meta"):
            encoder = FrozenEncoder(name, (1, 2, 3))
        detector = METHOD(encoder, METHOD.Settings(channels=channels), 15)
        assert not any(value.requires_grad for value in detector.parameters())
        numbers = 56 * 56 * (detector.mean[0].numel() + detector.whitening[0].numel())
        assert numbers / 1e6 == pytest.approx(millions, rel=2e-3)


def test_gaussians_and_maps_equal_the_naive_ones(encoder: FrozenEncoder, batches: list[Batch], others: Tensor) -> None:
    detector = trained(encoder, batches)
    chosen = detector.chosen.numpy()
    images = torch.cat([batch.images for batch in batches])
    normal, test = naive_features(detector, images)[:, chosen], naive_features(detector, others)[:, chosen]
    distances = np.zeros((3, 16, 16))
    for row in range(16):
        for column in range(16):
            here = normal[:, :, row, column]
            mean, covariance = here.mean(axis=0), np.cov(here, rowvar=False) + 0.01 * np.identity(12)
            position = 16 * row + column
            np.testing.assert_allclose(detector.mean[position].numpy(), mean, rtol=1e-9, atol=1e-9)
            inverse = detector.whitening[position].T @ detector.whitening[position]
            np.testing.assert_allclose(inverse.numpy() @ covariance, np.identity(12), atol=1e-9)
            for image in range(3):
                distances[image, row, column] = mahalanobis(
                    test[image, :, row, column], mean, np.linalg.inv(covariance)
                )
    resized = F.interpolate(torch.from_numpy(distances)[:, None], 64, mode="bilinear", align_corners=False)[:, 0]
    expected = torch.stack([torch.from_numpy(gaussian_filter(one.numpy(), sigma=4)) for one in resized])
    maps = detector.anomaly_maps(others)
    torch.testing.assert_close(maps, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(detector.image_scores(maps), expected.flatten(1).amax(dim=1), rtol=1e-9, atol=1e-9)


def test_batches_and_their_order_do_not_matter(encoder: FrozenEncoder, batches: list[Batch], others: Tensor) -> None:
    whole = Batch(torch.cat([batch.images for batch in reversed(batches)]), CATEGORIES)
    one, other = (trained(encoder, each).anomaly_maps(others) for each in (batches, [whole]))
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_the_score_does_not_depend_on_the_order_of_channels(
    encoder: FrozenEncoder, batches: list[Batch], others: Tensor
) -> None:
    detector: Detector = METHOD(encoder, METHOD.Settings(channels=12), 2).double()
    detector.chosen = detector.chosen.flip(0)
    for batch in batches:
        detector.training_step(batch)
    detector.finish_training()
    expected = trained(encoder, batches).anomaly_maps(others)
    torch.testing.assert_close(detector.anomaly_maps(others), expected, rtol=1e-9, atol=1e-9)


def test_channels_are_those_of_their_own_seed(encoder: FrozenEncoder) -> None:
    def chosen(seed: int, **settings: Any) -> list[int]:
        seed_everything(seed)
        indices: list[int] = METHOD(encoder, METHOD.Settings(**settings), 2).chosen.tolist()
        return indices

    assert chosen(0, channels=64) == chosen(1, channels=64)
    assert chosen(0, channels=64) != chosen(0, channels=64, channel_seed=1)
    assert len(set(chosen(0, channels=64))) == 64
    assert chosen(0, channels=None) == list(range(176))


def test_features_far_from_zero_lose_nothing(encoder: FrozenEncoder, batches: list[Batch]) -> None:
    """The sums are in double precision also where the features are in single."""
    detector: Detector = METHOD(encoder.float(), METHOD.Settings(channels=4), 2)
    features = 300 + torch.randn(40, 4, 2, generator=torch.Generator().manual_seed(0))
    for part in features.split(8):
        detector._add(part)
    detector.finish_training()
    for position in range(2):
        expected = np.cov(features[:, :, position].double().numpy(), rowvar=False) + 0.01 * np.identity(4)
        whitening = detector.whitening[position].double()
        np.testing.assert_allclose((whitening.T @ whitening).numpy() @ expected, np.identity(4), atol=1e-4)


def test_gaussians_are_saved_and_loaded(encoder: FrozenEncoder, batches: list[Batch], others: Tensor) -> None:
    detector = trained(encoder, batches)
    assert set(detector.learned_state()) == {"mean", "whitening"}
    other: Detector = METHOD(encoder, METHOD.Settings(channels=12), 2).eval()
    other.load_learned_state(detector.learned_state())
    assert torch.equal(other.anomaly_maps(others), detector.anomaly_maps(others))


def test_what_cannot_work_is_one_line(encoder: FrozenEncoder, batches: list[Batch]) -> None:
    with pytest.raises(InputError, match=r"expected at most 176 channels, .*; found 177; lower") as fault:
        METHOD(encoder, METHOD.Settings(channels=177), 2)
    assert "\n" not in str(fault.value)
    with pytest.raises(InputError, match="no images to learn from"):
        METHOD(encoder, METHOD.Settings(channels=4), 2).finish_training()
    detector = trained(encoder, batches)
    with pytest.raises(InputError, match="with 256 positions; found 96x96 pixels, with 576") as fault:
        detector.anomaly_maps(torch.rand(1, 3, 96, 96, dtype=torch.float64))
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize(
    ("name", "levels", "size"),
    [("vit_tiny_patch16_224", (5, 11), 96), ("swin_tiny_patch4_window7_224", (0, 2), 224), ("resnet18", (1, 2), 72)],
)
def test_any_encoder_and_size_will_do(name: str, levels: tuple[int, ...], size: int) -> None:
    images = torch.rand(2, 3, size, size).to(memory_format=torch.channels_last)
    detector: Detector = METHOD(FrozenEncoder(name, levels), METHOD.Settings(channels=8), 1)
    detector.training_step(Batch(images, CATEGORIES[:2]))
    detector.finish_training()
    with torch.inference_mode():
        maps = detector.eval().anomaly_maps(images)
    assert maps.shape == (2, size, size)
    assert torch.isfinite(maps).all()


def test_the_memory_of_the_sums_is_known_before(encoder: FrozenEncoder) -> None:
    detector = METHOD(encoder, METHOD.Settings(channels=8), 2)
    assert detector.collected_bytes(10, 64) == 12 * (64 // encoder.strides[0]) ** 2 * 8**2
