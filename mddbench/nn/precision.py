"""Where mixed precision must not reach: differences of near-equal numbers, drawn defects, addressing at a low temperature."""

from __future__ import annotations

import torch
from torch import Tensor


def full_precision(like: Tensor) -> torch.autocast:
    """A context on the tensor's device in which products stay in the precision of their factors."""
    return torch.autocast(like.device.type, enabled=False)
