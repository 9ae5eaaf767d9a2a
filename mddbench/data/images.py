"""Decodes image and mask files to arrays of one size. Every fault is one line that names the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from mddbench.errors import InputError

DECODE_VERSION = 1
"""Changes whenever the pixels decoded from the same file change; part of the cache's key."""

INTERPOLATION = "PIL bilinear, antialiased, aspect ratio not kept"
MASK_RULE = "mask > 0 (JPEG: > 127), PIL bilinear, > 0.5"
LOSSY = frozenset({".jpg", ".jpeg", ".webp"})
MAX_PIXELS = 178_956_970
"""Larger images are refused as decompression bombs (PIL's own limit of 1 GiB of RGBA, made an error)."""


def decode_image(path: Path, size: int) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """The image as (size, size, 3) uint8 RGB and its own (width, height)."""
    with _opened(path) as image:
        native = image.size
        colour = _to_rgb(image)
        return np.asarray(colour.resize((size, size), Image.Resampling.BILINEAR)), native


def decode_mask(path: Path, size: int, image_size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask as (size, size) bool: what is not zero, whatever the mode; transparency does not count.

    Source of the rule: the resize of RD4AD's official code and of ADer.
    """
    with _opened(path) as image:
        if image.size != image_size:
            found, expected = (f"{width}x{height}" for width, height in (image.size, image_size))
            raise InputError(f"{path}: the mask is {found} pixels, its image {expected}; they must be of one size")
        values = np.asarray(image.convert("RGB") if image.mode in ("LA", "PA", "RGBA") else image)
        above = np.atleast_3d(values > (127 if path.suffix.lower() in LOSSY else 0))
        defect = above.any(axis=-1)
        grey = Image.fromarray(defect.astype(np.uint8) * 255)
        return np.asarray(grey.resize((size, size), Image.Resampling.BILINEAR)) > 127


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The file's image, fully decoded."""
    try:
        image = Image.open(path)
    except UnidentifiedImageError:
        size = path.stat().st_size
        raise InputError(f"{path}: not an image that can be read ({size} bytes); replace or remove it") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as fault:
        raise InputError(f"{path}: cannot be opened ({fault})") from None
    with image:
        if image.width * image.height > MAX_PIXELS:
            raise InputError(f"{path}: {image.width}x{image.height} pixels is more than the {MAX_PIXELS} allowed")
        try:
            image.load()
        except (OSError, SyntaxError, ValueError) as fault:
            raise InputError(f"{path}: the image cannot be decoded ({fault}); replace or remove it") from None
        yield image


def _to_rgb(image: Image.Image) -> Image.Image:
    """RGB of any mode. 16-bit grey is scaled by its full range, so that it does not saturate."""
    if image.mode.startswith("I;16") or image.mode == "I":
        values = np.asarray(image).astype(np.float64)
        return Image.fromarray((values / 65535.0 * 255.0).clip(0, 255).round().astype(np.uint8)).convert("RGB")
    return image.convert("RGB")
