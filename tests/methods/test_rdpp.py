"""RD++: its counts, its noise beside naive noise, its terms, and the term that it leaves out.

tests/methods/test_plain.py holds losses, gradient and maps against a plain network.
"""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from authors_networks import students, unlike
from mddbench.batch import Batch
from mddbench.detector import Detector, load_method
from mddbench.engine.optimizer import make_optimizer
from mddbench.errors import InputError
from mddbench.experiments.schema import OptimizerSettings
from mddbench.nn.encoder import FrozenEncoder
from mddbench.nn.simplex import NoiseSettings, lattice, octave_noise, octave_on_pixels, simplex_noise, with_noise_patch
from mddbench.seeding import seed_everything

METHOD = load_method("rdpp")
CATEGORIES = torch.tensor([0, 0, 1, 1])


@pytest.fixture
def detector(encoder: FrozenEncoder) -> Detector:
    seed_everything(0)
    return METHOD(encoder, METHOD.Settings(decoder_blocks=(1, 1, 1)), 2)


def millions(module: nn.Module) -> float:
    return sum(value.numel() for value in module.parameters() if value.requires_grad) / 1e6


def test_parameters_match_the_published_counts() -> None:
    """15.487 M in the projections of WideResNet-50-2's levels; 96.10 M in all of ADer's variant, source: ADer's log."""
    with torch.device("meta"):
        teacher = FrozenEncoder("wide_resnet50_2", (1, 2, 3))
        authors = METHOD(teacher, METHOD.Settings(), 15)
        ader = METHOD(teacher, METHOD.Settings(bottleneck_width=64), 15)
    assert teacher.channels == (256, 512, 1024)
    assert sum(map(millions, authors.projections)) == pytest.approx(15.487, abs=5e-4)
    assert millions(authors) == pytest.approx(15.487 + 58.885 + 24.918, abs=2e-3)
    assert sum(value.numel() for value in ader.parameters()) / 1e6 == pytest.approx(96.10, abs=5e-3)


# The noise


def naive_noise(position: list[float], direction: Any) -> float:
    """By the definition: over all lattice points that could matter, with no cell to start from."""
    total = 0.0
    for i, j, k in product(range(-4, 9), repeat=3):
        third = (i + j + k) / 3
        offset = [position[0] - i - third, position[1] - j - third, position[2] - k - third]
        left = 2 - sum(part * part for part in offset)
        if left > 0:
            total += left**4 * sum(a * b for a, b in zip(offset, direction(i, j, k), strict=True)) / 103
    return total


def some_direction(i: int, j: int, k: int) -> tuple[float, float, float]:
    """Another one at each lattice point."""
    phase = 1.7 * i + 2.9 * j + 4.3 * k
    return 11 * math.sin(phase), 11 * math.cos(2 * phase), 11 * math.sin(3 * phase + 1)


def test_noise_at_a_position_is_what_its_definition_says() -> None:
    positions = torch.rand(12, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    positions[0] = torch.tensor([1.0, 2.0, 0.0])  # on the border of cells
    points, weights = lattice(positions)
    directions = [[some_direction(*point) for point in near] for near in points.tolist()]
    found = (weights * torch.tensor(directions, dtype=torch.float64)).sum(dim=(1, 2))
    expected = torch.tensor([naive_noise(one, some_direction) for one in positions.tolist()], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert expected.abs().max() > 0.1


def test_an_octave_is_the_noise_at_its_pixels_and_colours() -> None:
    """With one direction at every lattice point there is nothing but the positions to get wrong."""
    side, scale, wavelength = 3, 0.5, 8.0
    octave = octave_on_pixels(side, scale, wavelength, torch.float64, torch.device("cpu"))
    direction = (11.0, -4.0, 4.0)
    noise = octave_noise(octave, torch.tensor(direction, dtype=torch.float64).expand(2, octave.points, 3))
    for number, (colour, row, column) in enumerate(product(range(3), range(side), range(side))):
        place = [column / (scale * wavelength), row / (scale * wavelength), colour / wavelength]
        assert noise[0, number].item() == pytest.approx(naive_noise(place, lambda *_: direction), abs=1e-12)
    assert torch.equal(noise[0], noise[1])


def test_the_noise_has_the_spread_and_the_smoothness_of_its_octaves() -> None:
    """Octaves are independent, so their variances add up; the first one alone hardly differs from a pixel to the next."""
    seed_everything(0)
    like = torch.zeros((), dtype=torch.float64)
    one = simplex_noise(400, 20, 1.0, NoiseSettings(octaves=1, wavelength=32.0), like)
    all_six = simplex_noise(400, 20, 1.0, NoiseSettings(), like)
    assert one.std().item() == pytest.approx(0.31, abs=0.03)
    assert one.abs().max() <= 1.0
    assert (one[..., 1:] - one[..., :-1]).std() < 0.1 * one.std()
    expected = one.std() * math.sqrt(sum(0.6 ** (2 * number) for number in range(6)))
    assert all_six.std().item() == pytest.approx(expected.item(), rel=0.08)
    assert not torch.equal(one[0], one[1])


@pytest.mark.parametrize(("size", "least", "greatest"), [(256, 10, 31), (128, 5, 16), (64, 2, 8)])
def test_a_patch_is_one_rectangle_within_the_image(size: int, least: int, greatest: int) -> None:
    seed_everything(0)
    images = torch.full((200, 3, size, size), 0.5)
    changed = (with_noise_patch(images, NoiseSettings()) != images).any(dim=1)
    heights, widths = (changed.any(dim=axis).sum(dim=1) for axis in (2, 1))
    assert torch.equal(changed.sum(dim=(1, 2)), heights * widths)  # a rectangle, without a gap
    for sides in (heights, widths):
        assert (int(sides.min()), int(sides.max())) == (least, greatest)
    for edge in (changed[:, 0], changed[:, -1], changed[:, :, 0], changed[:, :, -1]):
        assert not edge.any()


def test_the_noise_scales_with_the_image() -> None:
    """Twice the image has the same noise on twice the pixels."""
    small, large = (simplex_at(side, scale) for side, scale in ((4, 0.5), (8, 1.0)))
    torch.testing.assert_close(small, large[..., ::2, ::2])


def simplex_at(side: int, scale: float) -> Tensor:
    octave = octave_on_pixels(side, scale, 32.0, torch.float64, torch.device("cpu"))
    directions = torch.tensor([11.0, 4.0, -4.0], dtype=torch.float64).expand(1, octave.points, 3)
    return octave_noise(octave, directions).reshape(3, side, side)


def test_noise_is_added_before_the_encoders_normalisation(
    detector: Detector, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The encoder sees the noisy images as they are, beyond 0 and 1, and the unchanged ones unless they are cached."""
    seen: list[Tensor] = []
    forward = FrozenEncoder.forward
    monkeypatch.setattr(
        FrozenEncoder, "forward", lambda encoder, given: (seen.append(given), forward(encoder, given))[1]
    )
    bright = images.clamp_min(0.9)
    given = tuple(forward(detector.encoder, bright))
    seed_everything(0)
    with_cache = detector.training_step(Batch(bright, CATEGORIES, features=given))
    assert len(seen) == 1
    assert not torch.equal(seen[0], bright)
    assert seen[0].max() > 1.0
    seed_everything(0)
    without = detector.training_step(Batch(bright, CATEGORIES))
    assert len(seen) == 3
    assert with_cache == without


# The terms


def sinkhorn_divergence(ones: Tensor, others: Tensor, blur: float = 0.05) -> float:
    """Debiased entropic transport cost of |x - y|^2 / 2 between even point sets, naively: alternating updates."""

    def cost(a: Tensor, b: Tensor) -> float:
        distances, epsilon = torch.cdist(a, b).square() / 2, blur**2
        f, g = torch.zeros(len(a)), torch.zeros(len(b))
        for _ in range(300):
            f = -epsilon * torch.logsumexp((g - distances) / epsilon - math.log(len(b)), dim=1)
            g = -epsilon * torch.logsumexp((f[:, None] - distances) / epsilon - math.log(len(a)), dim=0)
        return float(f.mean() + g.mean())

    return cost(ones, others) - (cost(ones, ones) + cost(others, others)) / 2


def test_the_term_that_is_left_out_is_zero() -> None:
    """The authors compare a batch with its permutation, which is the same set of points."""
    generator = torch.Generator().manual_seed(0)
    batch, other = torch.rand(2, 8, 24, generator=generator, dtype=torch.float64)
    shuffled = batch[torch.randperm(8, generator=generator)]
    assert not torch.equal(shuffled, batch)
    assert abs(sinkhorn_divergence(batch, shuffled)) < 1e-12
    assert sinkhorn_divergence(batch, other) > 0.1


def test_terms_are_torchs_losses_with_the_authors_weights(detector: Detector, images: Tensor) -> None:
    """0.2 times the sum of 0.01 reconstruction and 0.1 contrast, divided by 1.11."""
    detector, images = detector.double(), images.double()
    seed_everything(3)
    noisy = detector.encoder(with_noise_patch(images, NoiseSettings()))
    seed_everything(3)
    terms = {name: term.item() for name, term in detector.training_step(Batch(images, CATEGORIES)).items()}
    reconstruction = contrast = 0.0
    cosine, beyond = nn.CosineSimilarity(dim=1), nn.CosineEmbeddingLoss(margin=0.5)
    with torch.no_grad():
        for projection, normal, other in zip(detector.projections, detector.encoder(images), noisy, strict=True):
            projected = projection(normal)
            reconstruction += (1 - cosine(projected, projection(other))).mean().item()
            contrast += beyond(other.flatten(1), projected.flatten(1), -torch.ones(len(images))).item()
    assert terms["reconstruction"] == pytest.approx(0.2 * 0.01 * reconstruction / 1.11, rel=1e-9)
    assert terms["contrast"] == pytest.approx(0.2 * 0.1 * contrast / 1.11, rel=1e-9, abs=1e-12)
    assert reconstruction > 0
    detector.float()


def test_similar_features_cost_what_exceeds_the_margin() -> None:
    similarity = METHOD.training_step.__globals__["excess_similarity"]
    one = torch.tensor([[[[1.0]], [[0.0]]], [[[1.0]], [[1.0]]]])
    same, across = [one, one], [one, one.flip(0)]
    assert similarity(same, same, 0.5).item() == pytest.approx(1.0)  # two levels, each 1 - 0.5
    assert similarity(same, across, 0.5).item() == pytest.approx(0.5 + math.sqrt(0.5) - 0.5)
    assert similarity(same, same, 1.0).item() == pytest.approx(0.0, abs=1e-6)


def test_projections_have_a_rate_of_their_own(detector: Detector) -> None:
    """0.001 beside 0.005, as in the authors' script; every trained parameter is in one group."""
    optimizer = make_optimizer(detector, OptimizerSettings(name="adam", lr=0.005, betas=(0.5, 0.999)))
    assert optimizer is not None
    first, second = optimizer.param_groups
    assert (first["lr"], second["lr"]) == pytest.approx((0.001, 0.005))
    assert {id(value) for value in first["params"]} == {id(value) for value in detector.projections.parameters()}
    trained = [id(value) for value in detector.parameters() if value.requires_grad]
    assert sorted(id(value) for group in (first, second) for value in group["params"]) == sorted(trained)


def test_narrow_levels_have_projections_of_a_least_width(detector: Detector) -> None:
    """24 channels would leave 6 in the middle; at the published widths the setting changes nothing."""
    widths = [[layer.out_channels for layer in projection.body[::3]] for projection in detector.projections]
    assert widths == [[12, 8, 12, 24], [20, 10, 20, 40], [56, 28, 56, 112]]


def test_a_file_of_the_authors_is_read() -> None:
    """Its names: `bn` and `decoder` as RD4AD's, and `proj_a` to `proj_c` for the levels, each a sequence called `proj`."""
    seed_everything(0)
    bn, decoder = (unlike(part.double().eval()) for part in students("resnet18"))
    proj = nn.Module()
    for letter, width in zip("abc", (64, 128, 256), strict=True):
        part = nn.Module()
        part.proj = nn.Sequential(*[
            layer
            for channels, out in (
                (width, width // 2),
                (width // 2, width // 4),
                (width // 4, width // 2),
                (width // 2, width),
            )
            for layer in (nn.Conv2d(channels, out, 3, 1, 1), nn.InstanceNorm2d(out), nn.LeakyReLU())
        ])
        proj.add_module(f"proj_{letter}", part.double())
    detector = METHOD(FrozenEncoder("resnet18", (1, 2, 3)), METHOD.Settings(), 2).double().eval()
    content = {"proj": proj.state_dict(), "decoder": decoder.state_dict(), "bn": bn.state_dict()}
    detector.load_authors_state(content, "file.pth")
    levels = [torch.rand(2, c, s, s, dtype=torch.float64) for c, s in ((64, 8), (128, 4), (256, 2))]
    with torch.inference_mode():
        own = detector.decoder(detector.bottleneck(detector._projected(levels)))
        parts = (proj.proj_a, proj.proj_b, proj.proj_c)
        theirs = decoder(bn([part.proj(level) for part, level in zip(parts, levels, strict=True)]))
    for one, other in zip(own, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9 * float(other.abs().max()))
    del content["proj"]
    with pytest.raises(InputError, match=r"lacks 'proj\.proj_a\.proj\.0\.weight'"):
        detector.load_authors_state(content, "file.pth")


@pytest.mark.parametrize(("name", "levels"), [("resnet18", (1, 2)), ("resnet18", (1, 2, 4))])
def test_other_pyramids_are_refused(name: str, levels: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="rdpp: expected an encoder with three levels"):
        METHOD(FrozenEncoder(name, levels), METHOD.Settings(), 2)


def test_an_image_size_that_does_not_fit_is_said(detector: Detector) -> None:
    with pytest.raises(InputError, match="rdpp: image_size 100 does not fit; use a multiple of 32"):
        detector.eval().anomaly_maps(torch.rand(1, 3, 100, 100))


def test_weights_that_are_all_zero_are_refused(encoder: FrozenEncoder) -> None:
    nothing = METHOD.Settings(transport_weight=0.0, reconstruction_weight=0.0, contrast_weight=0.0)
    with pytest.raises(InputError, match="are all 0; expected one above 0"):
        METHOD(encoder, nothing, 2)


def test_sides_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="expected least <= greatest < 256"):
        NoiseSettings(sides=(31, 10))
