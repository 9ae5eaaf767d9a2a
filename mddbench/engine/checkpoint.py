"""The checkpoint file from which an interrupted training is resumed.

It is written at the end of epochs, and inside an epoch if a signal stops it or if that is asked for.
It is refused if a single byte of its content has changed.
"""

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
"""Greatest share of the time that may be spent on writing checkpoints."""
DIGEST = "sha256"
"""Key of the hash of all other content of a checkpoint. PyTorch does not verify the checksums of its archives."""


@dataclass(frozen=True)
class Inside:
    """Where a training stands inside an epoch.

    Attributes:
        step: Number of steps of the epoch that are done.
        rows: Name -> loss of each of these steps.
        seconds: Time in seconds that they took; None if other cells ran on the device.
        random: State of the random generators after them.
    """

    step: int
    rows: list[dict[str, float]]
    seconds: float | None
    random: dict[str, Any]


@dataclass
class Progress:
    """How much of a training is done.

    Attributes:
        epoch: Number of finished epochs.
        history: One entry for each finished epoch.
        test_curve: Metrics of the test split after some epochs, if they were requested.
        inside: Where it stands in the next epoch; None at the end of an epoch.
    """

    epoch: int = 0
    history: list[EpochLog] = field(default_factory=list)
    test_curve: list[CurvePoint] = field(default_factory=list)
    inside: Inside | None = None


class Checkpoint:
    """The checkpoint file of a training.

    Attributes:
        file: Path of the file.
        last_written: Monotonic time in seconds when the file was last written, or when this object was created.
        write_seconds: Seconds that the last writing took, 0 before the first.
        demand: Called before each writing. Raises if another process trains the cell now.
    """

    demand: Callable[[], object] = staticmethod(lambda: None)

    def __init__(self, file: Path) -> None:
        """Prepare a checkpoint. Nothing is read or written yet.

        Args:
            file: Path of the file, which need not exist.
        """
        self.file = file
        self.last_written, self.write_seconds = time.monotonic(), 0.0

    def load(self, device: torch.device) -> tuple[Progress, dict[str, Any]] | None:
        """Read the file.

        An InputError is raised if the file cannot be read or has changed since it was written.

        Args:
            device: Device of the loaded tensors.

        Returns:
            The progress of the training and the saved states; None if there is no file.
        """
        if not self.file.exists():
            return None
        try:
            return self._read(device)
        except Exception as fault:  # noqa: BLE001 - a broken file can raise almost anything
            raise self.unusable(
                f"{type(fault).__name__}: {str(fault).splitlines()[0][:120] if str(fault) else ''}"
            ) from None

    def _read(self, device: torch.device) -> tuple[Progress, dict[str, Any]]:
        """Read the file and raise ValueError if its hash is wrong."""
        saved = torch.load(self.file, map_location=device, weights_only=True)
        if DIGEST not in saved:
            raise ValueError("it holds no hash: an earlier version wrote it")
        if saved.pop(DIGEST) != digest_of(saved):
            raise ValueError("it is damaged: its content has another hash than was written with it")
        history = [EpochLog(**log) for log in saved.pop("history")]
        test_curve = [CurvePoint(**point) for point in saved.pop("looks")]
        inside = saved.pop("inside", None)
        return Progress(saved.pop("epoch"), history, test_curve, Inside(**inside) if inside else None), saved

    def unusable(self, reason: str) -> InputError:
        """Return the error for a checkpoint that cannot be used.

        Args:
            reason: What is wrong with it, in a few words.

        Returns:
            The error, to be raised by the caller.
        """
        return InputError(f"{self.file}: cannot be resumed from ({reason}); start the cell anew with --force")

    @property
    def is_due(self) -> bool:
        """True if enough time has passed since the last writing, compared with the time that the writing took."""
        return (time.monotonic() - self.last_written) * SHARE >= self.write_seconds

    def save(self, progress: Progress, states: dict[str, Any], say: Callable[[str], object]) -> None:
        """Write the file under another name and rename it. If the process is killed, the previous file remains.

        If the disk is full, a message says so, and the training continues without this file.

        Args:
            progress: The progress of the training.
            states: Nested dicts and lists of tensors, numbers and texts.
            say: Called with a message if the file cannot be written.

        Raises:
            FileNotFoundError: If the folder no longer exists.
        """
        self.demand()
        started = time.monotonic()
        content = {
            **states,
            "epoch": progress.epoch,
            "history": [log.model_dump() for log in progress.history],
            "looks": [point.model_dump() for point in progress.test_curve],
            "inside": vars(progress.inside) if progress.inside else None,
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
    """Compute a hash of nested dicts and sequences of tensors, numbers and texts.

    Every key, type, shape and value counts.

    Args:
        content: The nested dicts and sequences.

    Returns:
        The SHA-256 in hex.
    """
    total = hashlib.sha256()
    _update(total, content)
    return total.hexdigest()


def _update(total: Any, value: Any) -> None:
    """Add a value to a running hash, and all values inside it."""
    if isinstance(value, Tensor):
        host = value.detach().cpu().contiguous()
        total.update(f"tensor {host.dtype} {tuple(host.shape)};".encode())
        total.update(host.reshape(-1).view(torch.uint8).numpy() if host.numel() else b"")
    elif isinstance(value, dict):
        total.update(f"dict {len(value)};".encode())
        for key, inner in value.items():
            total.update(f"{key!r}:".encode())
            _update(total, inner)
    elif isinstance(value, list | tuple):
        total.update(f"sequence {len(value)};".encode())
        for inner in value:
            _update(total, inner)
    else:
        total.update(f"{type(value).__name__} {value!r};".encode())
