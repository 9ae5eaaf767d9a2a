"""Tables on a terminal: the metrics by Rich, marked as in the report; Markdown elsewhere."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from mddbench.cli.entries import entries_from_folder
from mddbench.cli.terminal import print_tables
from mddbench.report.build import Report, build_report
from support import ROOT


@pytest.fixture(scope="module")
def report() -> Report:
    return build_report(entries_from_folder(ROOT / "results" / "mini"), ())


def shown(report: Report, width: int, colour: bool = False) -> list[str]:
    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=colour, color_system="standard" if colour else None)
    print_tables(report, console)
    return stream.getvalue().splitlines()


def test_a_terminal_shows_the_metrics_in_a_line_for_each_method(report: Report) -> None:
    lines = shown(report, 140)
    (row,) = [line for line in lines if line.startswith("MDD-Net")]
    assert row.split()[:5] == ["MDD-Net", "3", "83.1", "±", "2.0"]
    head = next(line for line in lines if line.startswith("Method"))
    assert head.split() == ["Method", "n", "I-AUROC", "I-AP", "I-F1max", "P-AUROC", "P-AP", "P-F1max", "AUPRO", "mAD"]
    assert not any("Protocol" in line for line in lines)
    assert all(len(line) <= 140 for line in lines)


def test_the_best_is_bold_and_the_second_underlined(report: Report) -> None:
    text = "\n".join(shown(report, 140, colour=True))
    assert "\x1b[1m83.1 ± 2.0" in text
    assert "\x1b[4m76.6 ± 1.2" in text


def test_a_narrow_terminal_leaves_out_deviations_and_breaks_no_word(report: Report) -> None:
    lines = shown(report, 80)
    assert all(len(line) <= 80 for line in lines)
    (row,) = [line for line in lines if line.startswith("MDD-Net")]
    assert row.split()[:4] == ["MDD-Net", "3", "83.1", "90.7"]
    assert len(next(line for line in lines if line.startswith("Method")).split()) == 10


def test_elsewhere_it_is_markdown(report: Report, capsys: pytest.CaptureFixture[str]) -> None:
    print_tables(report)
    assert "| Method | n | I-AUROC |" in capsys.readouterr().out
