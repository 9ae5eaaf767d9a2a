"""The checklist that records answer, and what is known of data and weights."""

from __future__ import annotations

import json
from pathlib import Path

from mddbench.data.dataset import load_source
from mddbench.experiments.catalogue import experiment_names, load_experiment
from mddbench.nn.encoder import NO_ENCODER
from mddbench.plugins import DATASETS, modules
from mddbench.runs.events import append_event
from mddbench.runs.records import read_records
from mddbench.verdicts.checklist import checklist, known_assets
from support import ROOT, mddbench

OWN = {"folder", "meta"}
"""Datasets whose images are the user's."""


def test_every_dataset_and_every_encoder_of_an_experiment_has_its_licence_and_citation() -> None:
    """A licence may be unknown, which is then said; an entry that nothing uses is not kept."""
    assets = known_assets()
    assert set(assets.datasets) == set(modules(DATASETS)) - OWN
    encoders = {load_experiment(name).encoder.name for name in experiment_names()} - {NO_ENCODER}
    assert set(assets.weights) == encoders
    assert all(asset.citation and asset.name for asset in (*assets.datasets.values(), *assets.weights.values()))
    assert load_source("elpv").package is not None
    assert assets.datasets["elpv"].licence == "CC BY-NC-SA 4.0"
    assert assets.datasets["btad"].licence is None


def test_committed_records_are_answered() -> None:
    records = read_records(ROOT / "results")
    text = checklist(records)
    for heading in ("Reproducibility of results", "Statistical significance", "Compute resources", "For you to answer"):
        assert f"\n## {heading}\n" in f"\n{text}"
    assert f"{len(records)} cells by mddbench" in text
    rows = [line for line in text.splitlines() if line.startswith("| mini/rd4ad |")]
    assert len(rows) == 2
    assert rows[0].split(" | ")[1] == "0, 1, 2"
    assert "| mini | Apache-2.0 for what is drawn" in text
    assert "hours of training" in text
    assert "give the output folder of the runs by --out" in text


def test_attempts_that_came_to_nothing_are_counted(tmp_path: Path) -> None:
    folder = tmp_path / "cell"
    folder.mkdir()
    for kind in ("started", "interrupted", "started", "failed", "started", "finished"):
        append_event(folder, kind)
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().split("\n") if line]
    for hour, event in enumerate(events):
        event["time"] = f"2026-01-01T0{hour}:00:00+00:00"
    (folder / "events.jsonl").write_text("".join(f"{json.dumps(event)}\n" for event in events))
    text = checklist(read_records(ROOT / "results"), [folder])
    assert "- 2 attempts failed or were interrupted, after 2.00 hours in all" in text


def test_the_command_prints_it(tmp_path: Path) -> None:
    ran = mddbench("checklist", "--records", ROOT / "results", "--out", tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("## Reproducibility of results")
    assert mddbench("checklist", "--records", tmp_path).returncode == 2
