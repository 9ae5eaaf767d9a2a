"""The notebook of the documentation: its cells run one after another, and its results are those of a whole run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest

from support import ROOT

NOTEBOOK = ROOT / "docs" / "first_hour.ipynb"


def cells() -> list[dict[str, Any]]:
    content: dict[str, Any] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return [cell for cell in content["cells"] if cell["cell_type"] == "code"]


def test_its_results_are_of_one_run_from_the_beginning() -> None:
    assert [cell["execution_count"] for cell in cells()] == list(range(1, len(cells()) + 1))
    outputs = [output for cell in cells() for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} <= {"stream", "display_data", "execute_result"}
    assert any("image/png" in output.get("data", {}) for output in outputs)


def test_its_cells_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """On images of half the side, so that it takes seconds; figures are built and not shown."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    with mpl.rc_context({"backend": "agg"}):
        for number, cell in enumerate(cells()):
            code = "".join(cell["source"]).replace("seeds=[0]", "seeds=[0], image_size=64")
            exec(compile(code.replace("image_size=128", "image_size=64"), f"cell {number}", "exec"), names)
    printed = capsys.readouterr().out
    assert "PaDiM: image AUROC" in printed
    assert "false alarms: " in printed
