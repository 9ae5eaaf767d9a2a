"""The costs of methods in tables. Every number is one that `mddbench.engine.cost` measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mddbench.report.rows.groups import Group
from mddbench.runs.records import Record


@dataclass(frozen=True)
class Cost:
    """A column of costs.

    Attributes:
        label: Head of the column.
        scale: Factor from the unit of records to the unit of the column.
        digits: Number of decimals.
    """

    label: str
    scale: float
    digits: int


COSTS: dict[str, Cost] = {
    "parameters_total": Cost("Params [M]", 1e-6, 1),
    "parameters_trainable": Cost("Trained [M]", 1e-6, 1),
    "model_mib": Cost("Model [MiB]", 1.0, 1),
    "multiply_adds": Cost("MACs [G]", 1e-9, 2),
    "train_seconds": Cost("Train [s]", 1.0, 0),
    "train_images_per_second": Cost("Train [img/s]", 1.0, 0),
    "inference_ms_per_image": Cost("Infer [ms/img]", 1.0, 2),
    "latency_ms": Cost("Latency [ms]", 1.0, 2),
    "latency_p95_ms": Cost("95 % [ms]", 1.0, 2),
    "latency_decoded_ms": Cost("Decoded [ms]", 1.0, 2),
    "latency_decoded_p95_ms": Cost("Decoded 95 % [ms]", 1.0, 2),
    "throughput_images_per_second": Cost("Throughput [img/s]", 1.0, 0),
    "throughput_batch": Cost("at batch", 1.0, 0),
    "train_kwh": Cost("Train [kWh]", 1.0, 3),
    "inference_joules_per_image": Cost("Infer [J/img]", 1.0, 3),
    "peak_host_mib": Cost("Host peak [MiB]", 1.0, 0),
    "peak_device_mib": Cost("GPU peak [MiB]", 1.0, 0),
}


def mean_cost(records: Sequence[Record], key: str) -> float:
    """Compute the mean of a cost over seeds.

    Args:
        records: The records of a row.
        key: Key of the cost.

    Returns:
        The mean in the unit of records; NaN if a seed has no value.
    """
    values = [record.cost.get(key) for record in records]
    measured = [value for value in values if value is not None]
    return sum(measured) / len(measured) if measured and len(measured) == len(values) else math.nan


def shown_cost(value: float, key: str) -> str:
    """Format a cost for a table.

    Args:
        value: The cost in the unit of records.
        key: Key of the cost.

    Returns:
        The text; a dash for NaN.
    """
    column = COSTS[key]
    return "–" if math.isnan(value) else f"{value * column.scale:.{column.digits}f}"


def cost_note(groups: Sequence[Group]) -> str:
    """Describe where and how the costs of some rows were measured.

    Args:
        groups: The rows.

    Returns:
        A note for the table.
    """
    records = [record for group in groups for record in group.records]
    batches = sorted({f"{record.cost.get('inference_batch') or 0:.0f}" for record in records} - {"0"})
    shared = any((record.environment.get("cells_on_device") or 1) != 1 for record in records)
    return (
        f"Cost: means over seeds, {cost_machines(records)}; multiply-adds are of one image's maps; inference in "
        f"batches of {' and '.join(batches) or '?'}, the median of synchronised calls after a first one; peaks from a cell's "
        f"start to its end{'; no times of cells that shared their device with others' if shared else ''}."
    )


def cost_machines(records: Sequence[Record]) -> str:
    """Describe the machines on which costs were measured.

    Args:
        records: The records.

    Returns:
        The words, such as 'measured on A, 2 threads'.
    """
    machines = sorted({_machine(record) for record in records})
    if len(machines) != 1:
        return f"measured on several machines, so not to be compared ({'; '.join(machines)})"
    threads = sorted({f"{record.environment.get('threads') or '?'}" for record in records})
    many = "s" if threads != ["1"] else ""
    on_cpu = records[0].environment.get("device") == "cpu"
    return f"measured on {machines[0]}" + (f", {' and '.join(threads)} thread{many}" if on_cpu else "")


def _machine(record: Record) -> str:
    device = record.environment.get("device")
    return str(record.environment.get("processor") or "a CPU") if device == "cpu" else str(device or "?")
