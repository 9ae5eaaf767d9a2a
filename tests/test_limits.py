"""Settings and trees that cannot give sensible numbers, or cannot fit: refused before training, in words."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from mddbench.data.check import LONGEST
from mddbench.data.dataset import load_source
from mddbench.data.fabricate import fabricate
from mddbench.errors import InputError
from mddbench.execution.options import RunOptions
from mddbench.execution.plan import check_cells, plan
from mddbench.experiments.schema import parse_override
from mddbench.progress import SilentReporter
from support import YAML, read

QUIET = SilentReporter()


def checked(method: str, overrides: list[str], tree: Path, tmp_path: Path) -> None:
    """All that is done before the first training."""
    file = tmp_path / "own.yaml"
    file.write_text(YAML.replace("rd4ad", method))
    cells = plan([str(file)], "named", None, dict(map(parse_override, overrides)))
    check_cells(cells, RunOptions(tmp_path / "out", tmp_path / "cache", torch.device("cpu"), data_root=tree), QUIET)


ABSURD = [
    ("rd4ad", "image_size=100000"),
    ("rd4ad", "batch_size=10000000"),
    ("rd4ad", "optimizer.lr=1e30"),
    ("rd4ad", "optimizer.betas=[1.0, 0.9]"),
    ("rd4ad", "optimizer.betas=[0.9, 1.0]"),
    ("rd4ad", "optimizer.momentum=1.0"),
    ("rd4ad", "optimizer.weight_decay=1e30"),
    ("rd4ad", "epochs=10000000000"),
    ("rd4ad", "seeds=[100000000000000000000]"),
    ("rd4ad", "settings.sigma=1e9"),
    ("rd4ad", "settings.decoder_blocks=[1, 1, 1000000]"),
    ("uniad", "settings.layers=1000000"),
    ("uniad", "settings.dropout=1.0"),
    ("uniad", "settings.jitter=1e30"),
    ("mddnet", "settings.memory.decay=1.0"),
    ("mddnet", "settings.memory.temperature=1e-30"),
    ("mddnet", "settings.weights.classes=1e30"),
]


@pytest.mark.parametrize(("method", "override"), ABSURD)
def test_absurd_settings_are_refused_with_the_limit(method: str, override: str, tree: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as fault:
        checked(method, [override], tree, tmp_path)
    line = str(fault.value)
    assert "\n" not in line
    assert override.partition("=")[0].removeprefix("settings.") in line
    assert re.search(r"input should be (less|greater) than (or equal to )?[\d.e-]+", line)


TOO_LARGE = [
    ("uniad", "settings.grid=2000", "the model, with what training keeps of its weights,"),
    ("rd4ad", "settings.bottleneck_width=20000", "the model, with what training keeps of its weights,"),
]


@pytest.mark.parametrize(("method", "override", "what"), TOO_LARGE)
def test_a_model_that_no_memory_holds_is_refused_before_it_is_built(
    method: str, override: str, what: str, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mddbench.engine.memory.memory_of", lambda _: 2**34)
    with pytest.raises(InputError, match=rf"{what} takes \d+\.\d GiB at least, cpu has 16\.0 GiB of memory"):
        checked(method, [override], tree, tmp_path)


@pytest.mark.parametrize("method", ["rd4ad", "mddnet", "uniad"])
def test_a_batch_that_no_memory_holds_is_refused(
    method: str, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what a step on two images remembers; the same batch fits a larger memory."""
    asked = ["batch_size=12", "image_size=64"]
    monkeypatch.setattr("mddbench.engine.memory.memory_of", lambda _: 2**40)
    checked(method, asked, tree, tmp_path)
    monkeypatch.setattr("mddbench.execution.models.bytes_of_model", lambda *_: 0)
    monkeypatch.setattr("mddbench.engine.memory.memory_of", lambda _: 2**22)
    with pytest.raises(
        InputError, match=r"a batch of 12 images of 64x64 pixels takes \d\.\d GiB at least, cpu has 0\.0 GiB"
    ):
        checked(method, asked, tree, tmp_path)


def test_what_a_single_pass_keeps_is_told_before(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mddbench.engine.memory.memory_of", lambda _: 2**34)
    monkeypatch.setattr("mddbench.detector.Detector.collected_bytes", lambda _, images, size: images * size**2 * 2**20)
    with pytest.raises(
        InputError, match=r"what the method keeps of 12 images takes 48\.0 GiB at least, cpu has 16\.0 GiB of memory"
    ):
        checked("rd4ad", ["image_size=64"], tree, tmp_path)


def test_what_a_batch_needs_counts_the_images_that_there_are(tree: Path, tmp_path: Path) -> None:
    checked("rd4ad", ["batch_size=60000", "image_size=64"], tree, tmp_path)


def test_memory_that_cannot_be_had_is_one_line(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the system does not say how much there is."""
    monkeypatch.setattr("mddbench.engine.memory.memory_of", lambda _: None)
    with pytest.raises(InputError, match="the method cannot be trained with these settings") as fault:
        checked("uniad", ["settings.grid=100000"], tree, tmp_path)
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize("setting", ["unified", "separate"])
def test_one_training_image_is_too_few(setting: str, tree: Path, tmp_path: Path) -> None:
    for image in sorted((tree / "nut" / "train" / "good").iterdir())[1:]:
        image.unlink()
    with pytest.raises(InputError, match=r"category 'nut' has one normal training image below .*; expected 2 at least"):
        checked("rd4ad", [f"setting={setting}"], tree, tmp_path)


@pytest.mark.parametrize("name", ["n" * 201, "螺" * 67])
def test_a_category_whose_name_is_too_long_for_files_is_refused(name: str, tree: Path, tmp_path: Path) -> None:
    (tree / "nut").rename(tree / name)
    (fault,) = read("folder", tree).faults
    assert f"has a name of 201 bytes; expected {LONGEST} at most" in fault
    assert len(fault.removeprefix(str(tree))) < 200
    (tree / name).rename(tree / name[:66])
    assert read("folder", tree).faults == ()
    root = tmp_path / "meta"
    fabricate("meta", load_source("meta"), root, full=False)
    raw = json.loads((root / "meta.json").read_text())
    for part in raw.values():
        part[name] = part.pop("nut")
    (root / "meta.json").write_text(json.dumps(raw))
    assert any("has a name of 201 bytes" in fault for fault in read("meta", root).faults)
