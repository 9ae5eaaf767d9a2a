"""Changes of gradients that leave values as they are."""

from __future__ import annotations

from torch import Tensor


def scaled_gradient(values: Tensor, factors: Tensor) -> Tensor:
    """Return the same values. Their gradient is multiplied by factors.

    Args:
        values: Floats of any shape.
        factors: Factors of a shape that can be broadcast to that of the values, without gradient.

    Returns:
        The values to the last bit.
    """
    fixed = values.detach()
    return fixed + factors.to(values.dtype) * (values - fixed)
