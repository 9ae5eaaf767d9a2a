"""The chain of a diffusion model, and its networks: known amounts of noise, sizes, plain twins, and what cannot learn."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from naive_diffusion import PlainWayDown, amounts, guidance, public_names, unet
from torch import Tensor, nn

from mddbench.errors import InputError
from mddbench.nn.diffusion import TIMES, NoiseSchedule, evenly_back, time_embedding
from mddbench.nn.diffusion_unet import Fusion, GuidanceNetwork, UNet, UNetShape
from mddbench.nn.stable_diffusion_names import GUIDANCE, UNET
from mddbench.seeding import seed_everything

SMALL = UNetShape(channels=3, width=8, multipliers=(1, 2, 2), blocks=2, attended=(0, 2), heads=2, context=5, groups=4)
times_of_the_chain = st.integers(0, TIMES - 1)


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def randomised(module: nn.Module) -> nn.Module:
    """A network none of whose layers is zero."""
    with torch.no_grad():
        for value in module.parameters():
            value.add_(0.1 * torch.randn(value.shape))
    return module


def guide_of(fusion: Fusion, everywhere: bool, shape: UNetShape = SMALL) -> GuidanceNetwork:
    return GuidanceNetwork(shape, nn.Conv2d(shape.channels, shape.width, 1), fusion, everywhere)


def test_the_amounts_are_the_published_ones() -> None:
    schedule = NoiseSchedule()
    signal, spread = amounts()
    torch.testing.assert_close(schedule.signal, torch.tensor(signal))
    torch.testing.assert_close(schedule.spread, torch.tensor(spread))
    known = {101: 0.945, 501: 0.524, 801: 0.191, 901: 0.118, 999: 0.068}
    assert {time: round(float(schedule.signal[time]), 3) for time in known} == known


@given(now=times_of_the_chain, then=times_of_the_chain, seed=st.integers(0, 99))
def test_noise_and_clean_values_are_found_again(now: int, then: int, seed: int) -> None:
    schedule = NoiseSchedule()
    generator = torch.Generator().manual_seed(seed)
    clean, noise = (torch.randn(2, 3, 2, 2, generator=generator) for _ in range(2))
    here, there = torch.tensor([now, now]), torch.tensor([then, then])
    noisy = schedule.noised(clean, noise, here)
    torch.testing.assert_close(schedule.clean_from(noisy, noise, here), clean)
    torch.testing.assert_close(schedule.noise_from(noisy, clean, here), noise)
    torch.testing.assert_close(schedule.step_back(noisy, noise, here, there), schedule.noised(clean, noise, there))


@given(start=st.integers(1, TIMES - 1), steps=st.integers(1, 50))
def test_steps_go_from_the_start_to_zero(start: int, steps: int) -> None:
    times = evenly_back(start, steps)
    assert (times[0], times[-1], len(times)) == (start, 0, steps + 1)
    assert times == sorted(times, reverse=True)


def test_ten_steps_from_900_are_even() -> None:
    assert evenly_back(900, 9) == [900, 800, 700, 600, 500, 400, 300, 200, 100, 0]


def test_times_are_told_apart() -> None:
    described = time_embedding(torch.arange(TIMES), 16)
    assert described.shape == (TIMES, 16)
    assert float((described[1:] - described[:-1]).norm(dim=1).min()) > 0.1


def test_the_networks_have_the_published_sizes() -> None:
    def millions(*modules: nn.Module) -> float:
        return round(sum(value.numel() for module in modules for value in module.parameters()) / 1e6, 3)

    with torch.device("meta"):
        network, guide = UNet(UNetShape()), GuidanceNetwork(UNetShape(), nn.Identity(), "random", everywhere=False)
    assert guide.fusion is not None
    assert millions(network) == 859.521
    assert millions(guide.fusion) == 110.592
    assert UNetShape().of_level(2) == [6, 7, 8]
    assert UNetShape().of_level(3) == [9, 10, 11]
    assert set(guide.fusion.convolutions) == {f"{source}{target}" for source in "123" for target in "123"}


@pytest.mark.parametrize("everywhere", [False, True])
@pytest.mark.parametrize("fusion", ["none", "random"])
def test_the_networks_equal_plain_ones(fusion: Fusion, everywhere: bool) -> None:
    seed_everything(0)
    network, guide = randomised(UNet(SMALL)), randomised(guide_of(fusion, everywhere))
    noisy, hint, context = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8), torch.randn(2, 7, 5)
    times = torch.tensor([3, 700])
    plain = PlainWayDown(public_names(guide, GUIDANCE), SMALL.heads, SMALL.groups)
    expected = guidance(plain, noisy, guide.stem(hint), times, context, range(3, 6), range(6, 9))
    found = guide(noisy, hint, times, context)
    assert [each is not None for each in found] == [everywhere] * 6 + [True] * 4
    for own, other in zip(found, expected, strict=True):
        if own is not None:
            torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-9)
    twin = unet(PlainWayDown(public_names(network, UNET), SMALL.heads, SMALL.groups), noisy, times, context, found)
    torch.testing.assert_close(network(noisy, times, context, found), twin, rtol=1e-9, atol=1e-9)


def moved(fusion: Fusion, everywhere: bool) -> Tensor:
    """How far some steps of training move the fusion's convolutions."""
    seed_everything(0)
    network, guide = UNet(SMALL), guide_of(fusion, everywhere)
    assert guide.fusion is not None
    trained = [*network.parameters(), *guide.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=0.01)
    before = [value.detach().clone() for value in guide.fusion.parameters()]
    noisy, context, times = torch.randn(2, 3, 8, 8), torch.randn(2, 7, 5), torch.tensor([3, 700])
    for _ in range(4):
        optimizer.zero_grad()
        network(noisy, times, context, guide(noisy, noisy, times, context)).sub(1).square().mean().backward()
        optimizer.step()
    pairs = zip(guide.fusion.parameters(), before, strict=True)
    shrunk = 0.9999**4  # AdamW's decay moves what has no gradient, too
    return torch.stack([(after.detach() / shrunk - old).abs().max() for after, old in pairs])


def test_the_released_fusion_cannot_start() -> None:
    """Its convolutions and the layers before them are zero: the gradient of each is the other."""
    assert float(moved("zero", everywhere=False).max()) == 0


def test_it_starts_with_random_convolutions_or_with_a_guide_everywhere() -> None:
    assert float(moved("random", everywhere=False).min()) > 1e-3
    assert float(moved("zero", everywhere=True).min()) > 1e-3


def test_an_untrained_guide_changes_nothing_at_the_middle() -> None:
    seed_everything(0)
    noisy, context, times = torch.randn(1, 3, 8, 8), torch.randn(1, 7, 5), torch.tensor([9])
    guide = guide_of("random", everywhere=False)(noisy, noisy, times, context)
    assert all(not each.detach().any() for each in guide if each is not None)


@pytest.mark.parametrize(
    ("changes", "side", "message"),
    [
        ({"multipliers": (1,)}, 8, "multipliers have 1 level, expected 2 at least"),
        ({}, 10, "grid gives 10 positions a side, expected a multiple of 4, 8 at least"),
        ({}, 4, "grid gives 4 positions a side, expected a multiple of 4, 8 at least"),
        ({"heads": 3}, 8, r"widths \[8, 16, 16\] are no multiples of 3 \(heads\)"),
        ({"groups": 5}, 8, r"widths \[8, 16, 16\] are no multiples of 5 \(groups\)"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes: dict[str, object], side: int, message: str) -> None:
    from dataclasses import replace

    with pytest.raises(InputError, match=f"any: {message}"):
        replace(SMALL, **changes).demand_fit(side, "any", "grid")  # type: ignore[arg-type]
