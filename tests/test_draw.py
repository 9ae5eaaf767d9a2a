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
        return panel("bolt"), panel("bolt", "best"), panel("gear", "normal")

    def kept() -> tuple[Evidence, ...]:
        return evidence("bolt"), evidence("gear")

    entries = [Entry(entry.record, panels, entry.run, kept) for entry in entries_from_folder(ROOT / "results")]
    return build_report(entries, all_ablations(ROOT / "results", [], print))


def test_two_processes_draw_the_same_files(report: Report, tmp_path: Path) -> None:
    """Each kind of picture, so that all that draws can be handed to another process."""
    told: list[None] = []
    few = {name: draw for name, draw in report.pictures.items() if not name.stem.startswith("ablation-")}
    draw_all(few, tmp_path / "one", 1, lambda: told.append(None))
    draw_all(few, tmp_path / "two", 2, lambda: told.append(None))
    files = sorted(file.relative_to(tmp_path / "one") for file in (tmp_path / "one").rglob("*.p*"))
    assert len(told) == 2 * len(few)
    assert {file.with_suffix(".png") for file in files} == set(few)
    for file in files:
        assert (tmp_path / "two" / file).read_bytes() == (tmp_path / "one" / file).read_bytes(), file


def test_pictures_of_ablations_can_be_handed_over(report: Report) -> None:
    drawn = [draw for name, draw in report.pictures.items() if name.stem.startswith("ablation-")]
    assert drawn
    assert pickle.loads(pickle.dumps(drawn))


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


def test_a_report_is_written_in_processes(report: Report, tmp_path: Path) -> None:
    _, pictures = write_report(report, tmp_path, processes=2)
    assert len(pictures) == len(report.pictures)
    assert (tmp_path / "index.html").stat().st_size > 100_000
