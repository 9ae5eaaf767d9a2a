"""What stands ready for a GPU: that its parts run, and write what the table shows."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import gpu
import pytest
import torch

from support import ROOT

CPU = torch.device("cpu")


def test_every_case_is_an_experiment_that_exists() -> None:
    """Also at sizes that need a GPU; a method that does not take such a setting is refused by its experiment."""
    for dry in (False, True):
        found = gpu.cases(dry)
        assert {case.method for case in found} == {"mddnet", "rd4ad", "dinomaly", "uniad", "patchcore"}
        for case in found:
            experiment = case.experiment(dry)
            assert (experiment.image_size, experiment.batch_size) == (case.size, case.batch)
    assert len({gpu.key(vars(case)) for case in gpu.cases(False)}) == 2 * 5 * 5
    assert sum(case.graphs for case in gpu.cases(False)) == 4


def test_steps_are_measured_until_the_time_is_up(tmp_path: Path) -> None:
    """A case in each way, then no time is left; the table names both, and how many times as fast as plain."""
    rates = {"operations_per_second": 1e12, "bytes_per_second": 1e10}
    gpu.write(tmp_path / "steps.jsonl", {"device": "cpu", "torch": torch.__version__, **rates})
    wanted = [case for case in gpu.cases(True) if case.method == "rd4ad" and case.precision == "float32"]
    assert [case.how for case in wanted] == [
        "plain", "ours", "plain-inference", "ours-inference", "ours, cached features",
    ]  # fmt: skip
    for case in wanted:
        found = gpu.measure(case, CPU, dry=True)
        assert found.get("error") is None
        assert found["images_per_second"] > 0
        gpu.write(tmp_path / "steps.jsonl", vars(case) | found)
    gpu.write(tmp_path / "steps.jsonl", vars(wanted[0]) | {"batch": 8, "error": "not measured: no time was left"})
    gpu.table(tmp_path)
    text = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| rd4ad")]
    assert [bool(row[6].strip()) for row in rows[:5]] == [False, True, False, True, True]
    assert "not measured: no time was left" in text
    assert "The quick suite: not measured." in text


def test_no_step_begins_when_the_time_is_up(tmp_path: Path) -> None:
    gpu.steps(tmp_path, CPU, -1.0, dry=True)
    machine, *rows = map(json.loads, (tmp_path / "steps.jsonl").read_text().splitlines())
    assert machine["operations_per_second"] > 0
    assert len(rows) == len(gpu.cases(True))
    assert {row["error"] for row in rows} == {"not measured: no time was left"}


def test_a_case_that_fails_costs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.\n Tried to allocate")

    monkeypatch.setattr(gpu, "measured", broken)
    found = gpu.measure(gpu.cases(True)[0], CPU, dry=True)
    assert found == {"error": "OutOfMemoryError: CUDA out of memory. Tried to allocate"}


def test_the_table_of_the_suite_has_both_machines(tmp_path: Path) -> None:
    row = {"cell": "rd4ad, seed 0", "seconds": 12.0, "cpu_seconds": 99.0, "peak_device_mib": 512.0}
    metrics = {"i_auroc": 0.751, "p_auroc": 0.862, "aupro": 0.643}
    (tmp_path / "suite.json").write_text(json.dumps([row | {"gpu": metrics, "cpu": metrics}]))
    lines = gpu.suite_table(tmp_path / "suite.json")
    assert lines[-2:] == [
        "| rd4ad, seed 0 | here | 75.1 | 86.2 | 64.3 | 12 | 512 |",
        "| rd4ad, seed 0 | committed | 75.1 | 86.2 | 64.3 | 99 |  |",
    ]


def test_the_script_is_sound_and_under_ten_minutes() -> None:
    file = ROOT / "benchmarks" / "gpu.sh"
    assert subprocess.run(["bash", "-n", str(file)], check=False).returncode == 0
    (limits,) = [line for line in file.read_text().splitlines() if line.startswith("device=cuda")]
    seconds = [int(word.partition("=")[2]) for word in limits.split() if word.startswith("limit_")]
    assert len(seconds) == 4
    assert sum(seconds) + 30 <= 600
