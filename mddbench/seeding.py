"""Seeds of random numbers: every part of a run has its own seed, derived from the seed of its cell."""

from __future__ import annotations

import hashlib
import os
import random

import numpy as np
import torch


def derived_seed(seed: int, *names: object) -> int:
    """Derive the seed of one named part of a run.

    Equal seeds and names give equal results. Different ones give unrelated results.

    Args:
        seed: The seed of the cell.
        *names: The names of the part. Each one is converted to text.

    Returns:
        An integer in [0, 2**63).
    """
    text = "/".join(str(name) for name in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def seed_everything(seed: int) -> None:
    """Seed the generators of Python, NumPy and torch (on all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - for libraries that draw from this generator
    torch.manual_seed(seed)


def use_deterministic_algorithms() -> None:
    """Make equal inputs give equal results.

    On the CPU they are equal to the last bit. On a GPU they are equal where deterministic kernels exist.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
    # No code here reads memory that it did not write, so new tensors need not be filled.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
