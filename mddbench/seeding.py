"""Random numbers: every part of a run has its own seed, derived from the cell's."""

from __future__ import annotations

import hashlib
import os
import random

import numpy as np
import torch


def derived_seed(seed: int, *names: object) -> int:
    """A seed in [0, 2**63) for one named part of a run: the same for the same seed and names, unrelated for others."""
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - for libraries that draw from it
    torch.manual_seed(seed)


def use_deterministic_algorithms() -> None:
    """Make equal inputs give equal results: to the last bit on the CPU, as far as kernels exist on a GPU."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
    # Nothing here reads what it did not write.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
