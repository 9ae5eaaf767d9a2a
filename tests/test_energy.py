"""Energy by the counter of a GPU, with a stand-in for NVIDIA's library."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mddbench.engine import cost, energy
from mddbench.engine.cost import ENERGIES, TIMES
from mddbench.engine.energy import EnergyCounter, joules_of
from mddbench.report.tables.costs import COSTS
from mddbench.runs.records import EpochLog


class Library:
    """A GPU that takes 1.5 J between any two readings."""

    class NVMLError(Exception):
        pass

    def __init__(self) -> None:
        self.millijoules, self.processes, self.broken = 1000, 1, False

    def nvmlInit(self) -> None:  # noqa: N802 - the library's names
        if self.broken:
            raise self.NVMLError("no driver")

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        return uuid

    def nvmlDeviceGetComputeRunningProcesses(self, _: str) -> list[int]:  # noqa: N802
        return list(range(self.processes))

    def nvmlDeviceGetTotalEnergyConsumption(self, _: str) -> int:  # noqa: N802
        if self.broken:
            raise self.NVMLError("not supported")
        self.millijoules += 1500
        return self.millijoules


@pytest.fixture
def library() -> Library:
    return Library()


@pytest.fixture
def counter(library: Library) -> EnergyCounter:
    return EnergyCounter(library, "GPU-1")


def test_a_difference_of_two_readings(counter: EnergyCounter) -> None:
    assert counter.since(counter.joules()) == 1.5


@pytest.mark.parametrize(
    "what", ["others use the GPU", "we are not listed", "it cannot be read", "no first reading", "it began anew"]
)
def test_nothing_is_guessed(what: str, library: Library, counter: EnergyCounter) -> None:
    start = counter.joules()
    if what == "others use the GPU":
        library.processes = 2
    elif what == "we are not listed":
        library.processes = 0
    elif what == "it cannot be read":
        library.broken = True
    elif what == "no first reading":
        start = None
    else:
        library.millijoules = 0
    assert counter.since(start) is None


def test_a_cpu_has_no_counter() -> None:
    assert EnergyCounter.of(torch.device("cpu")) is None


def test_a_gpu_is_found_by_its_uuid(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "find_spec", lambda _: True)
    monkeypatch.setattr(energy, "import_module", lambda _: library)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="ab-12"))
    found = EnergyCounter.of(torch.device("cuda"))
    assert found is not None
    assert found.handle == "GPU-ab-12"
    library.broken = True
    assert EnergyCounter.of(torch.device("cuda")) is None
    monkeypatch.setattr(energy, "find_spec", lambda _: None)
    assert EnergyCounter.of(torch.device("cuda")) is None


def test_work_is_repeated_and_its_energy_shared_out(
    library: Library, counter: EnergyCounter, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]

    def work() -> None:
        now[0] += 0.5
        library.millijoules += 2000

    monkeypatch.setattr(energy, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    assert joules_of(work, counter) == (4 * 2.0 + 1.5) / 4
    library.processes = 2
    assert joules_of(work, counter) is None


def log(joules: float | None) -> EpochLog:
    return EpochLog(epoch=1, loss=1.0, terms={}, lr=0.1, seconds=1.0, images=4, joules=joules)


def test_costs_of_a_cell(counter: EnergyCounter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "_inference", lambda *_: None)
    monkeypatch.setattr(cost, "joules_of", lambda *_: 64.0)
    detector: Any = None
    assert cost.energy(detector, 32, "float32", [log(1.8e6), log(5.4e6)], counter) == {
        "train_kwh": 2.0,
        "inference_joules_per_image": 2.0,
    }
    assert cost.energy(detector, 32, "float32", [log(1.0), log(None)], counter)["train_kwh"] is None
    assert cost.energy(detector, 32, "float32", [], counter)["train_kwh"] is None, "weights from a file"
    assert cost.energy(detector, 32, "float32", [log(1.0)], None) == {}
    assert set(ENERGIES) <= set(TIMES)
    assert set(ENERGIES) <= set(COSTS)


def test_a_log_without_energy_is_written_as_before() -> None:
    assert "joules" not in log(None).model_dump()
    assert log(2.0).model_dump()["joules"] == 2.0
    assert EpochLog(**log(2.0).model_dump()) == log(2.0)
