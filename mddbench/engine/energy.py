"""The energy that a GPU takes, by NVIDIA's own counter. Where there is none, nothing is guessed.

The counter runs since the driver was loaded and counts the whole GPU (Volta and newer). So it says something of a cell only
while no other process uses the GPU. It is read by the package nvidia-ml-py (extra `energy`).

Source: NVIDIA Management Library, nvmlDeviceGetTotalEnergyConsumption, in millijoules.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch

LEAST_SECONDS = 2.0
"""How long work is repeated to read its energy. The counter moves every 0.1 s or so."""
JOULES_PER_KWH = 3.6e6


class EnergyCounter:
    """The counter of one GPU.

    Attributes:
        library: The module of nvidia-ml-py, initialised.
        handle: The library's handle of the GPU.
    """

    def __init__(self, library: Any, handle: Any) -> None:
        """Take a counter that can be read.

        Args:
            library: The module of nvidia-ml-py, initialised.
            handle: The library's handle of the GPU.
        """
        self.library, self.handle = library, handle

    @classmethod
    def of(cls, device: torch.device) -> EnergyCounter | None:
        """Find the counter of a device.

        Args:
            device: The device.

        Returns:
            The counter; None on a CPU, without nvidia-ml-py, and for a GPU or a driver that has none.
        """
        if device.type != "cuda" or find_spec("pynvml") is None:
            return None
        library: Any = import_module("pynvml")
        try:
            library.nvmlInit()
            uuid = str(torch.cuda.get_device_properties(device).uuid)
            handle = library.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith("GPU-") else f"GPU-{uuid}")
            library.nvmlDeviceGetTotalEnergyConsumption(handle)
        except library.NVMLError:
            return None
        return cls(library, handle)

    def joules(self) -> float | None:
        """Read the counter.

        Returns:
            Joules since the driver was loaded; None unless this process is the only one on the GPU, or if it cannot be read.
        """
        try:
            if len(self.library.nvmlDeviceGetComputeRunningProcesses(self.handle)) != 1:
                return None
            return float(self.library.nvmlDeviceGetTotalEnergyConsumption(self.handle)) / 1000
        except self.library.NVMLError:
            return None

    def since(self, start: float | None) -> float | None:
        """Compute the energy since an earlier reading.

        Args:
            start: The earlier reading; None if it failed.

        Returns:
            Joules; None if one of the two readings failed, or if the counter began anew.
        """
        now = self.joules()
        return None if start is None or now is None or now < start else now - start


def joules_of(work: Callable[[], object], counter: EnergyCounter) -> float | None:
    """Measure the energy of some work, which is repeated for LEAST_SECONDS after one call that warms up.

    Args:
        work: The work. It ends when the device is done.
        counter: The counter of the device.

    Returns:
        Joules of one call; None if the counter could not be read.
    """
    work()
    before, started, calls = counter.joules(), time.perf_counter(), 0
    while time.perf_counter() - started < LEAST_SECONDS:
        work()
        calls += 1
    joules = counter.since(before)
    return None if joules is None or calls == 0 else joules / calls
