"""PatchCore beside a second, naive implementation: scores, weights, maps, and the bank of a large collection."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn import functional as F

from mddbench.batch import Batch
from mddbench.detector import Detector, load_method
from mddbench.nn.encoder import FrozenEncoder
from mddbench.nn.patches import patch_embeddings
from mddbench.seeding import seed_everything

METHOD = load_method("patchcore")
CATEGORIES = torch.zeros(4, dtype=torch.int64)


def detector_of(encoder: FrozenEncoder, **settings: Any) -> Detector:
    seed_everything(0)
    detector: Detector = METHOD(encoder, METHOD.Settings(**{"width": 40, "projection": 16, **settings}), 2)
    return detector.double()


@pytest.fixture
def encoder() -> FrozenEncoder:
    """Of random weights, in double precision; two levels as the authors'."""
    seed_everything(7)
    return FrozenEncoder("tf_efficientnet_lite0", (2, 3)).double()


@pytest.fixture
def batches() -> list[Batch]:
    generator = torch.Generator().manual_seed(5)
    images = torch.rand(12, 3, 64, 64, generator=generator, dtype=torch.float64)
    return [Batch(part, CATEGORIES) for part in images.split(4)]


@pytest.fixture
def others() -> Tensor:
    return torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(6), dtype=torch.float64)


def trained(detector: Detector, batches: list[Batch]) -> Detector:
    for batch in batches:
        assert detector.training_step(batch) == {}
    detector.finish_training()
    return detector.eval()


def patches_of(detector: Detector, images: Tensor) -> Tensor:
    return patch_embeddings(detector.encoder(images), 40).flatten(0, 2)


def naive_maps(scores: Tensor, grid: int, size: int) -> Tensor:
    maps = F.interpolate(scores.reshape(-1, 1, grid, grid), (size, size), mode="bilinear", align_corners=False)
    return torch.stack([torch.from_numpy(gaussian_filter(one[0].numpy(), sigma=4)) for one in maps])


def test_nothing_is_trained() -> None:
    """24.863 M parameters of WideResNet-50-2 up to its third stage, all of them frozen."""
    with torch.device("meta"):
        detector = METHOD(FrozenEncoder("wide_resnet50_2", (2, 3)), METHOD.Settings(), 15)
    counted = sum(value.numel() for value in detector.parameters())
    assert round(counted / 1e6, 3) == 24.863
    assert not any(value.requires_grad for value in detector.parameters())
    assert detector.bank.shape == (1, 1024)
    assert detector.projection.shape == (1024, 128)


@pytest.mark.parametrize("neighbours", [1, 9])
def test_maps_equal_the_naive_ones(
    encoder: FrozenEncoder, batches: list[Batch], others: Tensor, neighbours: int
) -> None:
    detector = trained(detector_of(encoder, coreset=0.3, neighbours=neighbours), batches)
    bank, scores = detector.bank, []
    assert len(bank) == int(0.3 * 12 * 64)
    for patch in patches_of(detector, others):
        distances = torch.stack([(patch - each).pow(2).sum().sqrt() for each in bank])
        star = int(distances.argmin())
        weight = 1.0
        if neighbours > 1:
            around = (bank - bank[star]).norm(dim=1).argsort()[:neighbours]
            weight = 1 - distances[star].exp() / sum(distances[each].exp() for each in around)
        scores.append(weight * distances[star] ** 2)
    expected = naive_maps(torch.stack(scores), 8, 64)
    maps = detector.anomaly_maps(others)
    torch.testing.assert_close(maps, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(detector.image_scores(maps), expected.flatten(1).amax(dim=1), rtol=1e-9, atol=1e-9)


def test_a_full_bank_knows_its_images(encoder: FrozenEncoder, batches: list[Batch], others: Tensor) -> None:
    detector = trained(detector_of(encoder, coreset=1.0), batches)
    assert torch.equal(detector.bank, torch.cat([patches_of(detector, batch.images) for batch in batches]))
    assert detector.anomaly_maps(batches[1].images).max() < 1e-12
    assert detector.anomaly_maps(others).amax(dim=(1, 2)).min() > 1e-6


@pytest.mark.parametrize("projection", [16, 40, 1000, None])
def test_the_bank_is_a_part_of_the_patches(
    encoder: FrozenEncoder, batches: list[Batch], projection: int | None
) -> None:
    detector = trained(detector_of(encoder, projection=projection), batches)
    assert (detector.projection is None) == (projection != 16)
    patches = torch.cat([patches_of(detector, batch.images) for batch in batches])
    distances = torch.cdist(detector.bank, patches, compute_mode="donot_use_mm_for_euclid_dist")
    assert distances.amin(dim=1).max() == 0
    assert len(set(distances.argmin(dim=1).tolist())) == len(detector.bank) == 76


def test_a_collection_that_fits_is_not_thinned_before_the_end(encoder: FrozenEncoder, batches: list[Batch]) -> None:
    plain = trained(detector_of(encoder), batches).bank
    assert torch.equal(trained(detector_of(encoder, most_patches=768), batches).bank, plain)
    assert torch.equal(trained(detector_of(encoder, most_patches=767), batches).bank, plain), "thinned at the end, too"
    assert not torch.equal(trained(detector_of(encoder, most_patches=511), batches).bank, plain)


@pytest.mark.parametrize(("share", "most", "kept"), [(0.1, 300, 30), (0.5, 256, 128), (1.0, 256, 128)])
def test_a_larger_collection_stays_within_its_bounds(
    encoder: FrozenEncoder, batches: list[Batch], share: float, most: int, kept: int
) -> None:
    detector = detector_of(encoder, coreset=share, most_patches=most)
    for batch in batches:
        detector.training_step(batch)
        held = sum(map(len, detector._patches))
        assert held <= most
        assert held == sum(map(len, detector._projected))
    detector.finish_training()
    assert detector.bank.shape == (kept, 40)
    patches = torch.cat([patches_of(detector, batch.images) for batch in batches])
    nearest = torch.cdist(detector.bank, patches, compute_mode="donot_use_mm_for_euclid_dist").min(dim=1)
    assert nearest.values.max() == 0
    assert nearest.indices.max() >= 512, "the last batch is in it, too"
    assert not detector._patches
    assert not detector._projected


def test_a_saved_bank_of_any_size_is_loaded(encoder: FrozenEncoder, batches: list[Batch], others: Tensor) -> None:
    detector = trained(detector_of(encoder), batches)
    assert set(detector.learned_state()) == {"bank"}
    other = detector_of(encoder).eval()
    other.load_learned_state(detector.learned_state())
    assert torch.equal(other.anomaly_maps(others), detector.anomaly_maps(others))


def test_cells_that_score_in_another_way_share_a_bank() -> None:
    usual = METHOD.training_settings(METHOD.Settings())
    assert METHOD.training_settings(METHOD.Settings(neighbours=9, sigma=0.0)) == usual
    assert METHOD.training_settings(METHOD.Settings(coreset=0.2)) != usual


@pytest.mark.parametrize(
    ("name", "levels", "size"),
    [("vit_tiny_patch16_224", (5, 11), 96), ("swin_tiny_patch4_window7_224", (0, 1, 2), 224), ("resnet18", (1,), 72)],
)
def test_any_encoder_and_size_will_do(name: str, levels: tuple[int, ...], size: int) -> None:
    detector = METHOD(FrozenEncoder(name, levels), METHOD.Settings(width=32, projection=8), 1)
    with torch.inference_mode():
        images = torch.rand(2, 3, size, size).to(memory_format=torch.channels_last)
        maps = trained(detector, [Batch(images, CATEGORIES[:2])]).anomaly_maps(images)
    assert maps.shape == (2, size, size)
    assert torch.isfinite(maps).all()


def test_the_memory_of_the_collection_is_known_before(encoder: FrozenEncoder) -> None:
    detector = METHOD(encoder, METHOD.Settings(width=64, projection=16), 2)
    grid = 64 // encoder.strides[0]
    assert detector.collected_bytes(10, 64) == 4 * 10 * grid**2 * (64 + 3 * 16)
    assert detector.collected_bytes(10**9, 64) == 4 * 1_000_000 * (64 + 3 * 16)


def test_the_work_of_a_coreset_is_told_before(encoder: FrozenEncoder) -> None:
    """Quadratic in the patches until the collection is full, then linear: one coreset of a full collection after another."""
    detector = detector_of(encoder, coreset=0.25, most_patches=4000)
    grid = (64 // encoder.strides[0]) ** 2
    assert detector.growing_work(10, 64) == (0.25 * (10 * grid) ** 2, 0.25 * 10 * grid)
    full = 4000 // grid
    for images in (4 * full, 8 * full, 16 * full):
        work, bank = detector.growing_work(images, 64)
        assert bank == 1000
        assert work == pytest.approx((images * grid - 1000) / 3000 * 0.25 * 4000**2)
