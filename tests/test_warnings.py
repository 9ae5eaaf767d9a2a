"""What is warned of is said once, for however many experiments, cells and processes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from mddbench.execution.options import RunOptions
from mddbench.execution.plan import check_cells, plan
from mddbench.progress import BarReporter, LineReporter
from support import YAML, mddbench_process


@pytest.mark.parametrize("kind", [LineReporter, BarReporter])
def test_a_warning_is_said_once_and_another_line_always(kind: type, capsys: pytest.CaptureFixture[str]) -> None:
    reporter = kind()
    for line in ("warning: a", "b", "warning: a", "b", "warning: c"):
        reporter.say(line)
    assert capsys.readouterr().err.split("\n") == ["warning: a", "b", "b", "warning: c", ""]


def test_a_dataset_is_warned_of_once_for_all_experiments(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tree / "other").mkdir()
    files = [tmp_path / f"{size}.yaml" for size in (64, 96)]
    for file in files:
        file.write_text(YAML.replace("image_size: 64", f"image_size: {file.stem}"))
    cells = plan([str(file) for file in files], "named", (0, 1), {})
    options = RunOptions(tmp_path / "out", tmp_path / "cache", torch.device("cpu"), data_root=tree)
    assert len(check_cells(cells, options, LineReporter())) == 2
    assert capsys.readouterr().err.count("other: not read, as it holds neither train/ nor test/") == 1


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_warning_of_several_cells_is_said_once(jobs: int, tree: Path, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(YAML.replace("epochs: 3", "epochs: 1"))
    shutil.copytree(tree / "nut" / "test", tree / "nut" / "more")
    asked = ("--seeds", "0,1", "--bootstrap", 10, "--set", "metrics=histogram", "--tracking", "none", "--no-report")
    ran = mddbench_process(
        "run", tmp_path / "own.yaml", "--data-root", tree, "--out", tmp_path / "out", *asked, "--jobs", jobs
    )
    assert ran.returncode == 0, ran.stderr
    lines = [line for line in ran.stderr.splitlines() if "warning: " in line]
    assert len(lines) == 2
    assert f"{tree}/nut/more: not read" in lines[0]
    assert lines[1] == "warning: the histogram engine has no confidence intervals of pixel metrics"
