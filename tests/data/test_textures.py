"""A folder of pictures that defects are drawn with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mddbench.data.textures import open_textures
from mddbench.errors import InputError
from mddbench.execution.options import RunOptions
from mddbench.execution.plan import check_cells, plan
from mddbench.execution.runner import Runner
from mddbench.progress import SilentReporter
from mddbench.runs.records import Record, read_record, record_files
from support import YAML, save

QUIET = SilentReporter()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Four pictures in two folders, as DTD has them, and a file that is none."""
    generator = np.random.default_rng(0)
    for number in range(4):
        save(
            generator.integers(0, 256, (40, 60, 3), dtype=np.uint8),
            tmp_path / f"secret/pictures/{'ab'[number % 2]}/{number}.jpg",
        )
    (tmp_path / "secret/pictures/readme.txt").write_text("no picture")
    return tmp_path / "secret/pictures"


def test_all_pictures_below_a_folder_are_found(pictures: Path, tmp_path: Path) -> None:
    found = open_textures(pictures, 32, tmp_path / "cache", QUIET)
    assert found.images.shape == (4, 32, 32, 3)
    assert str(found) == f"4 pictures, {found.fingerprint[:16]}"
    (pictures / "a/0.jpg").unlink()
    assert open_textures(pictures, 32, tmp_path / "cache", QUIET).fingerprint != found.fingerprint


def test_a_folder_without_pictures_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a folder of pictures, as images/ of DTD; found none"):
        open_textures(tmp_path / "nowhere", 32, tmp_path / "cache", QUIET)


def run(tmp_path: Path, tree: Path, settings: str, textures: Path | None, name: str) -> Record:
    file = tmp_path / "own.yaml"
    file.write_text(f"{YAML.replace('rd4ad', 'mddnet').replace('epochs: 3', 'epochs: 1')}settings: {settings}\n")
    cells = plan([str(file)], "named", None, {})
    options = RunOptions(tmp_path / name, tmp_path / "cache", torch.device("cpu"), data_root=tree, textures=textures)
    (outcome,) = Runner(options, check_cells(cells, options, QUIET), QUIET).run(cells)
    assert outcome.status == "finished", outcome.message
    return read_record(record_files(tmp_path / name)[0])


def test_training_with_pictures_is_told_by_the_card_and_the_path_is_not(
    tree: Path, pictures: Path, tmp_path: Path
) -> None:
    asked = "{synthesis: {textures: [folder], kinds: [perlin]}}"
    with pytest.raises(InputError, match="its defects are drawn with pictures; give their folder by --textures DIR"):
        run(tmp_path, tree, asked, None, "none")
    found = run(tmp_path, tree, asked, pictures, "first")
    assert found.card.textures.startswith("4 pictures, ")
    assert "secret" not in json.dumps(found.model_dump(mode="json"))
    moved = pictures.rename(tmp_path / "elsewhere")
    assert run(tmp_path, tree, asked, moved, "second").identity == found.identity
    save(np.zeros((40, 60, 3), dtype=np.uint8), moved / "b/new.png")
    other = run(tmp_path, tree, asked, moved, "third")
    assert other.identity != found.identity
    assert other.model_sha256 != found.model_sha256
    with pytest.raises(InputError, match="--textures: no experiment draws with them"):
        run(tmp_path, tree, "{}", moved, "unused")
    plain = "{synthesis: {textures: [noise], kinds: [perlin]}}"
    assert run(tmp_path, tree, plain, None, "fourth").card.textures == "none"
