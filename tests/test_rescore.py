"""What is kept of an evaluation, and metrics computed again from it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from mddbench.errors import CellError, InputError
from mddbench.evidence import Evidence, load_evidence, save_evidence
from mddbench.maps import MapKeeper, kept_maps
from mddbench.metrics.conventions import evaluate as evaluate_convention
from mddbench.metrics.names import SEVEN
from mddbench.metrics.suite import evaluate
from mddbench.progress import SilentReporter
from mddbench.records import write_record
from mddbench.rescore import WAYS, kept_cells, rescore
from support import YAML, mddbench, record

QUIET = SilentReporter()


def evidence(category: str, count: int, seed: int = 0) -> Evidence:
    generator = np.random.default_rng(seed)
    return Evidence(
        category=category,
        names=tuple(f"{number}.png" for number in range(count)),
        defects=("good",) * (count - 2) + ("scratch",) * 2,
        items=("",) * count,
        labels=np.arange(count) >= count - 2,
        scores=generator.random(count, dtype=np.float32),
        precision_recall=generator.random((2, 5), dtype=np.float32),
        region_overlap=np.full((2, 5), np.nan, dtype=np.float32),
    )


def test_evidence_survives_a_file(tmp_path: Path) -> None:
    kept = (evidence("nut", 5), evidence("bolt", 3, 1))
    save_evidence(kept, tmp_path / "scores.npz")
    for before, after in zip(kept, load_evidence(tmp_path / "scores.npz"), strict=True):
        for field in ("category", "names", "defects", "items"):
            assert getattr(before, field) == getattr(after, field)
        for field in ("labels", "scores", "precision_recall", "region_overlap"):
            np.testing.assert_array_equal(getattr(before, field), getattr(after, field))


def test_broken_evidence_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "scores.npz"
    file.write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(InputError, match=r"scores.npz: cannot be read as scores"):
        load_evidence(file)
    save_evidence((evidence("nut", 5),), file)
    with np.load(file) as content:
        np.savez(file, **{**content, "counts": np.array([9])})
    with pytest.raises(InputError, match=r"cannot be read as scores"):
        load_evidence(file)


def cell(out: Path, scale: float = 1.0) -> tuple[Path, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """A finished cell with kept maps of two categories, and the maps and masks as they were."""
    folder = out / "cells" / "one"
    keeper, generator = MapKeeper(folder / "maps"), np.random.default_rng(0)
    content, kept = {}, []
    for category in ("bolt", "nut"):
        part = evidence(category, 6)
        masks = np.zeros((6, 33, 33), dtype=bool)
        masks[part.labels, 5:15, 7:12] = True
        maps = (generator.random((6, 33, 33)) + 0.6 * masks).astype(np.float32) * np.float32(scale)
        keeper.begin(category, 6, 33, masks)
        keeper.keep(slice(0, 4), maps[:4])
        keeper.keep(slice(4, 6), maps[4:])
        content[category] = maps, masks
        kept.append(part)
    keeper.finish()
    save_evidence(kept, folder / "scores.npz")
    write_record(record(), folder / "record.json")
    return folder, content


@pytest.mark.parametrize("scale", [1e-7, 1.0, 1e6])
def test_kept_maps_are_the_maps_in_half_precision(tmp_path: Path, scale: float) -> None:
    folder, content = cell(tmp_path, scale)
    for kept in kept_maps(folder / "maps"):
        maps, masks = content[kept.category]
        np.testing.assert_array_equal(kept.masks, masks)
        ratio = np.median(kept.maps / maps)
        assert np.log2(ratio) == pytest.approx(round(np.log2(ratio)), abs=1e-3)
        np.testing.assert_allclose(kept.maps / ratio, maps, rtol=1e-3, atol=1e-4 * scale)


def test_what_half_precision_cannot_hold_is_refused(tmp_path: Path) -> None:
    keeper = MapKeeper(tmp_path / "maps")
    keeper.begin("nut", 2, 4, None)
    keeper.keep(slice(0, 1), np.ones((1, 4, 4), dtype=np.float32))
    with pytest.raises(CellError, match=r"maps of nut: a score of 1e\+03 is more than 64 times"):
        keeper.keep(slice(1, 2), np.full((1, 4, 4), 1000, dtype=np.float32))
    assert not (tmp_path / "maps").exists()


def test_metrics_of_kept_maps_are_those_of_the_maps(tmp_path: Path) -> None:
    folder, content = cell(tmp_path)
    found = rescore(folder, WAYS, QUIET)
    scores = {part.category: part.scores for part in load_evidence(folder / "scores.npz")}
    for category, (maps, masks) in content.items():
        labels = masks.any(axis=(1, 2))
        own = evaluate(maps=maps, masks=masks, image_scores=scores[category], image_labels=labels)
        assert found.values["own"][category] == pytest.approx(own, abs=1e-3)
        for way in ("ader", "rd4ad"):
            other = evaluate_convention(way, maps=maps, masks=masks, image_scores=scores[category])
            assert found.values[way][category] == pytest.approx(other, abs=0.02)  # bins of equal width
    for key in SEVEN:
        values = [found.values["ader"][category][key] for category in content]
        assert found.values["ader"]["mean"][key] == pytest.approx(np.mean(values))


def test_what_was_computed_is_read_and_new_maps_are_computed_anew(tmp_path: Path) -> None:
    folder, _ = cell(tmp_path)
    first = rescore(folder, ("own",), QUIET)
    file = folder / "rescored.json"
    content = json.loads(file.read_text())
    content["own"]["mean"]["i_auroc"] = 0.125
    file.write_text(json.dumps(content))
    assert rescore(folder, ("own", "ader"), QUIET).values["own"]["mean"]["i_auroc"] == 0.125
    shutil.copytree(folder / "maps", folder / "maps.new")
    shutil.rmtree(folder / "maps")
    (folder / "maps.new").rename(folder / "maps")
    (folder / "maps" / "index.json").touch()
    assert rescore(folder, ("own",), QUIET).values == first.values


def test_maps_and_scores_must_belong_together(tmp_path: Path) -> None:
    folder, _ = cell(tmp_path)
    save_evidence((evidence("bolt", 6), evidence("nut", 4)), folder / "scores.npz")
    with pytest.raises(InputError, match=r"do not belong together"):
        rescore(folder, WAYS, QUIET)
    (folder / "maps" / "index.json").write_text('[{"category": 3}]')
    with pytest.raises(InputError, match=r"cannot be read as kept maps"):
        list(kept_maps(folder / "maps"))


def test_from_run_to_rescore(tree: Path, tmp_path: Path) -> None:
    """A finished cell gets its maps from its model, without training, and its record stays as it is."""
    experiment, out = tmp_path / "small.yaml", tmp_path / "out"
    experiment.write_text(YAML)
    common = (experiment, "--data-root", tree, "--out", out, "--tracking", "none")
    assert mddbench("run", *common).returncode == 0
    folder = next((out / "cells").glob("*/record.json")).parent
    before = (folder / "record.json").read_bytes()
    assert kept_cells(out) == []
    missing = mddbench("rescore", "--out", out)
    assert missing.returncode == 2
    assert "--keep-maps" in missing.stderr
    again = mddbench("run", *common, "--keep-maps")
    assert again.returncode == 0, again.stderr
    assert "evaluating its model again" in again.stderr
    assert "differ" not in again.stderr
    assert (folder / "record.json").read_bytes() == before
    assert kept_cells(out) == [folder]
    assert "skipped" in mddbench("run", *common, "--keep-maps").stderr
    shown = mddbench("rescore", "--out", out, "--convention", "own", "--convention", "ader", "--json")
    values = json.loads(shown.stdout)[0]["values"]
    stored = json.loads(before)["metrics"]
    assert list(values) == ["own", "ader"]
    assert values["own"]["mean"] == pytest.approx(stored["mean"], abs=2e-3)
    (folder / "model.safetensors").unlink()
    shutil.rmtree(folder / "maps")
    gone = mddbench("run", *common, "--keep-maps")
    assert gone.returncode == 1
    assert "--force trains it again" in gone.stderr
