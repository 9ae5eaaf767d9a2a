"""Pictures drawn in several processes: the same files, and what goes wrong there is told here."""

from __future__ import annotations

import os
import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from page_examples import panel
from test_figures import evidence

from mddbench.errors import InputError
from mddbench.experiments.ablation import all_ablations
from mddbench.progress import SilentReporter, reporter
from mddbench.report.build import Report, build_report
from mddbench.report.figures.draw import A_PROCESS, draw_all
from mddbench.report.rows.entries import Entry, Kept, entries_from_folder
from mddbench.report.write import write_report
from mddbench.runs.evidence import Evidence
from mddbench.runs.panels import Panel
from support import ROOT, overflow, record, touch_or_die_elsewhere


@pytest.fixture
def report() -> Report:
    """The committed runs, with panels and evidence by functions that cannot be pickled themselves."""

    def panels() -> tuple[Panel, ...]:
        return tuple(panel(category, role) for category in ("bolt", "gear") for role in ("best", "typical", "normal"))

    def kept() -> tuple[Evidence, ...]:
        return evidence("bolt"), evidence("gear")

    entries = [
        Entry(entry.record, Kept(panels), entry.run, Kept(kept)) for entry in entries_from_folder(ROOT / "results")
    ]
    return build_report(entries, all_ablations(ROOT / "results", [], print))


def test_two_processes_write_the_same_report(report: Report, tmp_path: Path) -> None:
    """All kinds of pictures, so that whatever draws can be handed to another process; and the page that holds them."""
    written = [write_report(report, tmp_path / str(processes), processes=processes) for processes in (1, 2)]
    assert [len(pictures) for _, pictures in written] == [len(report.pictures)] * 2
    files = sorted(file.relative_to(tmp_path / "1") for file in (tmp_path / "1").rglob("*.*"))
    assert len(files) > 2 * len(report.pictures)
    for file in files:
        assert (tmp_path / "2" / file).read_bytes() == (tmp_path / "1" / file).read_bytes(), file


def test_what_a_run_kept_is_loaded_once_and_handed_over_loaded() -> None:
    asked: list[str] = []
    kept = Kept(lambda: asked.append("") or ("panel",))
    assert pickle.loads(pickle.dumps(kept))() == kept() == ("panel",)
    assert len(asked) == 1


@pytest.mark.parametrize("processes", [1, 2])
def test_a_picture_that_cannot_be_drawn_is_an_error(processes: int, tmp_path: Path) -> None:
    pictures = {Path(f"{number}.png"): Path.read_bytes for number in range(2 * A_PROCESS)}
    with pytest.raises(FileNotFoundError):
        draw_all(pictures, tmp_path, processes, SilentReporter())


@pytest.mark.parametrize("processes", [1, 2])
def test_a_picture_that_fails_costs_no_other(
    processes: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = {Path(f"{number}.png"): overflow if number == 3 else Path.touch for number in range(2 * A_PROCESS)}
    draw_all(pictures, tmp_path, processes, reporter(quiet=False))
    assert len(list(tmp_path.iterdir())) == len(pictures) - 1
    assert "3.png: not drawn (OverflowError: beyond all axes)" in capsys.readouterr().err


@pytest.mark.parametrize("processes", [1, 2])
def test_what_cannot_be_loaded_is_an_error(processes: int, tmp_path: Path) -> None:
    def broken() -> tuple[Panel, ...]:
        raise InputError("panels.npz: cannot be read")

    entries = [Entry(record(seed, label=f"M{seed}", protocol=f"{seed}" * 12), Kept(broken)) for seed in range(4)]
    with pytest.raises(InputError, match="cannot be read"):
        write_report(build_report(entries, []), tmp_path, processes=processes)
    assert not (tmp_path / "index.html").exists()


def test_what_a_lost_process_leaves_is_drawn_here_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = {Path(f"{number}.png"): touch_or_die_elsewhere for number in range(2 * A_PROCESS)}
    draw_all(pictures, tmp_path, 2, reporter(quiet=False))
    assert len(list(tmp_path.iterdir())) == len(pictures)
    assert re.search(r"drawing here what is left, \d of 8 pictures: a process ended", capsys.readouterr().err)


def test_without_processes_all_is_drawn_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise NotImplementedError("no semaphores")

    monkeypatch.setattr("mddbench.report.figures.draw.ProcessPoolExecutor", refuse)
    pictures = {Path(f"{number}.png"): Path.touch for number in range(2 * A_PROCESS)}
    draw_all(pictures, tmp_path, 2, SilentReporter())
    assert len(list(tmp_path.iterdir())) == len(pictures)


def test_few_pictures_start_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mddbench.report.figures.draw.ProcessPoolExecutor", None)
    pictures = {Path(f"{number}.png"): Path.touch for number in range(2 * A_PROCESS - 1)}
    draw_all(pictures, tmp_path, 8, SilentReporter())
    assert len(list(tmp_path.iterdir())) == len(pictures)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_the_first(how: signal.Signals, tmp_path: Path) -> None:
    first = subprocess.Popen([sys.executable, "-c", SLOW, str(tmp_path)], cwd=Path(__file__).parent)
    while len(list(tmp_path.glob("*.pid"))) < 2:
        assert first.poll() is None
        time.sleep(0.1)
    first.send_signal(how)
    first.wait(20)
    others = [int(file.stem) for file in tmp_path.glob("*.pid")]
    for _ in range(100):
        if not any(map(is_running, others)):
            return
        time.sleep(0.1)
    pytest.fail(f"of {others} one is still running")


SLOW = """
import sys
from pathlib import Path
from mddbench.progress import SilentReporter
from mddbench.report.figures.draw import draw_all
from support import say_who_and_sleep
draw_all({Path(f"{number}.png"): say_who_and_sleep for number in range(8)}, Path(sys.argv[1]), 2, SilentReporter())
"""


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    try:
        return " Z " not in Path(f"/proc/{process}/stat").read_text()  # ended, and nobody has asked how
    except FileNotFoundError:  # ended in between, or a system without such files
        return not Path("/proc/self").exists()
