"""Measures the machine while a cell runs on it: processor, memory, disk, network and GPUs, by MLflow's own monitor."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from mddbench.errors import InputError, TrackingError
from mddbench.runs.store import MlflowStore

NEEDED = "psutil"


def demand_monitor() -> None:
    """Raise InputError if what MLflow's monitor needs is not installed."""
    if find_spec(NEEDED) is None:
        raise InputError(f"--system-metrics: the package {NEEDED} is not installed; pip install 'mddbench[system]'")


class Monitor:
    """MLflow's monitor of the machine, in a thread of its own, which logs to a run until that ends.

    It samples every 10 seconds, or as MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL says.
    """

    def __init__(self, store: MlflowStore, run_id: str) -> None:
        """Start to measure.

        Args:
            store: The store.
            run_id: Id of the run, which is RUNNING.

        Raises:
            TrackingError: If the monitor cannot be started.
        """
        try:
            kind: Any = import_module("mlflow.system_metrics.system_metrics_monitor").SystemMetricsMonitor
            self.monitor = kind(run_id, resume_logging=True, tracking_uri=store.uri)
            self.monitor.start()
        except Exception as fault:  # noqa: BLE001 - a driver, a server or the system may raise anything
            raise TrackingError(f"the machine cannot be measured ({type(fault).__name__}: {fault})") from None

    def stop(self) -> None:
        """Log what was measured, and end the thread."""
        self.monitor.finish()
