"""Decodes image and mask files to arrays of one size. Every fault is one line that names the file."""

from __future__ import annotations

import hashlib
import io
import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from mddbench.data.oddities import DARK, PAGES
from mddbench.errors import InputError

DECODE_VERSION = 2
"""Changes whenever the pixels decoded from the same file change; part of the cache's key."""

INTERPOLATION = "PIL bilinear, antialiased, aspect ratio not kept"
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
"""What a file may hold, whatever its name: others have decoders that run programs."""
DEEP = "deep"
"""Of 16 bits a value."""
DARK_BELOW = 2**14
"""The highest value of a 16-bit image that uses a small part of the range, as cameras of 10, 12 or 14 bits do."""
LOSSY = frozenset({".jpg", ".jpeg", ".webp"})
MAX_PIXELS = 178_956_970
"""Larger images are refused as decompression bombs (PIL's own limit of 1 GiB of RGBA, made an error)."""
MAX_BYTES = 2**30

# Of files that are large (an error of our own here), or have broken EXIF data (then there is none).
warnings.filterwarnings("ignore", module=r"PIL\..*")

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class MaskRule:
    """What of a mask is defect: values above `above` (of a lossy file above 127); then resized, and above a half.

    numbers: whether a palette's numbers count and not its colours.
    """

    above: int = 0
    numbers: bool = False

    def __str__(self) -> str:
        lossy = " (JPEG: > 127)" if self.above < 127 else ""
        return f"mask{' number' if self.numbers else ''} > {self.above}{lossy}, PIL bilinear, > 0.5"


ABOVE_ZERO = MaskRule()


def decode_image(
    path: Path, size: int, sha256: str | None = None, odd: set[str] | None = None
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """The image as (size, size, 3) uint8 RGB and its own (width, height), both as it is to be looked at (EXIF).

    sha256: what the file must be, in hex; odd: takes what is odd about the file, in the words of `oddities`. Raises InputError
    if the file is another one, or no image that can be read.
    """
    with _opened(path, sha256, odd) as image:
        colour = _to_rgb(image, path)
        if odd is not None and DEEP in odd:
            odd.discard(DEEP)
            odd |= {DARK} if 0 < _highest(image) <= DARK_BELOW else set()
        return np.asarray(colour.resize((size, size), Image.Resampling.BILINEAR)), image.size


def decode_mask(path: Path, size: int, image_size: tuple[int, int], rule: MaskRule = ABOVE_ZERO) -> Mask:
    """One mask as (size, size) bool. Source of the rule: the resize of RD4AD's official code and of ADer."""
    return resize_mask(native_mask([path], image_size, rule), size)


def resize_mask(defect: Mask, size: int) -> Mask:
    """(H, W) bool resized to (size, size): where at least half of what lies below a pixel is defect."""
    grey = Image.fromarray(defect.astype(np.uint8) * 255)
    return np.asarray(grey.resize((size, size), Image.Resampling.BILINEAR)) > 127


def native_mask(
    paths: Sequence[Path],
    image_size: tuple[int, int],
    rule: MaskRule = ABOVE_ZERO,
    hashes: Sequence[str | None] | None = None,
    odd: set[str] | None = None,
) -> Mask:
    """The union of an image's masks, (H, W) bool: what is above the rule's value in any channel but transparency.

    image_size: (width, height) that they must have; hashes: SHA-256 of each; odd: takes what is odd about the files. Raises
    InputError for a faulty one.
    """
    union = np.zeros(image_size[::-1], dtype=np.bool_)
    for path, sha256 in zip(paths, hashes or [None] * len(paths), strict=True):
        with _opened(path, sha256, odd) as image:
            if image.size != image_size:
                found, expected = (f"{width}x{height}" for width, height in (image.size, image_size))
                turned = "; the image is turned by its EXIF orientation" if image.size == image_size[::-1] else ""
                raise InputError(
                    f"{path}: the mask is {found} pixels, its image {expected}; they must be of one size{turned}"
                )
            limit = max(rule.above, 127) if path.suffix.lower() in LOSSY else rule.above
            if odd is not None:
                odd.discard(DEEP)  # any value but 0 counts
            union |= np.atleast_3d(_mask_values(image, rule, path) > limit).any(axis=-1)
    return union


def _mask_values(image: Image.Image, rule: MaskRule, path: Path) -> NDArray[Any]:
    """(H, W) or (H, W, channels): the colours of a mask; of a palette its numbers, if they are asked for or all its colours
    are black.
    """
    if image.mode in ("P", "PA"):
        coloured = any(image.getpalette() or ())
        return np.asarray(image.convert("RGB") if coloured and not rule.numbers else image.getchannel(0))
    if image.mode in ("CMYK", "YCbCr", "HSV"):
        return np.asarray(image.convert("RGB"))
    if image.mode not in ("1", "L", "LA", "RGB", "RGBA", "RGBX", "I", "F") and not image.mode.startswith("I;16"):
        raise InputError(f"{path}: a mask of a kind that is not read ('{image.mode}'); save it as grey values")
    values = np.asarray(image)
    return values[..., :-1] if image.mode in ("LA", "RGBA", "RGBX") else values


@contextmanager
def _opened(path: Path, sha256: str | None, odd: set[str] | None = None) -> Iterator[Image.Image]:
    """The file's image, fully decoded, turned as its EXIF orientation says. odd: takes PAGES and DEEP, if they are so."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise InputError(f"{path}: {size} bytes is more than the {MAX_BYTES} that an image may have; remove it")
        content = path.read_bytes()
    except OSError as fault:
        raise InputError(f"{path}: cannot be opened ({fault.strerror})") from None
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise InputError(f"{path}: the file has changed since its fingerprint was taken; run again")
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError:
        raise InputError(
            f"{path}: not an image that can be read ({len(content)} bytes); replace or remove it"
        ) from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as fault:
        raise InputError(f"{path}: cannot be opened ({fault})") from None
    with image:
        if image.width * image.height > MAX_PIXELS:
            raise InputError(f"{path}: {image.width}x{image.height} pixels is more than the {MAX_PIXELS} allowed")
        try:
            if odd is not None:
                odd |= _oddities(image)
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
        except (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, struct.error) as fault:
            raise InputError(f"{path}: the image cannot be decoded ({fault}); replace or remove it") from None
        yield image


def _oddities(image: Image.Image) -> set[str]:
    """What is odd about a file, by its header: PAGES and DEEP."""
    directory = getattr(image, "tag_v2", None)  # of a TIFF, where all pages would have to be sought to be counted
    several = (
        directory.next if directory is not None else image.format in FORMATS and getattr(image, "is_animated", False)
    )
    deep = any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
    return {kind for kind, so in ((PAGES, several), (DEEP, deep)) if so}


def _highest(image: Image.Image) -> float:
    """The highest value of an image with 16 bits a value, on their scale; Pillow keeps the upper 8 of colours."""
    if image.mode.startswith("I"):
        return float(np.asarray(image).max())
    values = np.atleast_3d(np.asarray(image))
    return 257.0 * float((values[..., :-1] if image.mode in ("LA", "RGBA", "RGBX") else values).max())


def _to_rgb(image: Image.Image, path: Path) -> Image.Image:
    """RGB of any mode; transparency is left out. 16-bit grey is scaled by its full range, so that it does not saturate."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):  # which has no 32 bit
        values = np.asarray(image).astype(np.float32)
        return Image.fromarray((values / 65535.0 * 255.0).round().astype(np.uint8)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")
    if image.mode in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV"):
        return image.convert("RGB")
    raise InputError(
        f"{path}: its pixels are of a kind that is not read ('{image.mode}'); save it with 8 or 16 bit a channel"
    )
