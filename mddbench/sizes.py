"""The size of images: one number for the side of a square, or height and width. Both in pixels."""

from __future__ import annotations

import re
from typing import Any

from mddbench.errors import InputError

ImageSize = int | tuple[int, int]
"""The side of square images, or (height, width). A square is always written as its side."""
LEAST, MOST = 32, 8192
"""The smallest and the largest height and width."""
_WRITTEN = re.compile(r"(\d{1,5})(?:x(\d{1,5}))?")


def height_and_width(size: ImageSize) -> tuple[int, int]:
    """Return height and width of images.

    Args:
        size: Their side, or (height, width).

    Returns:
        (height, width).
    """
    return (size, size) if isinstance(size, int) else size


def image_size_of(height: int, width: int) -> ImageSize:
    """Return the size of images as it is written: a square as its side.

    Args:
        height: Their height.
        width: Their width.

    Returns:
        The side, or (height, width).
    """
    return height if height == width else (height, width)


def pixel_count(size: ImageSize) -> int:
    """Return the number of pixels of an image."""
    height, width = height_and_width(size)
    return height * width


def position_count(size: ImageSize, stride: int) -> int:
    """Return the number of positions of a feature map.

    Args:
        size: The size of the images.
        stride: The number of pixels between two positions.

    Returns:
        Whole strides in the height times whole strides in the width.
    """
    height, width = height_and_width(size)
    return (height // stride) * (width // stride)


def shown_size(size: ImageSize) -> str:
    """Return the size for a message: '96x160' for a height of 96 and a width of 160."""
    return "x".join(map(str, height_and_width(size)))


def written_size(size: ImageSize) -> str:
    """Return the size as a setting is written: '128' or '[96, 160]'."""
    return str(size) if isinstance(size, int) else str(list(size))


def parse_size(value: Any) -> ImageSize:
    """Read an image size: 128, '128', '96x160', [96, 160] or (96, 160), the height first.

    Args:
        value: What was given.

    Returns:
        The size.

    Raises:
        ValueError: If it is none of these forms, or if a height or width is too small or too large.
    """
    parts = value
    if isinstance(value, str) and (written := _WRITTEN.fullmatch(value)):
        parts = [int(number) for number in written.groups(written[1])]
    if isinstance(parts, int) and not isinstance(parts, bool):
        parts = [parts, parts]
    plain = isinstance(parts, (list, tuple)) and len(parts) == 2 and all(type(part) is int for part in parts)
    if not plain:
        raise ValueError("expected a side such as 256, or height and width such as [192, 320]")
    if min(parts) < LEAST:
        raise ValueError(f"input should be greater than or equal to {LEAST}")
    if max(parts) > MOST:
        raise ValueError(f"input should be less than or equal to {MOST}")
    return image_size_of(*parts)


def demand_size(value: Any, source: str) -> ImageSize:
    """Read an image size that a user gave, as `parse_size` does.

    Args:
        value: What was given.
        source: Where it stands, for the error message.

    Returns:
        The size.

    Raises:
        InputError: If it is no size.
    """
    try:
        return parse_size(value)
    except ValueError as fault:
        raise InputError(f"{source}: {fault}") from None
