"""Loads the state of a model into another one, whose buffers may have other shapes or no values yet."""

from __future__ import annotations

import torch
from torch import Tensor, nn

OF_ENCODER = "encoder."
"""Begins the names of the encoder's tensors, which are no part of what a model has learned."""


def without_encoder(model: nn.Module) -> dict[str, Tensor]:
    """Return the state dict of a model without its encoder."""
    return {name: value for name, value in model.state_dict().items() if not name.startswith(OF_ENCODER)}


def load_saved_state(model: nn.Module, state: dict[str, Tensor], reshaped: bool, device: torch.device) -> None:
    """Load what `without_encoder` returned for another model of the same settings.

    Buffers without a value take the shapes of the loaded tensors: what was collected decides them.

    Args:
        model: The model.
        state: Name -> tensor, without the encoder.
        reshaped: True if all other buffers take the shapes of the loaded tensors, too.
        device: Device of the model.

    Raises:
        RuntimeError: If the state belongs to another model.
    """
    buffers = {
        f"{module_name}.{buffer_name}" if module_name else buffer_name: (module, buffer_name)
        for module_name, module in model.named_modules()
        for buffer_name in _persistent_buffer_names(module)
    }
    expected = {name for name in (*model.state_dict(), *buffers) if not name.startswith(OF_ENCODER)}
    missing = [name for name in expected - set(state) if name not in buffers or _has_value(*buffers[name])]
    unexpected = sorted(set(state) - expected)
    if missing or unexpected:
        raise RuntimeError(f"the saved state does not fit: missing {sorted(missing)}, unexpected {unexpected}")
    for name in set(state) & set(buffers):
        module, buffer_name = buffers[name]
        if reshaped or not _has_value(module, buffer_name):
            setattr(module, buffer_name, torch.empty_like(state[name], device=device))
    model.load_state_dict(state, strict=False)


def _persistent_buffer_names(module: nn.Module) -> set[str]:
    """Return the names of a module's own buffers that its state dict can hold, including buffers without a value."""
    return set(module._buffers) - module._non_persistent_buffers_set  # noqa: SLF001 - torch has no public access


def _has_value(module: nn.Module, buffer_name: str) -> bool:
    """Return False if the buffer is registered as None."""
    return module._buffers[buffer_name] is not None  # noqa: SLF001 - torch has no public access
