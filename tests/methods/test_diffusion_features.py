"""Latent diffusion on features: a plain twin, what a map depends on, and that a planted defect is seen."""

from __future__ import annotations

import math

import pytest
import torch
from naive_diffusion import PlainWayDown, amounts, guidance, public_names, unet
from torch import Tensor
from torch.nn import functional as F

from mddbench.batch import Batch
from mddbench.detector import Detector, load_method
from mddbench.errors import InputError
from mddbench.nn.encoder import FrozenEncoder
from mddbench.nn.smoothing import gaussian_smooth
from mddbench.nn.stable_diffusion_names import GUIDANCE, UNET
from mddbench.seeding import seed_everything
from mddbench.settings import validated

pytestmark = pytest.mark.usefixtures("double_by_default")
METHOD = load_method("diffusion_features")
SMALL = {"grid": 8, "width": 8, "multipliers": (1, 2), "heads": 2, "groups": 4, "steps": 2, "start": 300}


@pytest.fixture
def encoder() -> FrozenEncoder:
    seed_everything(7)
    return FrozenEncoder("tf_efficientnet_lite0", (1, 2, 3)).double()


@pytest.fixture
def batch() -> Batch:
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    return Batch(images, torch.zeros(3, dtype=torch.int64))


def detector_of(encoder: FrozenEncoder, **settings: object) -> Detector:
    seed_everything(0)
    return METHOD(encoder, validated(METHOD.Settings, {**SMALL, **settings}, "test"), 2).double()


def trained(detector: Detector, batch: Batch, steps: int) -> Detector:
    detector.train()
    optimizer = torch.optim.SGD(detector.parameter_groups(0.1))
    for step in range(steps):
        seed_everything(step)
        optimizer.zero_grad()
        detector.training_step(batch)["diffusion"].backward()
        optimizer.step()
    return detector


def joined(encoder: FrozenEncoder, images: Tensor) -> Tensor:
    levels = [F.interpolate(level, (8, 8), mode="bilinear") for level in encoder(images)]
    return torch.cat(levels, dim=1)


def predicted(networks: torch.nn.Module, noisy: Tensor, clean: Tensor, times: Tensor) -> Tensor:
    """What plain networks with the same weights predict: two levels, of which the outputs 0, 1 and 2, 3 are."""
    state = public_names(networks.guidance, GUIDANCE)
    first = F.conv2d(clean, state["input_hint_block.0.weight"], state["input_hint_block.0.bias"], padding=1)
    inner = first / (1 + torch.exp(-first))
    stem = F.conv2d(inner, state["input_hint_block.2.weight"], state["input_hint_block.2.bias"], padding=1)
    guide = guidance(PlainWayDown(state, 2, 4), noisy, stem, times, None, range(2), range(2, 4))
    return unet(PlainWayDown(public_names(networks.unet, UNET), 2, 4), noisy, times, None, [None, None, *guide[2:]])


@pytest.mark.parametrize("predicts", ["noise", "features"])
def test_loss_and_maps_equal_the_plain_ones(encoder: FrozenEncoder, batch: Batch, predicts: str) -> None:
    detector = trained(detector_of(encoder, predicts=predicts, sigma=1.0, average=0.5, standardised=2), batch, 3)
    signal, spread = amounts()
    features = joined(encoder, batch.images)
    mean, deviation = features.mean(dim=(0, 2, 3)), features.var(dim=(0, 2, 3), unbiased=False)
    clean = (features - mean[:, None, None]) / (deviation + 1e-6).sqrt()[:, None, None]

    def mixed(noise: Tensor, times: list[int]) -> Tensor:
        return torch.stack([
            signal[time] * a + spread[time] * b for time, a, b in zip(times, clean, noise, strict=True)
        ])

    seed_everything(9)
    times = torch.randint(0, 1000, (3,))
    noise = torch.randn(clean.shape)
    answer = predicted(detector.denoiser, mixed(noise, times.tolist()), clean, times)
    expected = (answer - (noise if predicts == "noise" else clean)).square().mean()
    seed_everything(9)
    assert detector.training_step(batch)["diffusion"].item() == pytest.approx(expected.item(), rel=1e-9)

    with torch.no_grad():
        maps = detector.eval().anomaly_maps(batch.images)
        noisy = mixed(detector.noise.expand(3, -1, -1, -1), [300] * 3)
        for now, then in ((300, 150), (150, 0)):
            answer = predicted(detector.averaged, noisy, clean, torch.full((3,), now))
            if predicts == "features":
                answer = (noisy - signal[now] * answer) / spread[now]
            rebuilt = (noisy - spread[now] * answer) / signal[now]
            noisy = signal[then] * rebuilt + spread[then] * answer
        distances, first = torch.zeros(3, 8, 8), 0
        for channels in encoder.channels:
            own, other = clean[:, first : first + channels], noisy[:, first : first + channels]
            lengths = own.square().sum(dim=1).sqrt() * other.square().sum(dim=1).sqrt()
            distances += (1 - (own * other).sum(dim=1) / lengths) / len(encoder.channels)
            first += channels
        resized = F.interpolate(distances[:, None], (32, 32), mode="bilinear")[:, 0]
        torch.testing.assert_close(maps, gaussian_smooth(resized, 1.0), rtol=1e-9, atol=1e-9)


def test_moments_are_those_of_the_first_steps(encoder: FrozenEncoder, batch: Batch) -> None:
    detector = detector_of(encoder, standardised=2).train()
    brighter = Batch(batch.images.sqrt(), batch.categories)
    for each in (batch, brighter, brighter, batch):
        detector.training_step(each)
    both = torch.cat([joined(encoder, each.images) for each in (batch, brighter)])
    torch.testing.assert_close(detector.mean, both.mean(dim=(0, 2, 3)))
    torch.testing.assert_close(detector.square, both.square().mean(dim=(0, 2, 3)))


def test_weights_that_score_follow_those_that_learn(encoder: FrozenEncoder, batch: Batch) -> None:
    """After n steps they keep (1 + n) / (10 + n) of their old values, and the share of the settings at most."""
    detector = detector_of(encoder, average=0.15)
    name = "unet.head.2.bias"
    values = [detector.denoiser.state_dict()[name].clone()]
    for step in range(3):
        trained(detector, batch, 1)
        values.append(detector.denoiser.state_dict()[name].clone())
        detector.seen.fill_(step + 1.0)
    average = values[0]
    for value, kept in zip(values, (0.1, 0.15, 0.15), strict=False):
        average = kept * average + (1 - kept) * value
    torch.testing.assert_close(detector.averaged.state_dict()[name], average)
    assert float((values[3] - values[2]).abs().max()) > 0
    assert not any(value.requires_grad for value in detector.averaged.parameters())


def test_a_map_depends_on_the_noise_that_is_kept_and_on_no_other(encoder: FrozenEncoder, batch: Batch) -> None:
    detector = trained(detector_of(encoder), batch, 2).eval()
    with torch.inference_mode():
        maps = []
        for seed in (1, 2):
            seed_everything(seed)
            maps.append(detector.anomaly_maps(batch.images))
        assert torch.equal(maps[0], maps[1])
        detector.noise.neg_()
        assert not torch.equal(detector.anomaly_maps(batch.images), maps[0])
    assert "noise" in detector.learned_state()


def test_cached_features_give_the_same_loss(encoder: FrozenEncoder, batch: Batch) -> None:
    given = Batch(torch.zeros_like(batch.images), batch.categories, features=tuple(encoder(batch.images)))
    losses = []
    for each in (batch, given):
        detector = detector_of(encoder).train()
        losses.append(detector.training_step(each)["diffusion"].item())
    assert losses[0] == losses[1]


def test_grids_that_cannot_be_halved_are_refused(encoder: FrozenEncoder) -> None:
    with pytest.raises(
        InputError, match=r"diffusion_features: settings.grid gives 9 positions a side, expected a multiple"
    ):
        detector_of(encoder, grid=9)


def test_a_planted_defect_stands_out_after_training(encoder: FrozenEncoder) -> None:
    """Stripes are learnt; a square of noise is rebuilt less well."""
    torch.set_default_dtype(torch.float32)
    phases = torch.arange(8).float()[:, None, None]
    stripes = (0.5 + 0.4 * torch.sin(torch.arange(32).float() / 2 + phases)).expand(8, 32, 32)
    images = stripes[:, None].repeat(1, 3, 1, 1)
    detector = detector_of(encoder.float(), average=0.9, start=500, sigma=1.0).float().train()
    optimizer = torch.optim.Adam(detector.parameter_groups(3e-3))
    features = tuple(encoder(images))
    for _ in range(60):
        loss = detector.training_step(Batch(images, torch.zeros(8).long(), features=features))["diffusion"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert math.isfinite(loss.item())
    defective = images.clone()
    defective[:, :, 12:20, 12:20] = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        maps = detector.eval().anomaly_maps(defective)
    inside = maps[:, 12:20, 12:20].mean()
    outside = (maps.sum() - maps[:, 8:24, 8:24].sum()) / (8 * (32 * 32 - 16 * 16))
    assert inside > 1.3 * outside
