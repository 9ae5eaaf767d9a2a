"""Own images in a report: their name, the shape of their tiles, and all of them by score."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from page_examples import panel
from PIL import Image

from mddbench.data.images import ORIENTATION, aspect_of
from mddbench.report.build import build_report
from mddbench.report.figures.tiles import Grid, fitted, outlined
from mddbench.report.page.page import Page, Section, render_page
from mddbench.report.page.tiles import WIDTH, gallery_of
from mddbench.report.rows.entries import Entry
from mddbench.runs.panels import ANY, PANELS, Panel, load_panels, save_panels
from mddbench.runs.records import IMAGES, read_record
from support import mddbench, record, save, write_tree


def named(name: str, seed: int = 0, **changes: str) -> Entry:
    return Entry(record(seed, dataset="folder", environment={IMAGES: name}, **changes), tuple)


def files_of(*entries: Entry) -> set[str]:
    return {file.parent.as_posix() for file in build_report(list(entries), []).texts}


def test_own_images_are_called_by_their_name() -> None:
    report = build_report([named("photos")], [])
    assert list(report.main) == ["photos"]
    assert report.texts[Path("photos/main.md")].startswith("### photos: ")
    assert files_of(Entry(record(dataset="folder"), tuple)) == {"folder"}, "records from before have no name"
    three = (named("photos", seed=seed) if seed else named("a", seed=seed) for seed in range(3))
    assert list(build_report(list(three), []).main) == ["photos"], "one tree is one dataset"
    two = (named("photos"), named("photos", protocol="b" * 12, fingerprint="e" * 64))
    assert files_of(*two) == {"photos-eeeeeeee", "photos-ffffffff"}


@pytest.mark.parametrize("name", ["../../etc", "a/b", "..", "\\x", "<b>"])
def test_a_name_cannot_lead_out_of_the_report(name: str) -> None:
    (folder,) = files_of(named(name))
    assert folder
    assert not {"/", "\\", ".", "<"} & set(folder)


def of_shape(aspect: float | None, role: str = "worst", score: float = 0.5) -> Panel:
    return replace(panel(role=role, score=score), aspect=aspect)


@pytest.mark.parametrize(("aspect", "size"), [(None, (64, 64)), (1.0, (64, 64)), (2.0, (64, 32)), (0.25, (16, 64))])
def test_a_tile_has_the_shape_of_its_file(aspect: float | None, size: tuple[int, int]) -> None:
    assert size[0] <= WIDTH
    tile = gallery_of([of_shape(aspect)], "photos", "A").tiles[0]
    for content in (tile.image, tile.heat, tile.truth):
        with Image.open(io.BytesIO(content)) as picture:
            assert picture.size == size
    assert outlined(panel().image, of_shape(aspect)).shape[:2] == size[::-1]


def test_a_tile_of_a_figure_is_not_stretched() -> None:
    wide = np.full((10, 40, 3), 9, dtype=np.uint8)
    whole = Grid(side=20, gap=0, line=0).joined([[wide]], 1)
    covered = whole[..., 3] == 255
    assert covered.sum() == 20 * 5
    assert covered[7:12].all()
    assert fitted(wide, 20, None, "BOX").shape == (5, 20, 3)


def test_the_shape_of_a_file_is_that_of_the_turned_image(tmp_path: Path) -> None:
    picture = Image.new("RGB", (30, 10))
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    picture.save(tmp_path / "turned.jpg", exif=exif)
    picture.save(tmp_path / "plain.png")
    assert aspect_of(tmp_path / "plain.png") == 3
    assert aspect_of(tmp_path / "turned.jpg") == pytest.approx(1 / 3)
    assert aspect_of(tmp_path / "gone.png") is None


def test_shapes_survive_a_file_and_older_files_have_none(tmp_path: Path) -> None:
    panels = (of_shape(2.0), of_shape(None))
    save_panels(panels, tmp_path / PANELS)
    assert [one.aspect for one in load_panels(tmp_path / PANELS)] == [2.0, None]
    with np.load(tmp_path / PANELS) as stored:
        arrays = {name: array for name, array in stored.items() if name != "aspects"}
    np.savez(tmp_path / PANELS, **arrays)
    assert [one.aspect for one in load_panels(tmp_path / PANELS)] == [None, None]


def test_every_image_stands_by_score_behind_the_chosen_ones() -> None:
    shown = gallery_of([of_shape(1.0, ANY, score) for score in (0.1, float("inf"), 0.7)] + [panel()], "photos", "A")
    assert [(tile.role, tile.score) for tile in shown.tiles[1:]] == [
        ("every test image", float("inf")),
        ("every test image", 0.7),
        ("every test image", 0.1),
    ]
    assert 'value="every test image"' in render_page(Page("t", (Section("a", "A", gallery=shown),)))


def test_a_run_on_own_images(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "photos")
    save(np.full((20, 90, 3), 99, dtype=np.uint8), tree / "bolt" / "test" / "good" / "000.png")
    common = ("--data-root", tree, "--tracking", "none", "-q", "--out", tmp_path / "out")
    small = (word for each in ("image_size=64", "batch_size=4", "settings.channels=8") for word in ("--set", each))
    arguments = ("run", "folder/padim", "--seeds", "0", *common, *small)
    assert mddbench(*arguments, "--no-report").returncode == 0
    (file,) = tmp_path.glob("out/cells/*/record.json")
    before = read_record(file)
    assert before.environment[IMAGES] == "photos"
    assert {one.role for one in load_panels(file.with_name(PANELS))} == {"best", "worst", "typical", "normal"}
    again = mddbench(*arguments, "--all-images", "--name", "parts of line 3")
    assert again.returncode == 0, again.stderr
    kept = [one for one in load_panels(file.with_name(PANELS)) if one.role == ANY]
    assert len(kept) == 12, "every test image of a finished cell, which is not trained again"
    assert {round(one.aspect or 0, 3) for one in kept} == {round(56 / 48, 3), 4.5}
    assert read_record(file) == before
    assert (tmp_path / "out/report/photos/main.md").exists(), "a finished cell keeps the name that it has"
    third = mddbench(*arguments[:3], "1", *arguments[4:], "--name", "parts of line 3", "--no-report")
    assert third.returncode == 0, third.stderr
    records = {one.seed: one for one in map(read_record, tmp_path.glob("out/cells/*/record.json"))}
    assert records[1].shown_dataset == "parts of line 3"
    assert records[1].protocol == records[0].protocol, "a name is no part of a cell's identity"


def test_a_name_is_for_own_images_alone() -> None:
    refused = mddbench("run", "mini/rd4ad", "--name", "photos", "--dry-run")
    assert refused.returncode == 2
    assert "--name 'photos': expected a name for your own images" in refused.stderr
