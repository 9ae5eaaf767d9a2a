"""`mddbench predict`: the model of a finished cell scores new images."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mddbench.errors import InputError
from mddbench.inference import predict as predictions_module
from mddbench.inference.export import export_model
from mddbench.inference.finished import FinishedModel, find_cell
from mddbench.inference.heat import HeatPainter
from mddbench.inference.predict import predict
from mddbench.inference.sources import count_images, find_images
from mddbench.runs.evidence import EVIDENCE, load_evidence
from mddbench.runs.maps import kept_maps
from mddbench.runs.records import RECORD, read_record
from support import mddbench, save

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(finished_cells: Path) -> FinishedModel:
    return FinishedModel.load(find_cell("folder/padim", finished_cells / "out"), CPU)


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(StringIO(text)))


def test_the_test_images_get_their_recorded_scores_and_maps(finished_cells: Path, model: FinishedModel) -> None:
    maps = {stored.category: stored.maps for stored in kept_maps(model.folder / "maps")}
    for evidence in load_evidence(model.folder / EVIDENCE):
        test = finished_cells / "photos" / evidence.category / "test"
        files = [str(test / defect / name) for defect, name in zip(evidence.defects, evidence.names, strict=True)]
        found = list(predict(model, find_images(files)))
        np.testing.assert_array_equal([each.score for each in found], evidence.scores)
        for each, kept in zip(found, maps[evidence.category], strict=True):
            assert each.map is not None
            assert each.map.shape == (64, 64)
            kept_values = kept.astype(np.float64).ravel()  # in half precision, on another scale
            assert np.corrcoef(each.map.ravel(), kept_values)[0, 1] > 0.9999


def test_a_table_with_verdicts(finished_cells: Path) -> None:
    test = finished_cells / "photos" / "bolt" / "test"
    ran = mddbench("predict", "folder/padim", test, "--out", finished_cells / "out", "-q")
    table = rows(ran.stdout)
    assert [row["name"] for row in table] == [f"{kind}/{n:03d}" for kind in ("good", "spot") for n in range(3)]
    assert {row["verdict"] for row in table} == {""}
    scores = sorted(float(row["score"]) for row in table)
    threshold = scores[3]  # a score at the threshold is not above it
    ran = mddbench(
        "predict", "folder/padim", test, "--out", finished_cells / "out", "-q", "--threshold", repr(threshold)
    )
    assert ran.returncode == 0
    for row in rows(ran.stdout):
        assert row["verdict"] == ("NG" if float(row["score"]) > threshold else "OK")
    assert [row["verdict"] for row in rows(ran.stdout)].count("NG") == 2


def test_a_folder_of_results(finished_cells: Path, tmp_path: Path) -> None:
    images, to = tmp_path / "images", tmp_path / "to"
    save(np.full((40, 90, 3), 80, dtype=np.uint8), images / "a.png")
    save(np.full((30, 30), 200, dtype=np.uint8), images / "deep" / "a.jpg")
    (images / "broken.png").write_bytes(b"no image")
    ran = mddbench("predict", "folder/padim", images, "--out", finished_cells / "out", "--to", to, "--maps")
    assert ran.returncode == 1
    assert "broken.png: not an image that can be read (8 bytes)" in ran.stderr
    assert "3 images: 2 scored, 1 unreadable" in ran.stderr
    assert ran.stdout.split() == [str(to / "predictions.csv"), str(to / "predictions.json")]
    table, listed = rows((to / "predictions.csv").read_text()), json.loads((to / "predictions.json").read_text())
    assert [row["name"] for row in table] == [entry["name"] for entry in listed] == ["a", "broken", "deep/a"]
    for row, entry in zip(table, listed, strict=True):
        assert row["score"] == ("" if entry["score"] is None else repr(entry["score"]))
    assert listed[1]["score"] is None
    assert listed[1]["fault"]
    written = sorted(path.relative_to(to).as_posix() for path in to.rglob("*.*") if path.parent != to)
    assert written == ["heat/a.png", "heat/deep/a.png", "maps/a.npy", "maps/deep/a.npy"]
    with Image.open(to / "heat" / "a.png") as picture:
        assert picture.size == (90, 40)
    assert np.load(to / "maps" / "a.npy").max() == pytest.approx(listed[0]["score"])
    assert count_images([str(tmp_path)]) == 3  # what was written there is no image to look at


def test_the_same_call_gives_the_same_json(finished_cells: Path) -> None:
    test = finished_cells / "photos" / "nut" / "test"
    calls = [
        mddbench("predict", "folder/padim", test, "--out", finished_cells / "out", "--json", "-q") for _ in range(2)
    ]
    assert calls[0].stdout == calls[1].stdout
    assert len(json.loads(calls[0].stdout)) == 6
    file = test / "good" / "000.png"
    assert json.loads(mddbench("predict", "folder/padim", file, "--out", finished_cells / "out", "--json").stdout)


def test_paths_from_standard_input(finished_cells: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = finished_cells / "photos" / "bolt" / "test" / "good" / "000.png"
    monkeypatch.setattr(sys, "stdin", StringIO(f"{file}\n\n{file}\n"))
    ran = mddbench("predict", "folder/padim", "-", "--out", finished_cells / "out")
    assert [row["name"] for row in rows(ran.stdout)] == ["000", "000-2"]
    assert "predicting: 2 " in ran.stderr


@pytest.mark.parametrize("to", [False, True])
def test_a_result_comes_before_the_next_path_is_written(to: bool, finished_cells: Path, tmp_path: Path) -> None:
    """As behind a camera that takes an image now and then."""
    file = finished_cells / "photos" / "bolt" / "test" / "good" / "000.png"
    command = [
        str(Path(sys.executable).with_name("mddbench")),
        "predict",
        "folder/padim",
        "-",
        "--out",
        str(finished_cells / "out"),
        "-q",
    ]
    command += ["--to", str(tmp_path / "seen")] if to else []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{file}\n")
        process.stdin.flush()
        if to:
            deadline = time.monotonic() + 120
            while not (tmp_path / "seen" / "heat" / "000.png").exists():
                assert time.monotonic() < deadline
                time.sleep(0.05)
        else:
            assert process.stdout.readline().startswith("image,")
            assert process.stdout.readline().startswith(str(file))
        process.stdin.close()
        assert process.wait(60) == 0


def test_images_of_any_kind_are_found(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.tiff", "notes.txt", ".hidden.png", "sub/c.webp", ".git/d.png"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.touch()
    assert [str(source.name) for source in find_images([str(tmp_path)])] == ["a", "b", "sub/c"]
    assert [str(source.name) for source in find_images([str(tmp_path / "**" / "*.webp")])] == ["c"]
    assert [str(source.name) for source in find_images([str(tmp_path / "notes.txt")])] == ["notes"]
    missing = tmp_path / ".git" / "no"
    assert [source.path for source in find_images([str(missing)])] == [missing]  # reading it says that it is not there
    with pytest.raises(InputError, match="no file fits"):
        list(find_images([str(tmp_path / "*.gif")]))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no image in this folder"):
        list(find_images([str(tmp_path / "empty")]))


def test_separate_models_must_be_told_the_category(finished_cells: Path) -> None:
    test = finished_cells / "photos" / "nut" / "test"
    ran = mddbench("predict", "folder/padim", test, "--out", finished_cells / "separate")
    assert ran.returncode == 2
    assert "separate models for each category, so give --category, one of bolt, nut" in ran.stderr
    ran = mddbench("predict", "folder/padim", test, "--out", finished_cells / "separate", "--category", "screw")
    assert ran.returncode == 2
    assert "category 'screw': expected one of bolt, nut" in ran.stderr
    ran = mddbench("predict", "folder/padim", test, "--out", finished_cells / "separate", "--category", "nut", "-q")
    evidence = load_evidence(find_cell("folder/padim", finished_cells / "separate") / EVIDENCE)[1]
    np.testing.assert_array_equal([float(row["score"]) for row in rows(ran.stdout)], evidence.scores.astype(float))
    assert {row["category"] for row in rows(ran.stdout)} == {"nut"}


def test_a_cell_is_found_by_its_folder_its_name_or_its_run(finished_cells: Path) -> None:
    from mddbench.runs.store import existing_store

    out = finished_cells / "out"
    first = find_cell("folder/padim", out)
    assert read_record(first / RECORD).seed == 0
    assert find_cell(str(first), Path("elsewhere")) == first
    assert read_record(find_cell("folder/padim", out, seed=1) / RECORD).seed == 1
    store = existing_store(None, out)
    for run in store.finished():
        assert read_record(find_cell(run.info.run_id, out) / RECORD).identity == run.data.tags["mddbench.identity"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mini/rd4ad", {}, "no finished cell of that name in .*; there are folder/padim"),
        ("folder/padim", {"seed": 7}, "no finished cell with seed 7 in .*; seeds there: 0, 1"),
        ("0" * 32, {}, "run 0{32}: no finished run of that id"),
        (".", {}, "no finished cell, since it holds no record.json"),
    ],
)
def test_a_cell_that_is_not_there(finished_cells: Path, name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_cell(name, finished_cells / "out", **options)


def test_a_damaged_cell_is_refused(finished_cells: Path, tmp_path: Path) -> None:
    def copied(name: str) -> Path:
        return Path(shutil.copytree(find_cell("folder/padim", finished_cells / "out"), tmp_path / name))

    other = copied("tensors")
    content = bytearray((other / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (other / "model.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="it is damaged"):
        FinishedModel.load(other, CPU)
    for field, value, message in (
        ("encoder_sha256", "0" * 64, "the experiment expects 0000"),
        ("method_version", 99, "made by version 99 of padim"),
    ):
        other = copied(field)
        record = json.loads((other / RECORD).read_text())
        record["card"][field] = value
        (other / RECORD).write_text(json.dumps(record))
        with pytest.raises(InputError, match=message):
            FinishedModel.load(other, CPU)
    other = copied("panels")
    (other / "panels.npz").unlink()
    with pytest.raises(InputError, match="give --no-heat"):
        HeatPainter.of_cell(other)


def test_a_map_with_nan_costs_only_its_image(
    finished_cells: Path, model: FinishedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = finished_cells / "photos" / "bolt" / "test" / "good"
    score = FinishedModel.score

    def broken(self: FinishedModel, pixels: np.ndarray, category: int = 0) -> tuple[np.ndarray, np.ndarray]:
        maps, scores = score(self, pixels, category)
        maps[1, 0, 0] = np.nan
        return maps, scores

    monkeypatch.setattr(FinishedModel, "score", broken)
    found = list(predict(model, find_images([str(test)]), threshold=0.0))
    assert [each.verdict for each in found] == ["NG", "", "NG"]
    assert "holds NaN" in found[1].fault


def test_images_are_read_only_a_little_ahead(
    finished_cells: Path, model: FinishedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictions_module, "ROOM", 4 * 3 * 64**2)
    file = str(finished_cells / "photos" / "bolt" / "test" / "good" / "000.png")
    taken = 0

    def endless() -> Any:
        nonlocal taken
        while True:
            taken += 1
            yield f"{file}\n"

    found = predict(model, find_images(["-"], endless()))
    for _ in range(40):
        next(found)
    assert taken <= 64 + 4 + 2  # two batches, and what waits to be scored


def test_the_heat_painter_shows_the_image_where_nothing_is_odd() -> None:
    painter = HeatPainter(1.0, 2.0)
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    np.testing.assert_array_equal(painter.paint(image, np.full((5, 5), 0.5)), image)
    hot = painter.paint(image, np.full((5, 5), 3.0))
    strongest = painter.colours[255]
    np.testing.assert_allclose(hot, 0.25 * image + 0.75 * strongest, atol=0.51)
    values = np.zeros((2, 3))
    values[:, 2] = 2.0
    painted = painter.paint(image, values)
    np.testing.assert_array_equal(painted[:, 0], image[:, 0])
    assert (painted[:, -1] != image[:, -1]).any()


def test_an_old_torch_is_refused(model: FinishedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.6.0+cpu")
    with pytest.raises(InputError, match=r"exporting needs torch 2\.14 or later, found 2\.6\.0\+cpu"):
        export_model(model, tmp_path / "padim.pt2", None, None)


def test_separate_models_take_turns(finished_cells: Path) -> None:
    separate = FinishedModel.load(find_cell("folder/padim", finished_cells / "separate"), CPU)
    files = {name: list(find_images([str(finished_cells / "photos" / name / "test")])) for name in ("bolt", "nut")}
    alone = {name: [each.score for each in predict(separate, files[name], name)] for name in files}
    together = zip(predict(separate, files["bolt"], "bolt"), predict(separate, files["nut"], "nut"), strict=True)
    assert [(bolt.score, nut.score) for bolt, nut in together] == list(zip(alone["bolt"], alone["nut"], strict=True))


def test_results_do_not_go_where_images_are_read(finished_cells: Path) -> None:
    test = finished_cells / "photos" / "bolt" / "test"
    for to in (test, test.parent):
        ran = mddbench("predict", "folder/padim", test, "--out", finished_cells / "out", "--to", to)
        assert ran.returncode == 2
        assert "whose images are read; give another folder" in ran.stderr
    ran = mddbench("predict", "folder/padim", test, "--out", finished_cells / "out", "--maps")
    assert "--maps: goes with --to" in ran.stderr


def test_a_name_that_is_no_text_costs_only_its_image(finished_cells: Path, tmp_path: Path) -> None:
    file = finished_cells / "photos" / "bolt" / "test" / "good" / "000.png"
    odd = tmp_path / os.fsdecode(b"caf\xe9.png")
    shutil.copy(file, odd)
    ran = mddbench(
        "predict", "folder/padim", tmp_path, "a\0b.png", "--out", finished_cells / "out", "--to", tmp_path / "to"
    )
    assert ran.returncode == 1
    assert "2 images: 1 scored, 1 unreadable" in ran.stderr
    assert len(json.loads((tmp_path / "to" / "predictions.json").read_text())) == 2


def test_a_damaged_record_hides_no_other_cell_and_is_named(finished_cells: Path, tmp_path: Path) -> None:
    shutil.copytree(finished_cells / "out" / "cells", tmp_path / "cells")
    first = find_cell("folder/padim", tmp_path)
    (first / RECORD).write_text("{")
    assert read_record(find_cell("folder/padim", tmp_path) / RECORD).seed == 1
    with pytest.raises(InputError, match=rf"seeds there: 1; left out: {first / RECORD}: not valid JSON"):
        find_cell("folder/padim", tmp_path, seed=0)
