"""`mddbench bundle`: records in one folder that a script can accept or refuse."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from mddbench.metrics.names import COLUMNS
from mddbench.runs.records import Record, write_record
from support import mddbench, record

CARD: dict[str, Any] = {
    "setting": "one model for 2 categories",
    "epochs": 3,
    "image_size": 64,
    "interpolation": "bilinear",
    "mask_rule": "mask > 0",
    "precision": "float32",
    "selection": "last epoch",
    "metrics": "exact-1",
}


def sound(seed: int = 0, **changes: Any) -> Record:
    values = dict.fromkeys(record().metrics["bolt"], 0.5)
    metrics = {"mean": {**values, "mad": 0.5}, "bolt": dict(values), "nut": dict(values)}
    return record(seed, **{"metrics": metrics, "card": CARD, **changes})


@pytest.fixture
def bundled(tmp_path: Path) -> Path:
    """A bundle of two seeds."""
    for seed in (0, 1):
        write_record(sound(seed), tmp_path / "results" / "mini" / f"rd4ad-seed{seed}.json")
    made = mddbench("bundle", tmp_path / "bundle", "--records", tmp_path / "results")
    assert made.returncode == 0, made.stderr
    return tmp_path / "bundle"


def relist(folder: Path) -> None:
    """Correct the hashes in the list, as one would who wants a changed file to be accepted."""
    content = json.loads((folder / "bundle.json").read_text())
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != "bundle.json"]
    content["files"] = {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files
    }
    (folder / "bundle.json").write_text(json.dumps(content))


def test_what_is_in_a_bundle(bundled: Path) -> None:
    names = sorted(file.relative_to(bundled).as_posix() for file in bundled.rglob("*") if file.is_file())
    assert [name.rpartition("-")[0] for name in names if name.startswith("records/")] == [
        "records/mini/rd4ad-seed0",
        "records/mini/rd4ad-seed1",
    ]
    assert [name for name in names if "/" not in name] == ["bundle.json", "environment.txt", "tables.md"]
    assert "| RD4AD | 2 |" in (bundled / "tables.md").read_text()
    assert any(line.startswith("numpy==") for line in (bundled / "environment.txt").read_text().splitlines())
    checked = mddbench("bundle", "--check", bundled)
    assert checked.returncode == 0
    assert checked.stdout == f"{bundled}: accepted\n"


def change(folder: Path) -> None:
    file = next((folder / "records").rglob("*.json"))
    file.write_text(file.read_text().replace("0.5", "0.9"))


def add(folder: Path) -> None:
    (folder / "more.txt").touch()


def lose(folder: Path) -> None:
    (folder / "environment.txt").unlink()


def link(folder: Path) -> None:
    (folder / "records" / "link.json").symlink_to(folder / "tables.md")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change, "has another SHA-256 than bundle.json says"),
        (add, "more.txt: not in bundle.json"),
        (lose, "environment.txt: in bundle.json, but missing"),
        (link, "neither a file nor a folder"),
    ],
)
def test_a_folder_that_was_changed_is_refused(bundled: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(bundled)
    checked = mddbench("bundle", "--check", bundled)
    assert checked.returncode == 1
    assert message in checked.stderr
    assert "refused for " in checked.stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"card": {**CARD, "setting": "one model for 2 categories, development data"}}, "which is no test"),
        ({"card": {**CARD, "setting": "one model for 2 categories, held out"}}, "which is no test"),
        ({"card": {"setting": "one model for 2 categories"}}, "the protocol card does not say epochs"),
        ({"fingerprint": "e" * 64}, "its seeds were measured on different images"),
        ({"identity": f"{1:04x}{'a' * 12}"}, "the same cell as"),
    ],
)
def test_a_record_that_cannot_be_compared_is_refused(bundled: Path, changes: dict[str, Any], message: str) -> None:
    content = sound(0, **changes).model_dump()
    if "development" in str(changes):
        content["card"]["setting"] = {"models": "unified", "categories": 2, "development": True}
    file = next((bundled / "records").rglob("rd4ad-seed0*.json"))
    file.write_text(json.dumps(content))
    relist(bundled)
    checked = mddbench("bundle", "--check", bundled)
    assert checked.returncode == 1
    assert message in checked.stderr


def test_a_mean_that_does_not_follow_from_its_categories_is_refused(bundled: Path) -> None:
    file = next((bundled / "records").rglob("rd4ad-seed0*.json"))
    content = json.loads(file.read_text())
    content["metrics"]["mean"]["aupro"] = 0.75
    file.write_text(json.dumps(content))
    relist(bundled)
    checked = mddbench("bundle", "--check", bundled)
    assert checked.returncode == 1
    assert "the mean of aupro is 0.75, but that of its categories is 0.5" in checked.stderr


@pytest.mark.parametrize(
    "text", ["", "[]", '{"version": 1}', '{"version": 1, "mddbench": "", "source": "", "files": 3}']
)
def test_a_list_that_is_none_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "bundle.json").write_text(text)
    checked = mddbench("bundle", "--check", tmp_path)
    assert checked.returncode == 2
    assert checked.stderr.count("\n") == 1


def test_nothing_is_overwritten(bundled: Path, tmp_path: Path) -> None:
    again = mddbench("bundle", bundled, "--records", tmp_path / "results")
    assert again.returncode == 2
    assert "expected an empty folder" in again.stderr


def test_a_list_that_is_no_file_or_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "bundle.json")
    checked = mddbench("bundle", "--check", tmp_path)
    assert checked.returncode == 2
    assert "something that is no file" in checked.stderr
    (tmp_path / "bundle.json").unlink()
    (tmp_path / "bundle.json").write_text("{}" + " " * 100)
    monkeypatch.setattr("mddbench.settings.MOST_JSON_BYTES", 50)
    assert "found 102 bytes, more than 50" in mddbench("bundle", "--check", tmp_path).stderr


def test_a_leaderboard_has_the_rows_of_all_that_are_accepted(bundled: Path, tmp_path: Path) -> None:
    """A bundle that was changed is left out and named; who submitted what is in a list; `.eval_results` has the means."""
    write_record(sound(2, method="other", label="Other", protocol="1" * 64), tmp_path / "more" / "other-seed2.json")
    made = mddbench(
        "bundle", tmp_path / "theirs", "--records", tmp_path / "more", "--by", "A | B", "--url", "example.org/a"
    )
    assert made.returncode == 0, made.stderr
    ran = mddbench("leaderboard", bundled, tmp_path / "theirs", "--to", tmp_path / "board")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1] == str(tmp_path / "board" / "index.html")
    text = (tmp_path / "board" / "submissions.md").read_text()
    assert "| bundle | not said |  | 2 |" in text
    assert r"| theirs | A \| B | example.org/a | 1 |" in text
    assert "Other" in (tmp_path / "board" / "mini" / "main.md").read_text()
    (found,) = (tmp_path / "theirs" / ".eval_results").glob("*.yaml")
    entries = yaml.safe_load(found.read_text())
    assert {entry["dataset"]["task_id"] for entry in entries} == set(COLUMNS)
    assert entries[0]["source"]["user"] == "A | B"
    (bundled / "tables.md").write_text("better")
    ran = mddbench("leaderboard", bundled, tmp_path / "theirs", "--to", tmp_path / "board")
    assert ran.returncode == 1
    assert "has another SHA-256" in ran.stderr
    assert f"mddbench: refused: {bundled}" in ran.stderr
    assert "| bundle |" not in (tmp_path / "board" / "submissions.md").read_text()
    ran = mddbench("leaderboard", bundled, "--to", tmp_path / "board")
    assert ran.returncode == 2
    assert "none of 1 bundles is accepted" in ran.stderr
