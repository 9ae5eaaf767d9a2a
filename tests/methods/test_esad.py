"""ESAD without labels and with synthetic ones: a plain twin, and what the labels do."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mddbench.batch import Batch
from mddbench.detector import Detector, load_method
from mddbench.nn.encoder import FrozenEncoder
from mddbench.nn.smoothing import gaussian_smooth
from mddbench.nn.synthesis import synthesise
from mddbench.seeding import seed_everything
from mddbench.settings import validated

pytestmark = pytest.mark.usefixtures("double_by_default")
METHOD = load_method("esad")
SMALL = {"widths": [4, 6], "code": 5, "length": 0.3, "consistency": 0.7}


@pytest.fixture
def batch() -> Batch:
    return Batch(torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(5)), torch.arange(6) % 2)


def detector_of(encoder: FrozenEncoder, **settings: object) -> Detector:
    seed_everything(0)
    return METHOD(encoder, validated(METHOD.Settings, {**SMALL, **settings}, "test"), 2).double()


def length(code: Tensor) -> float:
    return math.hypot(*code.tolist())


@pytest.mark.parametrize(
    "settings",
    [{}, {"labels": "synthetic"}, {"labels": "synthetic", "target": "clean", "synthesis": {"probability": 1.0}}],
)
def test_losses_and_maps_equal_the_plain_ones(
    encoder: FrozenEncoder, batch: Batch, settings: dict[str, object]
) -> None:
    detector = detector_of(encoder, **settings, sigma=1.0).train()
    torch.manual_seed(3)
    terms = {name: term.item() for name, term in detector.training_step(batch).items()}
    torch.manual_seed(3)
    images, masks = batch.images, torch.zeros(6, 32, 32, dtype=torch.bool)
    wanted = signed = 2 * images - 1
    if settings:
        images, masks = synthesise(batch.images, batch.categories, detector.settings.synthesis, None)
        assert masks.any()
        clean, signed = signed, 2 * images - 1
        noisy = torch.clamp(signed + 0.6 * torch.randn(signed.shape), -1, 1)
        wanted = signed.clone()
        for number, mask in enumerate(masks):
            wanted[number][:, mask] = (clean if "target" in settings else noisy)[number][:, mask]
    with torch.no_grad():
        first = detector.first(signed)
        rebuilt = detector.decoder(first)
        second = detector.second(rebuilt)
        defects, normal = [], []
        for image in range(6):
            for y in range(8):
                for x in range(8):
                    far = length(second[image, :, y, x])
                    bad = bool(masks[image, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4].any())
                    (defects if bad else normal).append(far)
        short = sum(normal) / len(normal)
        long = sum(1 / (far + 0.1) for far in defects) / len(defects) if defects else 0.0
        assert terms["reconstruction"] == pytest.approx(((rebuilt - wanted) ** 2).mean().item(), rel=1e-7)
        assert terms["length"] == pytest.approx(0.3 * (short + long), rel=1e-6)
        assert terms["consistency"] == pytest.approx(0.7 * ((first - second) ** 2).mean().item(), rel=1e-7)
        error = ((rebuilt - signed) ** 2).mean(dim=1)[~masks].mean().item()
        typical = [0.95 + 0.05 * error, 0.95 + 0.05 * short]
        assert detector.typical.tolist() == pytest.approx(typical, rel=1e-7)
        maps = detector.eval().anomaly_maps(batch.images)
        rebuilt = detector.decoder(detector.first(2 * batch.images - 1))
        wide = F.interpolate(detector.second(rebuilt).norm(dim=1)[:, None], (32, 32), mode="bilinear")[:, 0]
        plain = ((rebuilt - 2 * batch.images + 1) ** 2).mean(dim=1) / typical[0] + wide / typical[1]
    torch.testing.assert_close(maps, gaussian_smooth(plain, 1.0), rtol=1e-5, atol=1e-9)  # a root is raised
    torch.testing.assert_close(detector.image_scores(maps), maps.mean(dim=(1, 2)))


def test_it_is_never_called_plain_esad(encoder: FrozenEncoder) -> None:
    labels = [detector_of(encoder, labels=labels).label for labels in ("none", "synthetic")]
    assert labels == ["ESAD without labels", "ESAD (synthetic labels)"]


def test_both_encoders_have_weights_of_their_own(encoder: FrozenEncoder) -> None:
    detector = detector_of(encoder)
    assert not {id(value) for value in detector.first.parameters()} & {id(v) for v in detector.second.parameters()}


def test_a_code_of_zeros_gives_finite_gradients(encoder: FrozenEncoder, batch: Batch) -> None:
    detector = detector_of(encoder, labels="synthetic").train()
    with torch.no_grad():
        for value in detector.second[-1].parameters():
            value.zero_()
    terms = detector.training_step(batch)
    torch.stack([*terms.values()]).sum().backward()
    assert all(torch.isfinite(value.grad).all() for value in detector.parameters() if value.grad is not None)
    assert terms["length"].item() <= 0.3 / 0.1 + 1e-5


def test_with_labels_codes_of_defects_get_longer(encoder: FrozenEncoder, batch: Batch) -> None:
    """Than those of the same images without; without labels there is no such difference to learn."""
    torch.set_default_dtype(torch.float32)
    detector = detector_of(encoder, widths=[8, 16], labels="synthetic", target="clean").float().train()
    images = (0.4 + 0.1 * batch.images).float()
    optimizer = torch.optim.Adam(detector.parameter_groups(3e-3))
    for _ in range(80):
        loss = torch.stack([*detector.training_step(Batch(images, batch.categories)).values()]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    defective = images.clone()
    defective[:, :, 8:20, 8:20] = torch.rand(6, 3, 1, 1, generator=torch.Generator().manual_seed(1)).round()
    with torch.inference_mode():
        maps, plain = detector.eval().anomaly_maps(defective), detector.anomaly_maps(images)
    assert (maps[:, 10:18, 10:18].mean(dim=(1, 2)) > 1.5 * plain[:, 10:18, 10:18].mean(dim=(1, 2))).all()
