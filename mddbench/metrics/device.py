"""Maps that are torch tensors: their pixels are ranked on their own device, with the same counts as on the host."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 1 << 24
"""Number of pixels sorted at a time, which takes some 300 MB on the device."""


def is_tensor(values: object) -> TypeGuard[Tensor]:
    """Return whether the values are a torch tensor, without importing torch."""
    return type(values).__module__.partition(".")[0] == "torch"


def on_host(values: Any) -> NDArray[Any]:
    """Return the values as a NumPy array.

    Args:
        values: An array, a tensor on any device, or anything that NumPy can convert.

    Returns:
        The array, of the same shape. Tensors of 16-bit types become float32, since NumPy has no bfloat16.
    """
    if not is_tensor(values):
        return np.asarray(values)
    detached = values.detach().cpu()
    return np.asarray((detached.float() if detached.dtype.itemsize == 2 else detached).numpy())


def is_device_tensor(values: object) -> TypeGuard[Tensor]:
    """Return whether the values are a tensor outside the host's memory."""
    return is_tensor(values) and values.device.type != "cpu"


def as_floats(maps: Tensor) -> Tensor:
    """Return maps of floats of up to 32 bits as they are, and all others as float64."""
    return maps if maps.is_floating_point() and maps.dtype.itemsize <= 4 else maps.double()


def masked_scores(maps: Tensor, masks: NDArray[np.bool_]) -> NDArray[np.floating]:
    """Copy the scores of the masked pixels to the host.

    Args:
        maps: (N, H, W) on any device.
        masks: (N, H, W) bool.

    Returns:
        (masked pixels,) scores in the order of the masks.
    """
    import torch

    return on_host(maps[torch.from_numpy(np.array(masks)).to(maps.device)])


def count_on_device(
    scores: list[Tensor], thresholds: NDArray[np.floating]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count the pixels above and at each threshold, as `ranking.count_pixels` does on the host.

    Args:
        scores: (n,) tensors without NaN, all on one device.
        thresholds: (M,) float32 or float64, strictly increasing, M > 0.

    Returns:
        For each threshold the number of pixels that score higher, and the number that score at least as high:
        (M,) int64 each.
    """
    import torch

    limits = torch.from_numpy(thresholds).to(scores[0].device)
    counts = torch.zeros(2, len(limits), dtype=torch.int64, device=limits.device)
    for group in _groups(scores):
        ordered = torch.sort(torch.cat([piece.to(limits) for piece in group])).values
        for row, right in enumerate((True, False)):
            counts[row] += len(ordered) - torch.searchsorted(ordered, limits, right=right)
    above, at_least = counts.cpu().numpy()
    return above, at_least


def images_with_nan(maps: Tensor) -> NDArray[np.bool_]:
    """Return (N,) whether each map holds NaN."""
    return on_host(maps.detach().flatten(1).isnan().any(dim=1))


def _groups(scores: list[Tensor]) -> Iterator[list[Tensor]]:
    """Yield the scores in few groups of at most CHUNK pixels, since each group is searched for all thresholds."""
    group: list[Tensor] = []
    size = 0
    for flat in scores:
        for start in range(0, len(flat), CHUNK):
            piece = flat.detach()[start : start + CHUNK]
            if group and size + len(piece) > CHUNK:
                yield group
                group, size = [], 0
            group.append(piece)
            size += len(piece)
    yield group
