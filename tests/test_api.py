"""The Python API, and the examples in its documentation."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import mddbench
from mddbench.errors import CellError, InputError
from mddbench.metrics.names import COLUMNS, SEVEN
from mddbench.metrics.suite import evaluate, mean_over_categories
from mddbench.runs.evidence import EVIDENCE, load_evidence
from support import write_tree

SMALL: dict[str, Any] = {"image_size": 64, "batch_size": 4, "settings__channels": 8, "tracking": "none"}
DOCUMENT = Path(__file__).parent.parent / "docs" / "python.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("api")
    write_tree(folder / "photos")
    return folder


def test_a_run_a_model_and_the_records(folder: Path) -> None:
    out, photos = folder / "out", folder / "photos"
    records = mddbench.run("folder/padim", data_root=photos, seeds=[1, 0], out=out, **SMALL)
    assert [record.seed for record in records] == [1, 0]
    assert records[0].settings["image_size"] == 64
    assert records[0].settings["settings"]["channels"] == 8
    again = mddbench.run(["folder/padim"], data_root=str(photos), seeds=[1, 0], out=str(out), **SMALL)
    assert again == records

    table = mddbench.records(out)
    assert len(table) == 2 * 3
    mean = table[(table.seed == 0) & (table.category == "mean")].iloc[0]
    assert mean.mad == records[1].value("mean", "mad")

    model = mddbench.load("folder/padim", out=out, device="cpu")
    assert model.record == records[1]
    test = photos / "bolt" / "test"
    found = list(model.predict(test, threshold=0.0))
    (evidence,) = [each for each in load_evidence(model.finished.folder / EVIDENCE) if each.category == "bolt"]
    np.testing.assert_array_equal([each.score for each in found], evidence.scores)
    assert {each.verdict for each in found} == {"NG"}
    files = [test / defect / name for defect, name in zip(evidence.defects, evidence.names, strict=True)]
    from mddbench.data.images import decode_at_own_size

    maps, scores = model.score([decode_at_own_size(file) for file in files])
    np.testing.assert_array_equal(scores, evidence.scores)
    assert maps.shape == (6, 64, 64)
    assert model.score([])[0].shape == (0, 64, 64)
    with pytest.raises(InputError, match=r"image 0: expected \(H, W, 3\) uint8, found \(4, 4\) float64"):
        model.score([np.zeros((4, 4))])  # type: ignore[list-item]


def test_a_failed_cell_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mddbench.execution.fit import Fit

    def broken(*_: object) -> None:
        raise CellError("the disk is on fire")

    monkeypatch.setattr(Fit, "train", broken)
    with pytest.raises(CellError, match=r"1 of 1 cells failed; padim/folder/seed5: the disk is on fire"):
        mddbench.run("folder/padim", data_root=folder / "photos", seeds=[5], out=folder / "broken", **SMALL)


def test_maps_are_measured_by_category() -> None:
    generator = np.random.default_rng(3)
    masks = np.zeros((12, 16, 16), dtype=bool)
    masks[::2, 4:9, 4:9] = True
    maps = (generator.random((12, 16, 16)) + 0.3 * masks).astype(np.float32)
    names = ["nut"] * 6 + ["bolt"] * 6
    table = mddbench.evaluate(maps=maps, masks=masks, categories=names)
    assert list(table.index) == ["nut", "bolt", "mean"]
    expected = {}
    for name, chosen in (("nut", slice(6)), ("bolt", slice(6, 12))):
        labels, scores = masks[chosen].any(axis=(1, 2)), maps[chosen].max(axis=(1, 2))
        expected[name] = evaluate(maps=maps[chosen], masks=masks[chosen], image_scores=scores, image_labels=labels)
        assert dict(table.loc[name, list(SEVEN)]) == expected[name]
        assert table.loc[name, "mad"] == pytest.approx(np.mean(list(expected[name].values())))
    assert dict(table.loc["mean"]) == mean_over_categories(expected)
    whole = mddbench.evaluate(maps=torch.from_numpy(maps), masks=masks)
    assert list(whole.index) == ["all", "mean"]
    assert list(whole.columns) == list(COLUMNS)
    by_image = mddbench.evaluate(maps=maps, masks=None, image_labels=masks.any(axis=(1, 2)))
    assert by_image.loc["all", "i_auroc"] == whole.loc["all", "i_auroc"]
    assert np.isnan(by_image.loc["all", "aupro"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"masks": None}, "without masks, image_labels must say"),
        ({"maps": np.zeros((4, 8))}, r"expected maps and masks \(N, H, W\)"),
        ({"masks": np.zeros((4, 8, 9))}, r"found \(4, 8, 8\) and \(4, 8, 9\)"),
        ({"image_scores": np.zeros(3)}, "4 maps, 3 image_scores, 4 image_labels and 4 categories"),
        ({"categories": ["a"]}, "4 image_labels and 1 categories"),
        ({"maps": np.full((4, 8, 8), np.nan)}, "NaN"),
        ({"maps": np.zeros((0, 8, 8)), "masks": np.zeros((0, 8, 8))}, r"found \(0, 8, 8\) and"),
    ],
)
def test_arrays_that_do_not_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        mddbench.evaluate(**{"maps": np.zeros((4, 8, 8)), "masks": np.zeros((4, 8, 8)), **changes})


def test_a_model_of_ones_own_is_measured(folder: Path) -> None:
    data = mddbench.dataset("folder", data_root=folder / "photos", image_size=64, out=folder / "own")
    calls: list[int] = []

    def score(images: np.ndarray) -> torch.Tensor:
        calls.append(len(images))
        return torch.from_numpy(images.astype(np.float32)).mean(dim=-1).requires_grad_()

    table = mddbench.evaluate_model(score, data, batch_size=4)
    assert calls == [4, 2, 4, 2]
    maps = data.test.images.astype(np.float32).mean(axis=-1)
    labels = np.array([sample.anomalous for sample in data.test.samples])
    names = [sample.category for sample in data.test.samples]
    expected = mddbench.evaluate(maps=maps, masks=data.test.masks, image_labels=labels, categories=names)
    pd.testing.assert_frame_equal(table, expected, check_names=False, atol=1e-6)
    assert table.loc["bolt", "i_auroc"] == 1.0  # the spots are brighter than all else
    with pytest.raises(InputError, match=r"expected maps of shape \(6, 64, 64\), found \(6,\)"):
        mddbench.evaluate_model(lambda images: images.mean(axis=(1, 2, 3)), data)


def test_the_examples_of_the_documentation_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    examples = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert len(examples) == 5
    names: dict[str, Any] = {}
    for example in examples:
        exec(compile(example, str(DOCUMENT), "exec"), names)
    printed = capsys.readouterr().out
    assert printed.startswith("PaDiM ")
    assert printed.count(".png") == 6
    for name in mddbench.__all__:
        assert name in ("Model", "__version__") or f"mddbench.{name}(" in DOCUMENT.read_text(encoding="utf-8")


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, mddbench; print({'torch', 'pandas', 'numpy', 'mlflow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = mddbench.nonsense
