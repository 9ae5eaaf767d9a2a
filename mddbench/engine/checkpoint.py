"""The file from which an interrupted training goes on: written at epochs' ends, and never taken if a byte of it has changed."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from errno import ENOENT
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mddbench.errors import InputError
from mddbench.runs.records import CurvePoint, EpochLog

SHARE = 0.05
"""Writing checkpoints may take no more than this share of the time."""
DIGEST = "sha256"
"""Under this key a checkpoint holds the hash of all the rest. PyTorch does not check the sums of its own archives."""


@dataclass
class Progress:
    """How far a training has come. epoch: how many are done; history: one entry each; looks: at the test split, if any."""

    epoch: int = 0
    history: list[EpochLog] = field(default_factory=list)
    looks: list[CurvePoint] = field(default_factory=list)


class Checkpoint:
    """A training's checkpoint file, and when it was last written."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.last_written, self.write_seconds = time.monotonic(), 0.0

    def load(self, device: torch.device) -> tuple[Progress, dict[str, Any]] | None:
        """How far the training had come, and the states that were saved; None if there is no file.

        Raises InputError if the file cannot be read or is not as it was written.
        """
        if not self.file.exists():
            return None
        try:
            saved = torch.load(self.file, map_location=device, weights_only=True)
            if DIGEST not in saved:
                raise ValueError("it holds no hash: an earlier version wrote it")
            if saved.pop(DIGEST) != digest_of(saved):
                raise ValueError("it is damaged: its content has another hash than was written with it")
            history = [EpochLog(**log) for log in saved.pop("history")]
            looks = [CurvePoint(**point) for point in saved.pop("looks")]
            return Progress(saved.pop("epoch"), history, looks), saved
        except Exception as fault:
            raise self.unusable(
                f"{type(fault).__name__}: {str(fault).splitlines()[0][:120] if str(fault) else ''}"
            ) from None

    def unusable(self, reason: str) -> InputError:
        """The error that says so."""
        return InputError(f"{self.file}: cannot be resumed from ({reason}); start the cell anew with --force")

    @property
    def is_due(self) -> bool:
        """Whether enough time has passed since the last writing, by the time that it took."""
        return (time.monotonic() - self.last_written) * SHARE >= self.write_seconds

    def save(self, progress: Progress, states: dict[str, Any], say: Callable[[str], object]) -> None:
        """Write beside and rename: a killed process leaves the file of before. A full disk is told, and costs this file only.

        states: of tensors, numbers and texts. Raises FileNotFoundError if the folder has gone.
        """
        started = time.monotonic()
        content = {
            **states,
            "epoch": progress.epoch,
            "history": [log.model_dump() for log in progress.history],
            "looks": [point.model_dump() for point in progress.looks],
        }
        partial = self.file.with_suffix(".part")
        try:
            torch.save({**content, DIGEST: digest_of(content)}, partial)
            os.replace(partial, self.file)
        except (OSError, RuntimeError) as fault:  # PyTorch's writer raises RuntimeError
            if not self.file.parent.is_dir():
                raise FileNotFoundError(ENOENT, "the cell's folder has gone", str(self.file.parent)) from None
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            reason = str(fault).splitlines()[0][:120] if str(fault) else type(fault).__name__
            say(f"{self.file}: cannot be written ({reason}); the training goes on without it")
        self.last_written = time.monotonic()
        self.write_seconds = self.last_written - started


def digest_of(content: Any) -> str:
    """SHA-256, in hex, over nested dicts and sequences of tensors, numbers and texts: every key, type, shape and value."""
    total = hashlib.sha256()
    _feed(total, content)
    return total.hexdigest()


def _feed(total: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        host = value.detach().cpu().contiguous()
        total.update(f"tensor {host.dtype} {tuple(host.shape)};".encode())
        total.update(host.reshape(-1).view(torch.uint8).numpy() if host.numel() else b"")
    elif isinstance(value, dict):
        total.update(f"dict {len(value)};".encode())
        for key, inner in value.items():
            total.update(f"{key!r}:".encode())
            _feed(total, inner)
    elif isinstance(value, list | tuple):
        total.update(f"sequence {len(value)};".encode())
        for inner in value:
            _feed(total, inner)
    else:
        total.update(f"{type(value).__name__} {value!r};".encode())
