"""mddbench: multi-class unsupervised image anomaly detection, measured the same way for every method."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mddbench.version import VERSION

if TYPE_CHECKING:
    from mddbench.api.cells import Model, load, records, run
    from mddbench.api.measure import dataset, evaluate, evaluate_model

__all__ = ["Model", "__version__", "dataset", "evaluate", "evaluate_model", "load", "records", "run"]
__version__ = VERSION
MODULES = {
    "mddbench.api.cells": ("Model", "load", "records", "run"),
    "mddbench.api.measure": ("dataset", "evaluate", "evaluate_model"),
}
"""The Python API: module -> names. A module is imported when one of its names is used, so that this package is light."""


def __getattr__(name: str) -> Any:
    """Return a name of the Python API."""
    for module, names in MODULES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'mddbench' has no attribute '{name}'")
