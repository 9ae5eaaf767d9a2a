"""Seeds of random numbers: every part of a run has its own seed, derived from the seed of its cell."""

from __future__ import annotations

import hashlib
import os
import random
from typing import Any

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


def random_state() -> dict[str, Any]:
    """Return the states of the generators of `seed_everything`, as tensors, numbers and texts in dicts and lists."""
    version, words, gauss = random.getstate()
    numpy_state: Any = np.random.get_state(legacy=False)  # noqa: NPY002 - see above
    return {
        "python": [version, list(words), gauss],
        "numpy": {**numpy_state, "state": {**numpy_state["state"], "key": numpy_state["state"]["key"].tolist()}},
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Put the generators back into a state of `random_state`.

    Args:
        state: The state. That of GPUs is used if there are as many here.
    """
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    inner = state["numpy"]["state"]
    key = np.array(inner["key"], dtype=np.uint32)
    np.random.set_state({**state["numpy"], "state": {**inner, "key": key}})  # noqa: NPY002 - see above
    torch.set_rng_state(state["torch"].cpu())
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([each.cpu() for each in state["cuda"]])


def use_deterministic_algorithms() -> None:
    """Make equal inputs give equal results.

    On the CPU they are equal to the last bit. On a GPU they are equal where deterministic kernels exist.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
    # No code here reads memory that it did not write, so new tensors need not be filled.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
