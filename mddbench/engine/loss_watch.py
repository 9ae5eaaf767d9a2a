"""Checks the losses of an epoch without making every step wait for the device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mddbench.errors import CellError

CHECK_EVERY = 20
"""Number of steps between two checks. The losses of that many steps are copied from the device together."""


class LossWatch:
    """Collects the named losses of an epoch on their device, and checks them from time to time.

    Attributes:
        step: Number of the last checked step, counted from the start of the training.
        waiting: (T,) losses of each step that was not checked yet, on their device, for T loss terms.
        names: Names of the T loss terms. They may change between two steps, as in a method with phases.
        rows: Name -> loss of each checked step.
    """

    def __init__(self, first_step: int, rows: Sequence[dict[str, float]] = ()) -> None:
        """Begin an epoch, or go on in it.

        Args:
            first_step: Number of steps before this epoch.
            rows: Name -> loss of each step of this epoch that was checked before.
        """
        self.step = first_step + len(rows)
        self.waiting: list[Tensor] = []
        self.names: tuple[str, ...] = ()
        self.rows = list(rows)

    @property
    def latest(self) -> float | None:
        """Sum of the loss terms of the last checked step.

        None before the first check, and for a method that only collects.
        """
        return sum(self.rows[-1].values()) if self.rows else None

    def add(self, terms: dict[str, Tensor]) -> None:
        """Add the losses of a step, and check them if it is time for it.

        Args:
            terms: Name -> scalar loss. {} for a method that only collects.
        """
        if terms:
            if tuple(terms) != self.names:
                self.check()
                self.names = tuple(terms)
            self.waiting.append(torch.stack([term.detach().float() for term in terms.values()]))
            if len(self.waiting) == CHECK_EVERY or not self.rows:
                self.check()

    def check(self) -> None:
        """Copy the waiting losses to the host and check them.

        Raises:
            CellError: At the first loss that is not finite.
        """
        if not self.waiting:
            return
        for row in torch.stack(self.waiting).tolist():
            self.step += 1
            if not np.isfinite(row).all():
                terms = ", ".join(f"{name}={value:.4g}" for name, value in zip(self.names, row, strict=True))
                raise CellError(
                    f"step {self.step}: loss is {sum(row)} ({terms}); try a lower optimizer.lr or gradient_clip"
                )
            self.rows.append(dict(zip(self.names, row, strict=True)))
        self.waiting.clear()

    def means(self) -> dict[str, float]:
        """Return the mean of each loss term over the steps that have it; {} for a method that only collects."""
        self.check()
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        table = np.array([[row.get(name, np.nan) for name in names] for row in self.rows])
        return dict(zip(names, np.nanmean(table, axis=0).tolist(), strict=True)) if self.rows else {}
