"""`mddbench new`: a file to begin with, which passes as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from mddbench.cli.new import write_template
from support import mddbench


def test_a_new_method_is_checked_and_runs(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    made = mddbench("new", "method", "narrow_layer", "--to", folder)
    assert made.returncode == 0, made.stderr
    assert made.stdout.strip() == str(folder / "methods" / "narrow_layer.py")
    assert f"mddbench run mini/narrow_layer --plugins {folder}" in made.stderr
    checked = mddbench("check", "--plugins", folder)
    assert checked.returncode == 0, checked.stdout
    listed = mddbench("list", "methods", "--plugins", folder).stdout
    assert "Narrow layer: features of normal images" in listed
    short = ("--set", "epochs=2", "--set", "image_size=64", "--tracking", "none", "--out", tmp_path / "out")
    ran = mddbench("run", "mini/narrow_layer", "--plugins", folder, *short)
    assert ran.returncode == 0, ran.stderr
    assert "| Narrow layer | 1 |" in ran.stdout


def test_a_new_dataset_is_drawn_checked_and_run(tmp_path: Path) -> None:
    folder, drawn = tmp_path / "mine", tmp_path / "drawn"
    assert mddbench("new", "dataset", "parts", "--to", folder).returncode == 0
    made = mddbench("data", "fabricate", "parts", drawn, "--plugins", folder)
    assert made.returncode == 0, made.stderr
    checked = mddbench("data", "check", "parts", "--data-root", drawn, "--plugins", folder)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    options = ("--data-root", drawn, "--plugins", folder, "--set", "image_size=64", "--tracking", "none")
    ran = mddbench("run", "parts/padim", *options, "--set", "settings.channels=8", "--out", tmp_path / "out")
    assert ran.returncode == 0, ran.stderr
    assert "| PaDiM | 1 |" in ran.stdout


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("methods", "mine", "did you mean 'method'?"),
        ("method", "My-Method", "expected a name of small letters"),
        ("method", "class", "expected a name of small letters"),
        ("method", "none", "expected a name of small letters"),
        ("method", "_", "expected a name of small letters"),
        ("method", "../../x", "expected a name of small letters"),
        ("method", "rd4ad", "there is a method of this name already"),
        ("dataset", "mini", "there is a dataset of this name already"),
    ],
)
def test_what_cannot_be_made_is_one_line(kind: str, name: str, message: str, tmp_path: Path) -> None:
    made = mddbench("new", kind, name, "--to", tmp_path / "x")
    assert made.returncode == 2
    assert message in made.stderr
    assert not (tmp_path / "x").exists()


def test_a_file_is_never_replaced(tmp_path: Path) -> None:
    file = write_template("method", "mine", tmp_path)
    file.write_text("changed")
    assert mddbench("new", "method", "mine", "--to", tmp_path).returncode == 2
    assert file.read_text() == "changed"
