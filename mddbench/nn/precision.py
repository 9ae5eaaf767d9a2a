"""Exceptions from mixed precision.

It is not precise enough for differences of nearly equal numbers, drawn defects and addressing at a low temperature.
"""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_single(values: Tensor) -> Tensor:
    """Convert half precision to single; single and double precision stay as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def full_precision(like: Tensor) -> torch.autocast:
    """Return a context for the device of a tensor, in which products keep the precision of their factors."""
    return torch.autocast(like.device.type, enabled=False)
