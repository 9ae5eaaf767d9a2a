"""Where mixed precision must not reach: differences of near-equal numbers, drawn defects, addressing at a low temperature."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_single(values: Tensor) -> Tensor:
    """Half precision becomes single; single and double stay as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def full_precision(like: Tensor) -> torch.autocast:
    """A context on the tensor's device in which products stay in the precision of their factors."""
    return torch.autocast(like.device.type, enabled=False)
