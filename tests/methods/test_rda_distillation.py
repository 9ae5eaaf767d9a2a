"""Distillation with RDA's loss: a plain twin, what prototypes are, and what the loss does at its edges."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from mddbench.baselines.rda_distillation import contrast, misalignment
from mddbench.batch import Batch
from mddbench.detector import Detector, load_method
from mddbench.errors import InputError
from mddbench.nn.encoder import FrozenEncoder
from mddbench.nn.smoothing import gaussian_smooth
from mddbench.seeding import seed_everything
from mddbench.settings import validated

pytestmark = pytest.mark.usefixtures("double_by_default")
METHOD = load_method("rda_distillation")
SMALL = {"bottleneck_width": 8, "decoder_blocks": [1, 1, 1], "rectified": False, "positions": 12}
VIEWS = ["mirrored", "upside_down", "shifted"]


@pytest.fixture
def encoder() -> FrozenEncoder:
    seed_everything(7)
    return FrozenEncoder("tf_efficientnet_lite0", (1, 2, 3)).double()


@pytest.fixture
def batch() -> Batch:
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return Batch(images, torch.zeros(3, dtype=torch.int64))


def detector_of(encoder: FrozenEncoder, **settings: object) -> Detector:
    seed_everything(0)
    return METHOD(encoder, validated(METHOD.Settings, {**SMALL, **settings}, "test"), 2).double()


def unit(vector: Tensor) -> Tensor:
    return vector / math.hypot(*vector.tolist())


def plain_prototypes(encoder: FrozenEncoder, image: Tensor, views: list[str]) -> list[Tensor]:
    """Position by position: where it lies in each view of one image, and the mean of the vectors there."""
    whole = [image]
    for view in views:
        turned = torch.zeros_like(image)
        for y in range(64):
            for x in range(64):
                to = {"mirrored": (y, 63 - x), "upside_down": (63 - y, x), "shifted": ((y + 16) % 64, (x + 16) % 64)}
                turned[:, to[view][0], to[view][1]] = image[:, y, x]
        whole.append(turned)
    levels = [encoder(each[None]) for each in whole]
    found = []
    for number, first in enumerate(levels[0]):
        side, mean = first.shape[2], torch.zeros_like(first[0])
        for y in range(side):
            for x in range(side):
                move = side // 4
                to = {
                    "mirrored": (y, side - 1 - x),
                    "upside_down": (side - 1 - y, x),
                    "shifted": ((y + move) % side, (x + move) % side),
                }
                places = [(y, x), *(to[view] for view in views)]
                vectors = [unit(level[number][0, :, a, b]) for level, (a, b) in zip(levels, places, strict=True)]
                mean[:, y, x] = sum(vectors) / len(vectors)
        found.append(mean)
    return found


def plain_losses(student: list[Tensor], prototypes: list[Tensor]) -> tuple[float, float]:
    """The authors' two terms by exponentials, pair by pair, and their added floor."""
    contrasts, alignments = [], []
    for index, (own, wanted) in enumerate(zip(student, prototypes, strict=True)):
        others = 0.0
        for other, (found, prototype) in enumerate(zip(student, prototypes, strict=True)):
            if other != index:
                others += math.exp(float(own @ prototype) / 0.07) + math.exp(float(own @ found) / 0.07)
        contrasts.append(-math.log(math.exp(float(own @ wanted) / 0.07) / others))
        distance = float(((own - wanted) ** 2).sum())
        cosine = float(own @ wanted) / math.hypot(*wanted.tolist())
        alignments.append(-math.log((1 + cosine + 0.001) / (distance + 0.001)))
    return sum(contrasts) / len(contrasts), sum(alignments) / len(alignments)


@pytest.mark.parametrize("views", [[], ["mirrored", "shifted"], VIEWS])
def test_losses_equal_the_plain_ones(encoder: FrozenEncoder, batch: Batch, views: list[str]) -> None:
    detector = detector_of(encoder, views=views, alignment=0.5).train()
    with torch.no_grad():
        teacher = encoder(batch.images)
        rebuilt = detector.decoder(detector.bottleneck(teacher))
        prototypes = [plain_prototypes(encoder, image, views) for image in batch.images]
        terms: list[tuple[float, float]] = []
        torch.manual_seed(3)
        for level, last in enumerate(detector.signed):
            features = last(rebuilt[level])
            side = features.shape[2]
            places = [(i, y, x) for i in range(3) for y in range(side) for x in range(side)]
            drawn = [places[number] for number in torch.randperm(len(places))[:12].tolist()]
            student = [unit(features[i, :, y, x]) for i, y, x in drawn]
            terms.append(plain_losses(student, [prototypes[i][level][:, y, x] for i, y, x in drawn]))
    torch.manual_seed(3)
    found = {name: term.item() for name, term in detector.training_step(batch).items()}
    expected = {
        "contrast": sum(first for first, _ in terms) / 3,
        "alignment": 0.5 * sum(second for _, second in terms) / 3,
    }
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("compared", ["teacher", "prototype"])
def test_maps_equal_the_plain_ones(encoder: FrozenEncoder, batch: Batch, compared: str) -> None:
    detector = detector_of(encoder, compared=compared, sigma=1.0).eval()
    with torch.no_grad():
        maps, expected = detector.anomaly_maps(batch.images[:1]), torch.zeros(1, 64, 64)
        teacher = encoder(batch.images[:1])
        rebuilt = detector.decoder(detector.bottleneck(teacher))
        prototypes = plain_prototypes(encoder, batch.images[0], ["mirrored", "shifted"])
        for level, last in enumerate(detector.signed):
            targets = prototypes[level] if compared == "prototype" else teacher[level][0]
            features = last(rebuilt[level])[0]
            side = features.shape[1]
            cosines = [[unit(features[:, y, x]) @ unit(targets[:, y, x]) for x in range(side)] for y in range(side)]
            grid = 1 - torch.tensor(cosines)[None, None]
            expected += F.interpolate(grid, (64, 64), mode="bilinear", align_corners=True)[:, 0]
    torch.testing.assert_close(maps, gaussian_smooth(expected, 1.0), rtol=1e-9, atol=1e-9)


def test_a_mirrored_image_has_mirrored_prototypes(encoder: FrozenEncoder, batch: Batch) -> None:
    """Whatever the network. Without the view this holds for none of the levels."""
    for views, same in ((["mirrored"], True), ([], False)):
        detector = detector_of(encoder, views=views)
        images = [batch.images, batch.images.flip(3)]
        first, second = (detector._prototypes(each, encoder(each)) for each in images)
        for one, other in zip(first, second, strict=True):
            assert torch.allclose(one, other.flip(3), atol=1e-12) == same


def test_prototypes_are_shorter_where_views_disagree(encoder: FrozenEncoder, batch: Batch) -> None:
    lengths = {}
    for views in ((), ("mirrored",)):
        prototypes = detector_of(encoder, views=views)._prototypes(batch.images, encoder(batch.images))
        lengths[views] = torch.cat([each.norm(dim=1).flatten() for each in prototypes])
    torch.testing.assert_close(lengths[()], torch.ones_like(lengths[()]))
    assert lengths["mirrored",].max() <= 1 + 1e-12
    assert lengths["mirrored",].mean() < 0.99


@settings(deadline=None, max_examples=20)
@given(count=st.integers(2, 9), channels=st.integers(2, 6), seed=st.integers(0, 2**31))
def test_the_loss_has_the_properties_of_its_definition(count: int, channels: int, seed: int) -> None:
    """It does not depend on the order of pairs or on the axes, and no student is better aligned than the prototypes."""
    generator = torch.Generator().manual_seed(seed)
    student, prototypes = (
        F.normalize(torch.randn(count, channels, generator=generator, dtype=torch.float64), dim=1) for _ in range(2)
    )
    order = torch.randperm(count, generator=generator)
    axes = torch.linalg.qr(torch.randn(channels, channels, generator=generator, dtype=torch.float64)).Q
    for loss, number in ((contrast, 0.07), (misalignment, 0.001)):
        value = float(loss(student, prototypes, number))
        assert float(loss(student[order], prototypes[order], number)) == pytest.approx(value, rel=1e-9, abs=1e-9)
        assert float(loss(student @ axes, prototypes @ axes, number)) == pytest.approx(value, rel=1e-9, abs=1e-9)
    least = math.log(0.001 / 2.001)
    assert float(misalignment(prototypes, prototypes, 0.001)) == pytest.approx(least, rel=1e-9)
    assert float(misalignment(student, prototypes, 0.001)) >= least


def test_no_distance_gives_a_finite_gradient() -> None:
    """At a distance of 0, and of vectors that point in opposite directions."""
    prototypes = F.normalize(torch.randn(4, 3), dim=1)
    for sign in (1.0, -1.0):
        student = (sign * prototypes).requires_grad_()
        loss = misalignment(student, prototypes, 0.001) + contrast(student, prototypes, 0.07)
        (gradient,) = torch.autograd.grad(loss, student)
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient).all()


def test_learning_lowers_the_map_of_what_was_learnt(encoder: FrozenEncoder, batch: Batch) -> None:
    """The map falls on the training images, and stays higher where noise is pasted into them."""
    detector = detector_of(encoder, bottleneck_width=64, positions=128, views=[]).train()
    images = 0.4 + 0.1 * batch.images
    defective = images.clone()
    defective[:, :, 16:40, 16:40] = torch.rand(3, 3, 24, 24, generator=torch.Generator().manual_seed(1))

    def means(of: Tensor) -> float:
        with torch.inference_mode():
            return float(detector.eval().anomaly_maps(of)[:, 16:40, 16:40].mean())

    before = means(images)
    detector.train()
    optimizer = torch.optim.Adam(detector.parameter_groups(3e-3))
    for _ in range(20):
        loss = torch.stack([*detector.training_step(Batch(images, batch.categories)).values()]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = means(images)
    assert after < before / 2
    assert means(defective) > 1.3 * after


def test_it_trains_the_student_of_rd4ad_and_the_last_convolutions() -> None:
    """With ResNet-18 the student's numbers are those that are published of RD4AD: 15,383,168."""
    encoder = FrozenEncoder("resnet18", (1, 2, 3))
    sizes = {
        rectified: sum(
            value.numel()
            for value in METHOD(encoder, METHOD.Settings(rectified=rectified), 2).parameters()
            if value.requires_grad
        )
        for rectified in (True, False)
    }
    assert sizes == {True: 15_383_168, False: 15_383_168 + sum(width**2 + width for width in (64, 128, 256))}


def test_a_size_or_an_encoder_that_does_not_fit_is_one_line(encoder: FrozenEncoder) -> None:
    with pytest.raises(InputError, match="rda_distillation: image_size 48 does not fit; use a multiple of 32"):
        detector_of(encoder).anomaly_maps(torch.rand(1, 3, 48, 48))
    with pytest.raises(InputError, match="rda_distillation: expected an encoder with three levels"):
        detector_of(FrozenEncoder("tf_efficientnet_lite0", (1, 2)))
