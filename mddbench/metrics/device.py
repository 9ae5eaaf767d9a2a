"""Maps that are torch tensors: their pixels are ranked on the device they lie on, to the same counts as on the host."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 1 << 24
"""Pixels sorted at a time, which takes some 300 MB on the device."""


def is_tensor(values: object) -> TypeGuard[Tensor]:
    """Whether these are a torch tensor; torch is not imported to find out."""
    return type(values).__module__.partition(".")[0] == "torch"


def on_host(values: Any) -> NDArray[Any]:
    """The values as an array; those of a type that NumPy lacks as float32."""
    if not is_tensor(values):
        return np.asarray(values)
    detached = values.detach().cpu()
    return np.asarray((detached.float() if detached.dtype.itemsize == 2 else detached).numpy())


def is_elsewhere(values: object) -> TypeGuard[Tensor]:
    """Whether these are a tensor whose pixels do not lie in the host's memory."""
    return is_tensor(values) and values.device.type != "cpu"


def as_floats(maps: Tensor) -> Tensor:
    """Maps as they are if they are floats of up to 32 bits, or else as float64."""
    return maps if maps.is_floating_point() and maps.dtype.itemsize <= 4 else maps.double()


def selected(maps: Tensor, masks: NDArray[np.bool_]) -> NDArray[np.floating]:
    """The scores of the masked pixels, on the host. maps: (N, H, W) on any device; masks: (N, H, W)."""
    import torch

    return on_host(maps[torch.from_numpy(np.array(masks)).to(maps.device)])


def count_on_device(
    scores: list[Tensor], thresholds: NDArray[np.floating]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each threshold the pixels that score higher, and those that score at least as high, as `ranking.count_pixels`."""
    import torch

    limits = torch.from_numpy(thresholds).to(scores[0].device)
    counted = torch.zeros(2, len(limits), dtype=torch.int64, device=limits.device)
    for group in _groups(scores):
        ordered = torch.sort(torch.cat([part.to(limits) for part in group])).values
        for row, right in enumerate((True, False)):
            counted[row] += len(ordered) - torch.searchsorted(ordered, limits, right=right)
    above, at_least = counted.cpu().numpy()
    return above, at_least


def images_with_nan(maps: Tensor) -> NDArray[np.bool_]:
    """(N,) whether each map holds NaN."""
    return on_host(maps.detach().flatten(1).isnan().any(dim=1))


def _groups(scores: list[Tensor]) -> Iterator[list[Tensor]]:
    """The scores in groups of at most CHUNK pixels: each is searched for all thresholds, so there had better be few."""
    group: list[Tensor] = []
    size = 0
    for flat in scores:
        for start in range(0, len(flat), CHUNK):
            part = flat.detach()[start : start + CHUNK]
            if group and size + len(part) > CHUNK:
                yield group
                group, size = [], 0
            group.append(part)
            size += len(part)
    yield group
