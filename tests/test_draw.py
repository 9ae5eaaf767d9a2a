"""Pictures drawn in several processes: the same files, and what goes wrong there is told here."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from page_examples import panel
from test_figures import evidence

from mddbench.ablation import all_ablations
from mddbench.errors import InputError
from mddbench.evidence import Evidence
from mddbench.panels import Panel
from mddbench.report.build import Report, build_report
from mddbench.report.draw import A_PROCESS, draw_all
from mddbench.report.entries import Entry, Kept, entries_from_folder
from mddbench.report.write import write_report
from support import ROOT, die_at_seed_1


@pytest.fixture
def report() -> Report:
    """The committed runs, with panels and evidence by functions that cannot be pickled."""

    def panels() -> tuple[Panel, ...]:
        return tuple(panel(category, role) for category in ("bolt", "gear") for role in ("best", "typical", "normal"))

    def kept() -> tuple[Evidence, ...]:
        return evidence("bolt"), evidence("gear")

    entries = [Entry(entry.record, panels, entry.run, kept) for entry in entries_from_folder(ROOT / "results")]
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
        draw_all(pictures, tmp_path, processes, lambda: None)


def test_a_process_that_dies_is_one_line(tmp_path: Path) -> None:
    pictures = {Path(f"seed{number}.png"): die_at_seed_1 for number in range(2 * A_PROCESS)}
    with pytest.raises(InputError, match=r"ended from outside.*`mddbench report` draws again") as fault:
        draw_all(pictures, tmp_path, 2, lambda: None)
    assert "\n" not in str(fault.value)


def test_few_pictures_start_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mddbench.report.draw.ProcessPoolExecutor", None)
    pictures = {Path(f"{number}.png"): Path.touch for number in range(2 * A_PROCESS - 1)}
    draw_all(pictures, tmp_path, 8, lambda: None)
    assert len(list(tmp_path.iterdir())) == len(pictures)
