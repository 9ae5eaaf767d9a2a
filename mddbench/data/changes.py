"""Fixed changes of test images: other light, other sharpness, noise, compression, and another position.

Each change has three levels in physical units. It gets an image in [0, 1] and returns one in [0, 1]. What it draws, such
as a direction or noise, follows from the name of the image and of the change alone. So it is the same in any order, on
any machine and at each level, and the levels differ in strength only.

What happens before a camera's encoding (exposure, colour of the light, blur, shot noise) is computed in linear light, by
the curve of sRGB. Where an image would need pixels from outside, it is mirrored at its border. Masks are moved and
mirrored with their images, so a mirrored defect stays a defect.

Source: kinds as in Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations, ICLR 2019, with levels of our own. The colour of a light by its temperature: Kim et al., US patent 7024034.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

VERSION = 1
"""Changes whenever a change would return other pixels."""
LEVELS = (1, 2, 3)
"""The levels, weakest first."""
Pixels = NDArray[np.float64]
"""(H, W, 3) in [0, 1], RGB as it is stored, or (H, W) of a mask."""
Generator = np.random.Generator
DAYLIGHT = 6500.0
"""Temperature of the light that images are taken to have, in kelvin: the white of sRGB."""
TO_SRGB = np.array([[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]])
"""From CIE XYZ to linear sRGB (IEC 61966-2-1)."""
LUMINANCE = np.array([0.2126, 0.7152, 0.0722])
"""Shares of red, green and blue in the luminance of linear sRGB."""
FINE = 8
"""Points on each side of a pixel from which a blur is drawn."""


@dataclass(frozen=True)
class Change:
    """A change of images.

    Attributes:
        label: Its name in words.
        unit: Unit of the amounts.
        amounts: The amount at each level.
        apply: Makes the changed image of an image, an amount and random numbers.
        move: Moves a mask in the same way; None if nothing moves.
    """

    label: str
    unit: str
    amounts: tuple[float, float, float]
    apply: Callable[[Pixels, float, Generator], Pixels]
    move: Callable[[Pixels, float, Generator], Pixels] | None = None

    def amount(self, level: int) -> float:
        """Return the amount at a level.

        Args:
            level: One of LEVELS.

        Returns:
            The amount in the unit of the change.

        Raises:
            ValueError: If there is no such level.
        """
        if level not in LEVELS:
            raise ValueError(f"level {level}: expected one of {', '.join(map(str, LEVELS))}")
        return self.amounts[level - 1]


def changed_image(pixels: NDArray[np.uint8], change: str, level: int, name: str) -> NDArray[np.uint8]:
    """Change an image.

    Args:
        pixels: (H, W, 3) uint8, RGB.
        change: Key of CHANGES.
        level: One of LEVELS.
        name: Name of the image, on which alone the drawn numbers depend.

    Returns:
        (H, W, 3) uint8, RGB.
    """
    found = CHANGES[change]
    result = found.apply(pixels / 255.0, found.amount(level), _generator(change, name))
    return np.rint(255.0 * np.clip(result, 0.0, 1.0)).astype(np.uint8)


def changed_mask(mask: NDArray[np.bool_], change: str, level: int, name: str) -> NDArray[np.bool_]:
    """Move a mask as `changed_image` moves its image.

    Args:
        mask: (H, W) bool.
        change: Key of CHANGES.
        level: One of LEVELS.
        name: Name of the image.

    Returns:
        (H, W) bool; the mask itself if the change moves nothing.
    """
    found = CHANGES[change]
    if found.move is None:
        return mask
    return np.asarray(found.move(mask.astype(np.float64), found.amount(level), _generator(change, name)) > 0.5)


def _generator(change: str, name: str) -> Generator:
    """The random numbers of an image and a change. A level draws the same as the others."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(f"{change}/{name}".encode()).digest()[:8], "big"))


def _either(amount: float, generator: Generator) -> float:
    """The amount or its negative."""
    return amount if generator.random() < 0.5 else -amount


def _decoded(values: Pixels) -> Pixels:
    """From stored values to linear light, by the curve of sRGB."""
    light: Pixels = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return light


def _encoded(light: Pixels) -> Pixels:
    """From linear light to stored values. What is beyond white is white."""
    light = np.clip(light, 0.0, 1.0)
    values: Pixels = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return values


def _brightness(image: Pixels, stops: float, generator: Generator) -> Pixels:
    """Expose longer or shorter: a stop doubles or halves the light."""
    return _encoded(_decoded(image) * 2.0 ** _either(stops, generator))


def _contrast(image: Pixels, factor: float, generator: Generator) -> Pixels:
    """Spread the values about the mean of the image, or draw them together."""
    mean = float(image.mean())
    return mean + (image - mean) * math.pow(factor, _either(1.0, generator))


def _gamma(image: Pixels, exponent: float, generator: Generator) -> Pixels:
    """Bend the curve of the values; black and white stay."""
    return np.asarray(image ** math.pow(exponent, _either(1.0, generator)))


def _temperature(image: Pixels, mired: float, generator: Generator) -> Pixels:
    """Light the scene by a warmer or colder light of the same luminance, without a new white balance."""
    kelvin = 1e6 / (1e6 / DAYLIGHT + _either(mired, generator))
    gains = _white(kelvin) / _white(DAYLIGHT)
    return _encoded(_decoded(image) * (gains / (LUMINANCE @ gains)))


def _white(kelvin: float) -> Pixels:
    """The colour of a black body from 4000 to 25000 K in linear sRGB, with luminance 1."""
    x = -3.0258469e9 / kelvin**3 + 2.1070379e6 / kelvin**2 + 0.2226347e3 / kelvin + 0.240390
    y = 3.0817580 * x**3 - 5.87338670 * x**2 + 3.75112997 * x - 0.37001483
    return np.asarray(TO_SRGB @ np.array([x / y, 1.0, (1.0 - x - y) / y]))


def _gaussian_noise(image: Pixels, deviation: float, generator: Generator) -> Pixels:
    """Add noise of the electronics, the same for dark and bright pixels."""
    return image + generator.normal(0.0, deviation / 255.0, image.shape)


def _shot_noise(image: Pixels, electrons: float, generator: Generator) -> Pixels:
    """Count electrons in place of light; a white pixel has this many on average."""
    return _encoded(generator.poisson(_decoded(image) * electrons) / electrons)


def _defocus(image: Pixels, radius: float, _: Generator) -> Pixels:
    """Spread each point over a disc."""
    pixels = _pixels(radius, image)
    across = np.linspace(-pixels, pixels, 2 * FINE * math.ceil(pixels) + 1)
    ys, xs = np.meshgrid(across, across, indexing="ij")
    inside = ys**2 + xs**2 <= pixels**2
    return _blurred(image, _kernel(ys[inside], xs[inside]))


def _motion(image: Pixels, length: float, generator: Generator) -> Pixels:
    """Spread each point over a line in a drawn direction."""
    half, angle = _pixels(length, image) / 2, math.pi * generator.random()
    along = np.linspace(-half, half, 2 * FINE * math.ceil(half) + 1)
    return _blurred(image, _kernel(along * math.sin(angle), along * math.cos(angle)))


def _kernel(ys: Pixels, xs: Pixels) -> Pixels:
    """Divide each point among the four pixels around it: (n,) places in pixels from the middle of a square kernel."""
    reach = math.ceil(max(np.abs(ys).max(), np.abs(xs).max())) + 1
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
    for down in (0, 1):
        for right in (0, 1):
            top, left = np.floor(ys).astype(int) + down, np.floor(xs).astype(int) + right
            np.add.at(kernel, (top + reach, left + reach), (1 - np.abs(ys - top)) * (1 - np.abs(xs - left)))
    return kernel


def _blurred(image: Pixels, kernel: Pixels) -> Pixels:
    """Blur the light of an image by a kernel of an odd side, whose sum does not matter."""
    reach = len(kernel) // 2
    padded = np.pad(_decoded(image), ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
    size = padded.shape[:2]
    spectrum = np.fft.rfft2(padded, axes=(0, 1)) * np.fft.rfft2(kernel / kernel.sum(), s=size)[..., None]
    return _encoded(np.fft.irfft2(spectrum, s=size, axes=(0, 1))[2 * reach :, 2 * reach :])


def _jpeg(image: Pixels, quality: float, _: Generator) -> Pixels:
    """Write the image as JPEG and read it again."""
    file = io.BytesIO()
    Pillow.fromarray(np.rint(255.0 * image).astype(np.uint8)).save(file, "JPEG", quality=int(quality))
    with Pillow.open(file, formats=("JPEG",)) as read:
        return np.asarray(read) / 255.0


def _translation(image: Pixels, distance: float, generator: Generator) -> Pixels:
    """Move by whole pixels in a drawn direction, so that nothing is blurred."""
    pixels, angle = max(1.0, _pixels(distance, image)), 2 * math.pi * generator.random()
    down, right = round(pixels * math.sin(angle)), round(pixels * math.cos(angle))
    reach = max(abs(down), abs(right))
    padded = np.pad(image, ((reach, reach), (reach, reach), *((0, 0),) * (image.ndim - 2)), mode="reflect")
    top, left = reach - down, reach - right
    return padded[top : top + image.shape[0], left : left + image.shape[1]]


def _rotation(image: Pixels, degrees: float, generator: Generator) -> Pixels:
    """Turn about the middle, clockwise or the other way, by cubic splines; a mask by linear ones."""
    from scipy.ndimage import affine_transform

    angle = math.radians(_either(degrees, generator))
    matrix = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    middle = (np.array(image.shape[:2]) - 1) / 2
    offset, order = middle - matrix @ middle, 3 if image.ndim == 3 else 1
    planes = np.moveaxis(image, -1, 0) if image.ndim == 3 else image[None]
    turned = [affine_transform(plane, matrix, offset, order=order, mode="mirror") for plane in planes]
    return np.stack(turned, axis=-1) if image.ndim == 3 else np.asarray(turned[0])


def _pixels(percent: float, image: Pixels) -> float:
    """A share of the longer side of an image, in pixels."""
    height, width = image.shape[:2]
    return percent / 100.0 * max(int(height), int(width))


CHANGES: dict[str, Change] = {
    "brightness": Change("Brightness", "stops", (0.25, 0.5, 1.0), _brightness),
    "contrast": Change("Contrast", "times", (1.15, 1.3, 1.6), _contrast),
    "gamma": Change("Gamma", "exponent", (1.1, 1.25, 1.5), _gamma),
    "temperature": Change("Colour temperature", "mired", (15.0, 30.0, 60.0), _temperature),
    "gaussian-noise": Change("Gaussian noise", "of 255", (4.0, 8.0, 16.0), _gaussian_noise),
    "shot-noise": Change("Shot noise", "electrons", (1600.0, 400.0, 100.0), _shot_noise),
    "defocus": Change("Defocus blur", "% of the side", (0.4, 0.8, 1.6), _defocus),
    "motion": Change("Motion blur", "% of the side", (1.0, 2.0, 4.0), _motion),
    "jpeg": Change("JPEG", "quality", (50.0, 25.0, 10.0), _jpeg),
    "translation": Change("Translation", "% of the side", (1.0, 2.0, 4.0), _translation, _translation),
    "rotation": Change("Rotation", "degrees", (1.0, 2.0, 4.0), _rotation, _rotation),
}
"""Name on the command line and in results -> the change, in the order of tables and figures."""
