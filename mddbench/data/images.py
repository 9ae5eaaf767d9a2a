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
from mddbench.sizes import ImageSize, height_and_width

DECODE_VERSION = 2
"""Part of the cache's key. It changes whenever the pixels decoded from the same file change."""

INTERPOLATION = "PIL bilinear, antialiased, aspect ratio not kept"
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
"""The formats that are read, whatever the file's name. Decoders of some other formats run programs."""
DEEP = "deep"
"""The oddity of a file with 16 bits per value."""
DARK_LIMIT = 2**14
"""A 16-bit image whose highest value is at most this one uses a small part of the range.

Cameras with 10, 12 or 14 bits make such images.
"""
LOSSY = frozenset({".jpg", ".jpeg", ".webp"})
ORIENTATION, SIDEWAYS = 0x0112, (5, 6, 7, 8)
"""The EXIF tag of an image's orientation, and its values for images that lie on a side."""
MAX_PIXELS = 178_956_970
"""Larger images are refused as decompression bombs. This is PIL's own limit of 1 GiB of RGBA, made an error."""
MAX_BYTES = 2**30
"""The largest size of an image file."""

# Pillow warns about large files, which are an error here, and about broken EXIF data, which is ignored.
warnings.filterwarnings("ignore", module=r"PIL\..*")

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class MaskRule:
    """The rule that says which pixels of a mask file are defects.

    A pixel is a defect if its value is above a limit. The result is resized, and values above a half count.

    Attributes:
        above: The limit. For a lossy file it is 127 at least.
        numbers: True if the numbers of a palette image count and not its colours.
        labels: For a dataset without masks, the rule that says which images are defective. '' if there are masks.
    """

    above: int = 0
    numbers: bool = False
    labels: str = ""

    def __str__(self) -> str:
        """Return the rule as the protocol card shows it."""
        if self.labels:
            return f"none ({self.labels})"
        lossy = " (JPEG: > 127)" if self.above < 127 else ""
        return f"mask{' number' if self.numbers else ''} > {self.above}{lossy}, PIL bilinear, > 0.5"


ABOVE_ZERO = MaskRule()


def decode_image(
    path: Path, size: ImageSize, sha256: str | None = None, oddities: set[str] | None = None
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """Decode an image file. The image is turned as its EXIF orientation says.

    An InputError is raised if the file has another hash, or if it is no image that can be read.

    Args:
        path: The image file.
        size: The size of the decoded image.
        sha256: The hash that the file must have, in hex. None for any.
        oddities: A set to which the kinds of oddities of the file are added, as in `mddbench.data.oddities`.

    Returns:
        The image (H, W, 3) uint8, RGB, and its original (width, height).
    """
    with _opened(path, sha256, oddities) as image:
        colour = _to_rgb(image, path)
        if oddities is not None and DEEP in oddities:
            oddities.discard(DEEP)
            oddities |= {DARK} if 0 < _highest(image) <= DARK_LIMIT else set()
        return resize_image(colour, size), image.size


def resize_image(colour: Image.Image, size: ImageSize) -> NDArray[np.uint8]:
    """Resize a picture in colour as all images of a dataset are resized: (H, W, 3) uint8."""
    height, width = height_and_width(size)
    return np.asarray(colour.resize((width, height), Image.Resampling.BILINEAR))


def decode_at_own_size(path: Path) -> NDArray[np.uint8]:
    """Decode an image file at its own size. The image is turned as its EXIF orientation says.

    An InputError is raised if it is no image that can be read.

    Args:
        path: The image file.

    Returns:
        (H, W, 3) uint8, RGB.
    """
    with _opened(path, None) as image:
        return np.asarray(_to_rgb(image, path))


def size_of(path: Path) -> tuple[int, int] | None:
    """Read the size of an image, turned as its EXIF orientation says, from the start of its file.

    Args:
        path: The image file.

    Returns:
        Its (height, width) in pixels; None if it cannot be read.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            turned = image.getexif().get(ORIENTATION, 1) in SIDEWAYS
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, struct.error):
        return None
    return (width, height) if turned else (height, width)


def aspect_of(path: Path) -> float | None:
    """Read the shape of an image, turned as its EXIF orientation says, from the start of its file.

    Args:
        path: The image file.

    Returns:
        Its width by its height; None if it can no longer be read.
    """
    size = size_of(path)
    return None if size is None else size[1] / size[0]


def decode_mask(path: Path, size: ImageSize, image_size: tuple[int, int], rule: MaskRule = ABOVE_ZERO) -> Mask:
    """Decode one mask file.

    Source of the rule: the resize of RD4AD's official code and of ADer.

    Args:
        path: The mask file.
        size: The size of the decoded mask.
        image_size: The (width, height) that the mask must have.
        rule: The rule that says which pixels are defects.

    Returns:
        (H, W) bool, True at pixels of a defect.
    """
    return resize_mask(native_mask([path], image_size, rule), size)


def resize_mask(defect: Mask, size: ImageSize) -> Mask:
    """Resize a mask.

    Args:
        defect: (H, W) bool.
        size: The size of the result.

    Returns:
        (H', W') bool of that size, True where at least half of the area below a pixel is a defect.
    """
    grey = Image.fromarray(defect.astype(np.uint8) * 255)
    height, width = height_and_width(size)
    return np.asarray(grey.resize((width, height), Image.Resampling.BILINEAR)) > 127


def native_mask(
    paths: Sequence[Path],
    image_size: tuple[int, int],
    rule: MaskRule = ABOVE_ZERO,
    hashes: Sequence[str | None] | None = None,
    oddities: set[str] | None = None,
) -> Mask:
    """Decode the masks of an image at their own size, and join them.

    A pixel is a defect if a value of any channel but transparency is above the rule's limit.

    Args:
        paths: The mask files.
        image_size: The (width, height) that each mask must have.
        rule: The rule that says which pixels are defects.
        hashes: The SHA-256 that each file must have, in hex. None for any.
        oddities: A set to which the kinds of oddities of the files are added, as in `mddbench.data.oddities`.

    Returns:
        (H, W) bool, the union of the masks.

    Raises:
        InputError: If a mask has another size or hash, or if it is no image that can be read.
    """
    union = np.zeros(image_size[::-1], dtype=np.bool_)
    for path, sha256 in zip(paths, hashes or [None] * len(paths), strict=True):
        with _opened(path, sha256, oddities) as image:
            if image.size != image_size:
                actual, expected = (f"{width}x{height}" for width, height in (image.size, image_size))
                turned = "; the image is turned by its EXIF orientation" if image.size == image_size[::-1] else ""
                raise InputError(
                    f"{path}: the mask is {actual} pixels, its image {expected}; they must be of one size{turned}"
                )
            limit = max(rule.above, 127) if path.suffix.lower() in LOSSY else rule.above
            if oddities is not None:
                oddities.discard(DEEP)  # any value but 0 counts
            union |= np.atleast_3d(_mask_values(image, rule, path) > limit).any(axis=-1)
    return union


def numbered_mask(path: Path, sha256: str | None = None) -> tuple[Mask, int]:
    """Decode a mask whose value says of which kind its defect is.

    An InputError is raised if the file has another hash, or if it is no image that can be read.

    Args:
        path: The mask file.
        sha256: The hash that the file must have, in hex. None for any.

    Returns:
        (H, W) bool, True where the value is above zero, and the highest value.
    """
    with _opened(path, sha256) as image:
        values = np.atleast_3d(_mask_values(image, ABOVE_ZERO, path)).max(axis=-1)
    return values > 0, int(values.max())


def _mask_values(image: Image.Image, rule: MaskRule, path: Path) -> NDArray[Any]:
    """The values of a mask, (H, W) or (H, W, channels)."""
    if image.mode in ("P", "PA"):
        coloured = any(image.getpalette() or ())  # if all colours are black, the numbers count
        return np.asarray(image.convert("RGB") if coloured and not rule.numbers else image.getchannel(0))
    if image.mode in ("CMYK", "YCbCr", "HSV"):
        return np.asarray(image.convert("RGB"))
    if image.mode not in ("1", "L", "LA", "RGB", "RGBA", "RGBX", "I", "F") and not image.mode.startswith("I;16"):
        raise InputError(f"{path}: a mask of a kind that is not read ('{image.mode}'); save it as grey values")
    values = np.asarray(image)
    return values[..., :-1] if image.mode in ("LA", "RGBA", "RGBX") else values


@contextmanager
def _opened(path: Path, sha256: str | None, oddities: set[str] | None = None) -> Iterator[Image.Image]:
    """Yield the file's image, decoded and turned by its EXIF orientation. PAGES and DEEP are added to `oddities`."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise InputError(f"{path}: {size} bytes is more than the {MAX_BYTES} that an image may have; remove it")
        content = path.read_bytes()
    except (OSError, ValueError) as fault:
        raise InputError(f"{path}: cannot be opened ({getattr(fault, 'strerror', fault)})") from None
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
            if oddities is not None:
                oddities |= _header_oddities(image)
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
        except (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, struct.error) as fault:
            raise InputError(f"{path}: the image cannot be decoded ({fault}); replace or remove it") from None
        yield image


def _header_oddities(image: Image.Image) -> set[str]:
    """The oddities that a file's header shows: PAGES and DEEP."""
    directory = getattr(image, "tag_v2", None)  # of a TIFF; counting its pages would mean to seek each one
    several_pages = (
        directory.next if directory is not None else image.format in FORMATS and getattr(image, "is_animated", False)
    )
    deep = any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
    return {kind for kind, applies in ((PAGES, several_pages), (DEEP, deep)) if applies}


def _highest(image: Image.Image) -> float:
    """The highest value of an image with 16 bits per value, on the 16-bit scale."""
    if image.mode.startswith("I"):
        return float(np.asarray(image).max())
    # Of 16-bit colours Pillow keeps the upper 8 bits only.
    values = np.atleast_3d(np.asarray(image))
    return 257.0 * float((values[..., :-1] if image.mode in ("LA", "RGBA", "RGBX") else values).max())


def _to_rgb(image: Image.Image, path: Path) -> Image.Image:
    """The image as RGB without transparency. 16-bit grey is scaled by its full range, so that it does not saturate."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):  # PNG has no 32-bit values
        values = np.asarray(image).astype(np.float32)
        return Image.fromarray((values / 65535.0 * 255.0).round().astype(np.uint8)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")
    if image.mode in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV"):
        return image.convert("RGB")
    raise InputError(
        f"{path}: its pixels are of a kind that is not read ('{image.mode}'); save it with 8 or 16 bit a channel"
    )
