"""Figures are drawn one by one: what goes wrong with one of them is reported."""

from __future__ import annotations

from pathlib import Path

import pytest
from page_examples import panel
from test_figures import evidence

from mddbench.cli.entries import loaded_once
from mddbench.errors import InputError
from mddbench.experiments.ablation import all_ablations
from mddbench.progress import SilentReporter, reporter
from mddbench.report.build import build_report
from mddbench.report.rows.entries import Entry
from mddbench.report.write import draw_all, write_report
from mddbench.runs.panels import Panel
from mddbench.runs.records import read_record
from support import ROOT, overflow, record


def test_what_a_run_kept_is_loaded_once() -> None:
    calls: list[str] = []
    kept = loaded_once(lambda: calls.append("") or ("panel",))
    assert kept() == kept() == ("panel",)
    assert len(calls) == 1


def test_a_picture_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        draw_all({Path("0.png"): Path.read_bytes}, tmp_path, SilentReporter())


def test_a_picture_that_fails_costs_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = {Path(f"{number}.png"): overflow if number == 3 else Path.touch for number in range(8)}
    draw_all(pictures, tmp_path, reporter(quiet=False))
    assert len(list(tmp_path.iterdir())) == len(pictures) - 1
    assert "3.png: not drawn (OverflowError: beyond all axes)" in capsys.readouterr().err


def test_what_an_earlier_report_drew_is_gone_where_a_picture_fails(tmp_path: Path) -> None:
    for suffix in (".png", ".pdf"):
        (tmp_path / f"0{suffix}").touch()
    draw_all({Path("0.png"): overflow}, tmp_path, SilentReporter())
    assert not list(tmp_path.iterdir())


@pytest.mark.renders
def test_all_kinds_of_figures_are_drawn(tmp_path: Path) -> None:
    """Of committed records with an ablation, and panels and curves beside them."""
    kept = [
        Entry(
            record,
            lambda: tuple(
                panel(category, role) for category in ("bolt", "gear") for role in ("best", "typical", "normal")
            ),
            file.name,
            lambda: (evidence("bolt"), evidence("gear")),
        )
        for file in sorted((ROOT / "results" / "mini").glob("*-seed0*.json"))
        for record in [read_record(file)]
        if "ablation" not in record.experiment or "fusion" in record.experiment
    ]
    report = build_report(kept, all_ablations(ROOT / "results", [], print))
    _, pictures = write_report(report, tmp_path)
    without_shift = [name for name in report.pictures if not name.stem.startswith("robustness")]  # no cell was shifted
    assert len(pictures) == len(without_shift) == len(report.pictures) - 3
    assert {name.stem.partition("-")[0] for name in report.pictures} >= {
        "ablation",
        "gallery",
        "scores",
        "across",
        "curves",
    }


def test_what_cannot_be_loaded_is_an_error(tmp_path: Path) -> None:
    def broken() -> tuple[Panel, ...]:
        raise InputError("panels.npz: cannot be read")

    entries = [Entry(record(seed, label=f"M{seed}", protocol=f"{seed}" * 12), loaded_once(broken)) for seed in range(4)]
    with pytest.raises(InputError, match="cannot be read"):
        write_report(build_report(entries, []), tmp_path)
    assert not (tmp_path / "index.html").exists()
