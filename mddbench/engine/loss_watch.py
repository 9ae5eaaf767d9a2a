"""Watches the losses of an epoch without making each step wait for the device."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mddbench.errors import CellError

CHECK_EVERY = 20
"""Steps between two looks at the losses: one copy from the device for that many steps."""


class LossWatch:
    """Collects the named losses of an epoch on their device and looks at them now and then."""

    def __init__(self, first_step: int) -> None:
        self.step = first_step
        self.waiting: list[Tensor] = []
        self.names: tuple[str, ...] = ()
        self.rows: list[list[float]] = []

    @property
    def latest(self) -> float | None:
        """The sum of terms at the last look; None before the first, and for a method that only collects."""
        return sum(self.rows[-1]) if self.rows else None

    def add(self, terms: dict[str, Tensor]) -> None:
        if terms:
            self.names = tuple(terms)
            self.waiting.append(torch.stack([term.detach().float() for term in terms.values()]))
            if len(self.waiting) == CHECK_EVERY or not self.rows:
                self.look()

    def look(self) -> None:
        """Bring the waiting losses over. Raises CellError at the first that is not finite."""
        if not self.waiting:
            return
        for row in torch.stack(self.waiting).tolist():
            self.step += 1
            if not np.isfinite(row).all():
                terms = ", ".join(f"{name}={value:.4g}" for name, value in zip(self.names, row, strict=True))
                raise CellError(
                    f"step {self.step}: loss is {sum(row)} ({terms}); try a lower optimizer.lr or gradient_clip"
                )
            self.rows.append(row)
        self.waiting.clear()

    def means(self) -> dict[str, float]:
        self.look()
        return dict(zip(self.names, np.mean(self.rows, axis=0).tolist(), strict=True)) if self.rows else {}
