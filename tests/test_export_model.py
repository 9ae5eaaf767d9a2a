"""`mddbench export-model`: one file that scores as the suite does."""

from __future__ import annotations

import builtins
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mddbench.errors import InputError
from mddbench.inference import export
from mddbench.inference.export import export_model
from mddbench.inference.finished import FinishedModel, find_cell
from mddbench.runs.panels import PANELS, load_panels
from support import mddbench

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(not export.can_export(), reason="needs a newer torch to export")


def pixels(count: int, size: int = 64) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def model(finished_cells: Path) -> FinishedModel:
    return FinishedModel.load(find_cell("folder/padim", finished_cells / "out"), CPU)


def test_an_onnx_file_scores_as_the_suite(finished_cells: Path, model: FinishedModel, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    file, images = tmp_path / "deep" / "padim.onnx", pixels(5)
    maps, scores = model.score(images)
    threshold = float(np.sort(scores)[2:4].mean())
    ran = mddbench("export-model", "folder/padim", file, "--threshold", threshold, "--out", finished_cells / "out")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == [str(file), str(file.with_name("padim.onnx.md"))]
    assert "it takes any number of images at once" in ran.stderr
    session = onnxruntime.InferenceSession(file)
    for count in (5, 1):
        found = session.run(["scores", "maps", "defective"], {"pixels": images[:count]})
        np.testing.assert_allclose(found[0], scores[:count], rtol=1e-4)
        np.testing.assert_allclose(found[1], maps[:count], rtol=1e-4, atol=1e-4 * maps.max())
    assert session.run(["defective"], {"pixels": images})[0].sum() == 2
    card = file.with_name("padim.onnx.md").read_text(encoding="utf-8")
    assert f"true for a score above {threshold!r} (as given)." in card
    assert model.record.model_sha256 in card
    assert re.search(r"scores differed from the suite's by \d\.\de-\d\d of the largest one", card)
    assert sorted(path.name for path in file.parent.iterdir()) == ["padim.onnx", "padim.onnx.md"]


def test_a_program_of_torch_scores_as_the_suite(model: FinishedModel, tmp_path: Path) -> None:
    images = pixels(3)
    exported = export_model(model, tmp_path / "padim.pt2", None, None)
    assert exported.batch is None
    assert exported.difference <= 1e-6
    assert exported.probes == 4 + len(load_panels(model.folder / PANELS))
    found = torch.export.load(exported.file).module()(torch.from_numpy(images))
    assert len(found) == 2
    np.testing.assert_allclose(found[0], model.score(images)[1], rtol=1e-6)


def test_separate_models_are_exported_one_by_one(finished_cells: Path, tmp_path: Path) -> None:
    separate = FinishedModel.load(find_cell("folder/padim", finished_cells / "separate"), CPU)
    with pytest.raises(InputError, match="give --category, one of bolt, nut"):
        export_model(separate, tmp_path / "nut.pt2", None, None)
    images, scores = pixels(2), []
    for category in ("nut", "bolt"):
        file = tmp_path / f"{category}.pt2"
        export_model(separate, file, category, None)
        found = torch.export.load(file).module()(torch.from_numpy(images))[0]
        np.testing.assert_allclose(found, separate.score(images, separate.choose(category))[1], rtol=1e-6)
        scores.append(found)
    assert not torch.equal(*scores)


def test_a_file_that_scores_otherwise_is_not_kept(
    model: FinishedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = export._write_program

    def broken(program: Any, file: Path) -> Any:
        run = write(program, file)
        return lambda images: run(images) * 1.001

    monkeypatch.setattr(export, "_write_program", broken)
    with pytest.raises(InputError, match=r"not kept, since its scores differ from the suite's by 1\.0e-03"):
        export_model(model, tmp_path / "padim.pt2", None, None)
    assert not list(tmp_path.iterdir())


def test_a_method_that_cannot_be_traced_is_refused(
    model: FinishedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps_of = type(model.detector).anomaly_maps

    def sorting(self: Any, images: torch.Tensor) -> torch.Tensor:
        maps = maps_of(self, images)
        return maps * len(maps.unique()) if images.unique().sum() > 0 else maps

    monkeypatch.setattr(type(model.detector), "anomaly_maps", sorting)
    with pytest.raises(InputError, match="padim: cannot be exported with these settings"):
        export_model(model, tmp_path / "padim.pt2", None, None)
    assert not list(tmp_path.iterdir())


def test_what_is_refused_before_any_work(model: FinishedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"expected a file name that ends in \.onnx or \.pt2"):
        export_model(model, tmp_path / "padim.pt", None, None)
    half = FinishedModel(
        model.folder,
        model.record.model_copy(update={"settings": model.record.settings | {"precision": "bfloat16"}}),
        model.detector,
        {},
    )
    with pytest.raises(InputError, match="scored in bfloat16; only float32 is exported"):
        export_model(half, tmp_path / "padim.pt2", None, None)
    find = builtins.__import__

    def missing(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "onnxscript":
            raise ImportError(name)
        return find(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(InputError, match=r"needs the package onnx\w*; pip install 'mddbench\[onnx\]'"):
        export_model(model, tmp_path / "padim.onnx", None, None)
    assert not list(tmp_path.iterdir())


def test_a_fault_of_the_writer_is_one_line(
    model: FinishedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("no such operator\nand much more")

    monkeypatch.setattr(export, "_write_program", broken)
    with pytest.raises(InputError, match=r"padim cannot be written in this form \(no such operator\)$"):
        export_model(model, tmp_path / "padim.pt2", None, None)
    assert not list(tmp_path.iterdir())
