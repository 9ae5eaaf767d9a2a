"""The fixed changes of test images: what each does, and on what it depends."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mddbench.data.changed import changed_split, name_of
from mddbench.data.changes import CHANGES, LEVELS, changed_image, changed_mask
from mddbench.data.dataset import Split
from mddbench.data.samples import Sample

SIDE = 128
MOVING = ("translation", "rotation")
POINTS = [(change, level) for change in CHANGES for level in LEVELS]


def picture(side: int = SIDE, seed: int = 0) -> NDArray[np.uint8]:
    """Smooth colours with an edge and some grain, neither black nor white."""
    generator = np.random.default_rng(seed)
    ramp = np.linspace(0.25, 0.6, side)
    values = np.stack(
        [np.add.outer(ramp, ramp) / 2, np.add.outer(ramp, ramp[::-1]) / 2, np.full((side, side), 0.4)], -1
    )
    values[side // 4 : side // 2, side // 3 :] += 0.2
    return (255 * (values + generator.normal(0, 0.01, values.shape))).round().astype(np.uint8)


def change_of(change: str, level: int, name: str = "nut/good/000.png") -> NDArray[np.float64]:
    return changed_image(picture(), change, level, name).astype(np.float64) - picture()


@pytest.mark.parametrize(("change", "level"), POINTS)
def test_an_image_stays_an_image_and_depends_on_its_name_alone(change: str, level: int) -> None:
    first, again = (changed_image(picture(), change, level, "nut/good/000.png") for _ in range(2))
    assert (first.shape, first.dtype) == ((SIDE, SIDE, 3), np.uint8)
    np.testing.assert_array_equal(first, again)
    assert (first != picture()).any()


@pytest.mark.parametrize("change", CHANGES)
def test_a_higher_level_changes_more(change: str) -> None:
    sizes = [np.abs(change_of(change, level)).mean() for level in LEVELS]
    assert sizes[0] < sizes[1] < sizes[2]


@pytest.mark.parametrize("change", [name for name in CHANGES if name not in ("defocus", "jpeg")])
def test_other_names_draw_other_numbers(change: str) -> None:
    results = [changed_image(picture(), change, 2, f"nut/good/{number:03d}.png") for number in range(12)]
    assert any((result != results[0]).any() for result in results[1:])


@pytest.mark.parametrize("change", ["defocus", "jpeg"])
def test_what_draws_nothing_is_the_same_for_every_name(change: str) -> None:
    np.testing.assert_array_equal(change_of(change, 2, "a"), change_of(change, 2, "b"))


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("value", [0, 255])
def test_black_and_white_images_are_no_trouble(change: str, value: int) -> None:
    result = changed_image(np.full((SIDE, SIDE, 3), value, dtype=np.uint8), change, 3, "x")
    assert np.abs(result.astype(int) - value).mean() < 130


def test_a_stop_doubles_or_halves_the_light() -> None:
    def light(image: NDArray[np.uint8]) -> float:
        return float((((image / 255 + 0.055) / 1.055) ** 2.4).mean())

    ratios = {
        round(light(changed_image(picture(), "brightness", 3, str(number))) / light(picture()), 1)
        for number in range(9)
    }
    assert ratios == {0.5, 2.0}


def test_contrast_keeps_the_mean_and_noise_adds_its_deviation() -> None:
    assert abs(change_of("contrast", 2).mean()) < 0.5
    assert change_of("gaussian-noise", 3).std() == pytest.approx(16, rel=0.05)
    assert abs(change_of("gaussian-noise", 3).mean()) < 1


def test_shot_noise_grows_with_the_light() -> None:
    dark, bright = (np.full((SIDE, SIDE, 3), value, dtype=np.uint8) for value in (20, 230))
    in_light = []
    for image in (dark, bright):
        values = ((changed_image(image, "shot-noise", 2, "x") / 255 + 0.055) / 1.055) ** 2.4
        in_light.append(values.std() ** 2 / values.mean())
    assert in_light == pytest.approx([1 / 400, 1 / 400], rel=0.35), "the variance is the mean over the electrons"


def test_a_light_of_daylight_changes_nothing_and_a_warm_one_is_red() -> None:
    grey = np.full((8, 8, 3), 120, dtype=np.uint8)
    found = {tuple(changed_image(grey, "temperature", 3, str(number))[0, 0]) for number in range(9)}
    assert len(found) == 2
    warm, cold = sorted(found, key=lambda colour: -int(colour[0]))
    assert warm[0] > 125 > 115 > warm[2]
    assert cold[0] < 115 < 125 < cold[2]


@pytest.mark.parametrize("change", ["defocus", "motion"])
def test_a_blur_spreads_a_point_and_keeps_its_light(change: str) -> None:
    point = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
    point[30:32, 30:32] = 255
    result = changed_image(point, change, 3, "x") / 255
    light = np.where(result <= 0.04045, result / 12.92, ((result + 0.055) / 1.055) ** 2.4)[..., 0]
    assert light.sum() == pytest.approx(4, rel=0.02)
    assert light.max() < 0.99
    flat = np.full((SIDE, SIDE, 3), 77, dtype=np.uint8)
    np.testing.assert_array_equal(changed_image(flat, change, 3, "x"), flat)


def test_lengths_are_shares_of_the_image() -> None:
    """The same picture at twice the size moves by twice as many pixels."""
    for side in (50, 100, 200):
        point = np.zeros((side, side, 3), dtype=np.uint8)
        point[side // 2, side // 2] = 255
        moved = np.argwhere(changed_image(point, "translation", 3, "x")[..., 0] > 128)[0] - side // 2
        assert np.hypot(*moved) == pytest.approx(0.04 * side, abs=0.75)


@pytest.mark.parametrize("change", MOVING)
@pytest.mark.parametrize("number", range(4))
def test_a_mask_moves_with_its_image(change: str, number: int) -> None:
    image, mask = np.zeros((SIDE, SIDE, 3), dtype=np.uint8), np.zeros((SIDE, SIDE), dtype=bool)
    image[80:104, 12:40], mask[80:104, 12:40] = 255, True
    moved = changed_mask(mask, change, 3, str(number))
    seen = changed_image(image, change, 3, str(number))[..., 0] > 127
    assert (moved != mask).any()
    assert np.count_nonzero(moved != seen) <= 24  # pixels of the edge, which a rotation divides


def test_what_comes_in_at_the_border_is_mirrored_in_image_and_mask() -> None:
    image, mask = picture(), np.zeros((SIDE, SIDE), dtype=bool)
    mask[:3] = mask[-3:] = mask[:, :3] = mask[:, -3:] = True
    for number in range(4):
        result = changed_image(image, "translation", 3, str(number))
        assert result.min() >= image.min(), "nothing black comes in"
        assert changed_mask(mask, "translation", 3, str(number)).sum() > mask.sum() * 0.6


@pytest.mark.parametrize("change", [name for name in CHANGES if name not in MOVING])
def test_other_changes_leave_the_mask(change: str) -> None:
    mask = np.eye(SIDE, dtype=bool)
    assert changed_mask(mask, change, 3, "x") is mask


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="level 4: expected one of 1, 2, 3"):
        changed_image(picture(), "jpeg", 4, "x")


def split(count: int = 5) -> Split:
    samples = tuple(
        Sample(Path(f"/any/where/{number:03d}.png"), "nut", "test", "spot" if number % 2 else "good", (Path("m"),))
        for number in range(count)
    )
    masks = np.zeros((count, SIDE, SIDE), dtype=bool)
    masks[1::2, 20:30, 20:30] = True
    return Split(samples, np.stack([picture(seed=number) for number in range(count)]), masks)


@pytest.mark.parametrize("change", ["gaussian-noise", "rotation"])
def test_a_split_is_changed_image_by_image_in_any_order(change: str) -> None:
    plain, made = split(), changed_split(split(), change, 2)
    assert (made.samples, made.images.shape, len(made)) == (plain.samples, plain.images.shape, 5)
    whole, parts = np.asarray(made.images), np.concatenate([made.images[3:], made.images[:3]])
    np.testing.assert_array_equal(whole[[3, 4, 0, 1, 2]], parts)
    for number, sample in enumerate(plain.samples):
        expected = changed_image(plain.images[number], change, 2, f"nut/{sample.defect}/{sample.image.name}")
        np.testing.assert_array_equal(whole[number], expected)
        mask = changed_mask(plain.masks[number], change, 2, name_of(sample))
        np.testing.assert_array_equal(np.asarray(made.masks[number : number + 1])[0], mask)
    assert made.images[5:].shape == (0, SIDE, SIDE, 3)
