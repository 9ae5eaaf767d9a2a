"""What is kept of an evaluation, and metrics computed again from it."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest

from mddbench.arrays import from_half
from mddbench.cli.rescore import rescore as command
from mddbench.cli.verdicts import _rescored
from mddbench.data.dataset import Split
from mddbench.data.samples import Sample
from mddbench.errors import CellError, InputError
from mddbench.execution.rescore import CONVENTION_NAMES, kept_cells, rescore
from mddbench.metrics.conventions import evaluate as evaluate_convention
from mddbench.metrics.names import METRIC_VERSIONS, SEVEN
from mddbench.metrics.suite import evaluate, mean_over_categories
from mddbench.progress import LineReporter, SilentReporter
from mddbench.runs.evidence import Evidence, load_evidence, save_evidence
from mddbench.runs.maps import MapKeeper, kept_maps
from mddbench.runs.merge import largest_mean_difference
from mddbench.runs.panels import Panel, PanelChoice, load_panels, save_panels
from mddbench.runs.records import nullable, read_record, write_record
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


def broken_npz(file: Path, changes: dict[str, Any]) -> None:
    """Write a file's arrays again with some changed; None takes one away."""
    with np.load(file) as content:
        arrays = {**content, **changes}
    np.savez(file, **{name: array for name, array in arrays.items() if array is not None})


def huge_npz(file: Path, name: str, header: str) -> None:
    """Write a file's arrays again, one of them with a header that promises what the file does not hold."""
    with np.load(file) as content:
        arrays = {other: array for other, array in content.items() if other != name}
    np.savez(file, **arrays)
    with ZipFile(file, "a") as archive:
        archive.writestr(f"{name}.npy", npy_header(header))


def npy_header(header: str) -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


ONE = np.array([5])
CURVES = np.zeros((1, 2, 5), dtype=np.float32)


@pytest.mark.parametrize(
    "changes",
    [
        {"counts": np.array([9])},
        {"counts": np.array([-5])},
        {"counts": np.array([5.0])},
        {"counts": np.array([7, -2]), "categories": np.array(["nut", "bolt"])},
        {"counts": np.array([2**62, 2**62, 2**62, 2**62, 5]), "categories": np.array(list("abcde"))},
        {"counts": np.array([2, 3]), "categories": np.array(["nut", "nut"])},
        {"counts": None},
        {"counts": np.int64(5)},
        {"categories": np.array(["nut", "bolt"])},
        {"categories": np.array([], dtype=np.str_), "counts": np.array([], dtype=np.int64)},
        {"categories": np.array([3])},
        {"labels": np.array([0.5] * 5)},
        {"scores": np.array(["0.5"] * 5)},
        {"scores": np.array([0.5] * 4 + [np.nan])},
        {"scores": np.array([0.5] * 5, dtype=object)},
        {"names": np.arange(5)},
        {"items": np.array([["", ""]] * 5)},
        {"precision_recall": CURVES[0]},
        {"precision_recall": CURVES[:, :1]},
        {"region_overlap": np.full((1, 2, 5), np.inf)},
        {"region_overlap": np.zeros((2, 2, 5))},
    ],
)
def test_broken_evidence_is_one_line(tmp_path: Path, changes: dict[str, Any]) -> None:
    file = tmp_path / "scores.npz"
    save_evidence((evidence("nut", 5),), file)
    broken_npz(file, changes)
    one_line(lambda: load_evidence(file), "scores.npz: cannot be read as scores")


def one_line(call: Callable[[], object], told: str) -> None:
    with pytest.raises(InputError) as fault:
        call()
    assert told in str(fault.value)
    assert len(str(fault.value).splitlines()) == 1


HUGE = "{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }"


@pytest.mark.parametrize(
    "write",
    [
        lambda file: file.unlink(),
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(b"PK\x03\x04 nothing"),
        lambda file: file.write_bytes(file.read_bytes()[:-300]),
        lambda file: np.save(file.open("wb"), np.arange(5)),
        lambda file: huge_npz(file, "scores", HUGE),
        lambda file: huge_npz(file, "scores", HUGE.replace("1099511627776", "-4")),
        lambda file: huge_npz(file, "scores", "-" * 9000 + "1"),
    ],
)
@pytest.mark.parametrize("what", ["scores", "panels"])
@pytest.mark.filterwarnings("ignore:unclosed file")  # np.save's, above
def test_what_is_no_archive_of_arrays_is_one_line(tmp_path: Path, what: str, write: Callable[[Path], object]) -> None:
    file = tmp_path / "a.npz"
    if what == "scores":
        save_evidence((evidence("nut", 5),), file)
    else:
        save_panels((panel(np.zeros((4, 4), dtype=np.float32)),), file)
    write(file)
    load = load_evidence if what == "scores" else load_panels
    one_line(lambda: load(file), f"a.npz: cannot be read as {what}")


def test_infinite_image_scores_are_evidence(tmp_path: Path) -> None:
    part = evidence("nut", 5)
    part.scores[:2] = np.inf, -np.inf
    save_evidence((part,), tmp_path / "scores.npz")
    np.testing.assert_array_equal(load_evidence(tmp_path / "scores.npz")[0].scores, part.scores)


def panel(values: np.ndarray) -> Panel:
    height, width = values.shape
    image, mask = np.zeros((height, width, 3), dtype=np.uint8), np.zeros((height, width), dtype=bool)
    return Panel("nut", "best", "scratch", "1.png", 0.5, image, mask, values)


@pytest.mark.parametrize(
    "values",
    [
        np.linspace(0, 3e6, 16),
        np.linspace(0, 3e-9, 16),
        np.linspace(1000, 1000.1, 16),
        np.linspace(-2, 2, 16),
        np.full(16, 7.1),
        np.zeros(16),
        np.append(np.linspace(0, 1, 14), [np.inf, -np.inf]),
        np.full(16, np.inf),
    ],
)
def test_maps_of_panels_have_any_scale(tmp_path: Path, values: np.ndarray) -> None:
    before = panel(values.astype(np.float32).reshape(4, 4))
    save_panels((before, panel(np.ones((4, 4), dtype=np.float32))), tmp_path / "p.npz")
    after = load_panels(tmp_path / "p.npz")[0].map
    assert after.dtype == np.float32
    assert len(np.unique(after)) == len(np.unique(before.map))
    finite = np.ptp(before.map[np.isfinite(before.map)]) if np.isfinite(before.map).any() else 0.0
    np.testing.assert_allclose(after, before.map, rtol=1e-6, atol=1e-3 * float(finite))


def test_panels_chosen_hold_their_maps_as_they_were(tmp_path: Path) -> None:
    sample = Sample(Path("1.png"), "nut", "test", "scratch", (Path("m.png"),))
    maps = np.linspace(0, 1e6, 16, dtype=np.float32).reshape(4, 4)
    choice = PanelChoice("nut", Split((sample,), np.zeros((1, 4, 4, 3), np.uint8), np.eye(4, dtype=bool)[None]))
    choice.see(0, maps, 1.0)
    np.testing.assert_array_equal(choice.panels()[0].map, maps)


def test_panels_of_before_have_no_scale(tmp_path: Path) -> None:
    values = np.linspace(0, 3, 16, dtype=np.float32).reshape(4, 4)
    save_panels((panel(values),), tmp_path / "p.npz")
    broken_npz(tmp_path / "p.npz", {"maps": values[None].astype(np.float16), "scales": None, "offsets": None})
    np.testing.assert_array_equal(load_panels(tmp_path / "p.npz")[0].map, values.astype(np.float16))
    save_panels((), tmp_path / "p.npz")
    assert load_panels(tmp_path / "p.npz") == ()


@pytest.mark.parametrize(
    "changes",
    [
        {"scores": np.array([0.5, 0.5])},
        {"scores": np.array([np.nan])},
        {"texts": np.array([["nut", "best"]])},
        {"texts": np.array([[1, 2, 3, 4]])},
        {"images": np.zeros((1, 4, 4), dtype=np.uint8)},
        {"images": np.zeros((1, 4, 4, 3), dtype=np.float32)},
        {"images": np.zeros((1, 4, 4, 3), dtype=np.uint16)},
        {"masks": np.zeros((1, 4, 5), dtype=bool)},
        {"masks": np.zeros((1, 4, 4), dtype=np.uint8)},
        {"maps": np.zeros((2, 4, 4), dtype=np.float16)},
        {"maps": np.full((1, 4, 4), np.nan, dtype=np.float16)},
        {"maps": None},
        {"scales": np.array([0.0])},
        {"scales": np.array([np.nan])},
        {"scales": np.array([1.0, 1.0])},
        {"offsets": np.array([np.inf])},
        {"texts": np.empty((0, 4), dtype=np.str_)},
    ],
)
def test_broken_panels_are_one_line(tmp_path: Path, changes: dict[str, Any]) -> None:
    save_panels((panel(np.zeros((4, 4), dtype=np.float32)),), tmp_path / "panels.npz")
    broken_npz(tmp_path / "panels.npz", changes)
    one_line(lambda: load_panels(tmp_path / "panels.npz"), "panels.npz: cannot be read as panels")


def cell(out: Path, scale: float = 1.0, extreme: float = 0.0) -> tuple[Path, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """A finished cell with kept maps of two categories, and the maps and masks as they were. extreme: added to one score."""
    folder = out / "cells" / "one"
    keeper, generator = MapKeeper(folder / "maps"), np.random.default_rng(0)
    content, kept, metrics = {}, [], {}
    for category in ("bolt", "nut"):
        part = evidence(category, 6)
        masks = np.zeros((6, 33, 33), dtype=bool)
        masks[part.labels, 5:15, 7:12] = True
        maps = (generator.random((6, 33, 33)) + 0.6 * masks).astype(np.float32) * np.float32(scale)
        maps[5, 0, 0] += np.float32(extreme if category == "nut" else 0.0)
        keeper.begin(category, 6, 33, masks)
        keeper.keep(slice(0, 4), maps[:4])
        keeper.keep(slice(4, 6), maps[4:])
        content[category] = maps, masks
        kept.append(part)
        metrics[category] = evaluate(maps=maps, masks=masks, image_scores=part.scores, image_labels=part.labels)
    keeper.finish()
    save_evidence(kept, folder / "scores.npz")
    truth = record(metrics=nullable({"mean": mean_over_categories(metrics), **metrics}))
    write_record(truth, folder / "record.json")
    return folder, content


def keep(folder: Path, *batches: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Values of one category after they were kept, batch by batch, with their offset and scale."""
    keeper = MapKeeper(folder)
    keeper.begin("nut", len(batches), 4, None)
    for number, batch in enumerate(batches):
        keeper.keep(slice(number, number + 1), batch.astype(np.float32).reshape(1, 4, 4))
    keeper.finish()
    entry = json.loads((folder / "index.json").read_text())["categories"][0]
    (kept,) = kept_maps(folder)
    return np.array(kept.maps), entry["offset"], entry["scale"]


@pytest.mark.parametrize("scale", [1e-40, 1e-7, 1.0, 1e6, 1e37])
def test_kept_maps_are_the_maps_in_half_precision(tmp_path: Path, scale: float) -> None:
    folder, content = cell(tmp_path, scale)
    entries = {
        entry["category"]: entry for entry in json.loads((folder / "maps" / "index.json").read_text())["categories"]
    }
    for kept in kept_maps(folder / "maps"):
        maps, masks = content[kept.category]
        np.testing.assert_array_equal(kept.masks, masks)
        entry = entries[kept.category]
        assert np.log2(entry["scale"]) % 1 == 0
        restored = from_half(kept.maps, entry["offset"], entry["scale"])
        np.testing.assert_allclose(restored, maps, rtol=1e-6, atol=1e-3 * scale)
        near = np.abs(maps - entry["offset"]) < 1e-2 * scale
        distances = maps[near].astype(np.float64) - entry["offset"]
        found = kept.maps[near].astype(np.float64) / entry["scale"]
        np.testing.assert_allclose(found, distances, rtol=1e-3, atol=1e-8 * scale)


SIXTEEN = np.linspace(0, 1, 16)


@pytest.mark.parametrize(
    "batches",
    [
        (np.zeros(16), 1e-8 * SIXTEEN),
        (np.zeros(16), np.zeros(16), 1e6 * SIXTEEN),
        (1000 + 0.1 * SIXTEEN,),
        (np.zeros(16), 1000 + SIXTEEN),
        (np.full(16, 1001.0), np.full(16, 1000.5), 1000 + SIXTEEN),
        (np.full(16, 3.0), np.full(16, 3.0)),
        (np.full(16, np.inf), np.full(16, 2.0), -1 - SIXTEEN),
        (np.append(np.zeros(15), np.inf), np.append(np.zeros(15), -np.inf), 1e-3 * SIXTEEN),
        (SIXTEEN, 1000 * SIXTEEN),
    ],
)
def test_no_rank_is_lost_in_half_precision(tmp_path: Path, batches: tuple[np.ndarray, ...]) -> None:
    kept, _, _ = keep(tmp_path / "maps", *batches)
    scores = np.stack(batches).astype(np.float32)
    np.testing.assert_array_equal(
        np.unique(kept, return_inverse=True)[1].reshape(-1), np.unique(scores, return_inverse=True)[1].reshape(-1)
    )
    np.testing.assert_array_equal(np.isinf(kept).reshape(-1), np.isinf(scores).reshape(-1))


def test_half_precision_is_finest_where_thresholds_lie(tmp_path: Path) -> None:
    values = 5 + np.random.default_rng(0).random(10_000).astype(np.float32)
    keeper = MapKeeper(tmp_path / "maps")
    keeper.begin("nut", 1, 100, None)
    keeper.keep(slice(0, 1), values.reshape(1, 100, 100))
    keeper.finish()
    (kept,) = kept_maps(tmp_path / "maps")
    thresholds = np.argsort(values)[-300:-100]
    assert len(np.unique(kept.maps.reshape(-1)[thresholds])) > 0.95 * len(thresholds)
    assert len(np.unique(values.astype(np.float16)[thresholds])) < 0.1 * len(thresholds)


def test_what_half_precision_cannot_hold_is_refused(tmp_path: Path) -> None:
    keeper = MapKeeper(tmp_path / "maps")
    keeper.begin("nut", 2, 4, None)
    keeper.keep(slice(0, 1), SIXTEEN.astype(np.float32).reshape(1, 4, 4))
    with pytest.raises(CellError, match=r"maps of nut: a score is 1e\+04 away from 0.933, more than 1024 times"):
        keeper.keep(slice(1, 2), np.full((1, 4, 4), 10000, dtype=np.float32))
    assert not (tmp_path / "maps").exists()


def test_metrics_of_kept_maps_are_those_of_the_maps(tmp_path: Path) -> None:
    folder, content = cell(tmp_path)
    found = rescore(folder, CONVENTION_NAMES, QUIET)
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


def tampered(folder: Path, value: float = 0.125) -> Path:
    """Change a value in a cell's rescored.json, to see whether it is read."""
    file = folder / "rescored.json"
    content = json.loads(file.read_text())
    content["values"]["ader"]["bolt"]["aupro"] = value
    file.write_text(json.dumps(content))
    return file


def aupro(folder: Path) -> float:
    return rescore(folder, ("ader",), QUIET).values["ader"]["bolt"]["aupro"]


def test_what_was_computed_is_read(tmp_path: Path) -> None:
    folder, _ = cell(tmp_path)
    first = aupro(folder)
    file = tampered(folder)
    os.utime(file, (0, 0))
    assert aupro(folder) == 0.125
    assert rescore(folder, ("rd4ad", "ader"), QUIET).values["ader"]["bolt"]["aupro"] == 0.125
    assert list(rescore(folder, ("rd4ad",), QUIET).values) == ["rd4ad"]
    file.unlink()
    assert aupro(folder) == first


def change_maps(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the same maps once more: by their token they are new ones, however old the files."""
    times = (folder / "maps" / "index.json").stat()
    cell(folder.parents[1])
    os.utime(folder / "maps" / "index.json", ns=(times.st_atime_ns, times.st_mtime_ns))


def change_scores(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = load_evidence(folder / "scores.npz")
    save_evidence([replace(part, names=("other.png", *part.names[1:])) for part in parts], folder / "scores.npz")


def change_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = read_record(folder / "record.json")
    write_record(before.model_copy(update={"model_sha256": "1" * 64}), folder / "record.json")


def change_conventions(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mddbench.execution.rescore.CONVENTIONS_VERSION", "conventions-next")


def change_metrics(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METRIC_VERSIONS, "exact", "exact-next")


@pytest.mark.parametrize("change", [change_maps, change_scores, change_model, change_conventions, change_metrics])
def test_what_was_computed_from_something_else_is_computed_anew(
    tmp_path: Path, change: Callable[[Path, pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = cell(tmp_path)
    first = aupro(folder)
    tampered(folder)
    change(folder, monkeypatch)
    assert aupro(folder) == first
    tampered(folder)
    assert aupro(folder) == 0.125


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[" * 100_000,
        "[]",
        "3",
        "null",
        '{"basis": %s}',
        '{"basis": %s, "values": []}',
        '{"basis": %s, "values": {"own": 1}}',
        '{"basis": %s, "values": {"own": {"mean": {}}}}',
        '{"basis": %s, "values": {"own": [[]], "ader": null}}',
        b"\xff",
    ],
)
def test_a_broken_file_of_results_is_computed_anew(tmp_path: Path, content: str | bytes) -> None:
    folder, _ = cell(tmp_path)
    first, file = aupro(folder), folder / "rescored.json"
    basis = json.dumps(json.loads(file.read_text())["basis"])
    file.write_bytes(content if isinstance(content, bytes) else content.replace("%s", basis).encode())
    assert aupro(folder) == first


@pytest.mark.parametrize("value", [float("nan"), 7.0, "0.5", True, [], {}])
def test_a_result_that_is_no_metric_is_computed_anew(tmp_path: Path, value: Any) -> None:
    folder, _ = cell(tmp_path)
    first = aupro(folder)
    tampered(folder, value)
    assert aupro(folder) == first


def test_results_that_are_not_the_records_are_computed_anew(tmp_path: Path) -> None:
    folder, _ = cell(tmp_path)
    first = rescore(folder, ("own",), QUIET).values
    file = folder / "rescored.json"
    content = json.loads(file.read_text())
    content["values"]["own"]["mean"]["p_ap"] = 0.0
    file.write_text(json.dumps(content))
    assert rescore(folder, ("own",), QUIET).values == first


def test_maps_and_scores_must_belong_together(tmp_path: Path) -> None:
    folder, _ = cell(tmp_path)
    save_evidence((evidence("bolt", 6), evidence("nut", 4)), folder / "scores.npz")
    one_line(lambda: rescore(folder, CONVENTION_NAMES, QUIET), "nut has 6 maps and 4 image scores")
    save_evidence((evidence("bolt", 6),), folder / "scores.npz")
    one_line(lambda: rescore(folder, CONVENTION_NAMES, QUIET), "of 1 categories, which are not the record's 2")


@pytest.mark.parametrize("left", [[0], [1, 0, 0], [0, 0], []])
def test_maps_of_other_categories_than_the_record_are_refused(tmp_path: Path, left: list[int]) -> None:
    folder, _ = cell(tmp_path)
    index = folder / "maps" / "index.json"
    content = json.loads(index.read_text())
    index.write_text(json.dumps({**content, "categories": [content["categories"][number] for number in left]}))
    one_line(lambda: rescore(folder, ("ader",), QUIET), f"of {len(left)} categories, which are not the record's 2")
    assert not (folder / "rescored.json").exists()


@pytest.mark.parametrize("value", [0.02, None])
def test_maps_of_another_model_than_the_record_are_refused(tmp_path: Path, value: float | None) -> None:
    folder, _ = cell(tmp_path)
    before = read_record(folder / "record.json")
    means = {**before.metrics["mean"], "p_ap": None if value is None else before.value("mean", "p_ap") + value}
    changed = before.model_copy(update={"metrics": {**before.metrics, "mean": means}})
    write_record(changed, folder / "record.json")
    one_line(
        lambda: rescore(folder, ("ader",), QUIET), "the maps do not belong to the record: mean P-AP of the maps is 0."
    )
    assert not (folder / "rescored.json").exists()


def test_a_convention_without_a_rule_for_infinite_scores_gives_no_metrics(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = cell(tmp_path, extreme=np.inf)
    found = rescore(folder, CONVENTION_NAMES, LineReporter()).values
    assert "one: nut: scores are not finite, for which ader has no rule" in capsys.readouterr().err
    assert np.isnan([*found["ader"]["nut"].values(), *found["rd4ad"]["mean"].values()]).all()
    assert not np.isnan(list(found["ader"]["bolt"].values())).any()
    assert not np.isnan(list(found["own"]["mean"].values())).any()
    again = rescore(folder, CONVENTION_NAMES, QUIET).values
    assert np.isnan(list(again["ader"]["mean"].values())).all()


ENTRY = {"category": "nut", "offset": 0.0, "scale": 1.0, "masks": True}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[" * 100_000,
        "{}",
        "[]",
        '{"categories": 3}',
        '{"categories": [3]}',
        '{"categories": [{"category": 3}]}',
        *(
            json.dumps({"categories": [{**ENTRY, **change}]})
            for change in (
                {"scale": 0.0},
                {"scale": -1.0},
                {"scale": float("nan")},
                {"scale": float("inf")},
                {"scale": "1"},
                {"offset": float("nan")},
                {"offset": None},
                {"masks": 3},
                {"category": None},
            )
        ),
    ],
)
def test_a_broken_index_of_maps_is_one_line(tmp_path: Path, content: str) -> None:
    folder, _ = cell(tmp_path)
    (folder / "maps" / "index.json").write_text(content)
    one_line(lambda: list(kept_maps(folder / "maps")), "maps: cannot be read as kept maps")
    one_line(lambda: rescore(folder, CONVENTION_NAMES, QUIET), "maps: cannot be read as kept maps")


@pytest.mark.parametrize(
    "write",
    [
        lambda maps, masks: maps.unlink(),
        lambda maps, masks: masks.unlink(),
        lambda maps, masks: maps.write_bytes(maps.read_bytes()[:-1]),
        lambda maps, masks: maps.write_bytes(npy_header(HUGE.replace("f4", "f2"))),
        lambda maps, masks: maps.write_bytes(npy_header(HUGE.replace("1099511627776", "2**62"))),
        lambda maps, masks: np.save(maps, np.zeros((6, 33, 33))),
        lambda maps, masks: np.save(maps, np.zeros((6, 33), dtype=np.float16)),
        lambda maps, masks: np.save(maps, np.zeros((0, 33, 33), dtype=np.float16)),
        lambda maps, masks: np.save(maps, np.array([{}]), allow_pickle=True),
        lambda maps, masks: maps.write_bytes((maps.parents[1] / "scores.npz").read_bytes()),
        lambda maps, masks: np.save(masks, np.zeros((6, 3), dtype=np.uint8)),
        lambda maps, masks: np.save(masks, np.zeros((6, 137))),
    ],
)
def test_broken_maps_are_one_line(tmp_path: Path, write: Callable[[Path, Path], object]) -> None:
    folder, _ = cell(tmp_path)
    write(folder / "maps" / "001.npy", folder / "maps" / "001.masks.npy")
    one_line(lambda: rescore(folder, CONVENTION_NAMES, QUIET), "maps: cannot be read as kept maps")


def test_maps_with_nan_are_refused(tmp_path: Path) -> None:
    folder, _ = cell(tmp_path)
    np.save(folder / "maps" / "001.npy", np.full((6, 33, 33), np.nan, dtype=np.float16))
    one_line(lambda: rescore(folder, ("ader",), QUIET), "a map of nut holds NaN")


def test_what_one_side_does_not_define_is_farthest() -> None:
    one = record()
    mean = dict.fromkeys(SEVEN, 0.5)
    assert largest_mean_difference(mean, one)[1] == 0.0
    assert largest_mean_difference({**mean, "aupro": 0.4}, one) == ("aupro", pytest.approx(0.1))
    assert largest_mean_difference({**mean, "i_auroc": float("nan"), "aupro": 0.4}, one) == ("i_auroc", float("inf"))
    undefined = one.model_copy(update={"metrics": {"mean": {**mean, "p_ap": None}}})
    assert largest_mean_difference({**mean, "p_ap": float("nan"), "aupro": 0.4}, undefined) == (
        "aupro",
        pytest.approx(0.1),
    )
    assert largest_mean_difference(mean, undefined) == ("p_ap", float("inf"))


def test_the_difference_is_told_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, _ = cell(tmp_path)
    command(names=None, out=tmp_path, convention=["own"], as_json=False, quiet=True)
    assert "own minus record:" in capsys.readouterr().err
    before = read_record(folder / "record.json")
    means = {**before.metrics["mean"], "p_ap": before.value("mean", "p_ap") + 0.005}
    write_record(before.model_copy(update={"metrics": {**before.metrics, "mean": means}}), folder / "record.json")
    command(names=None, out=tmp_path, convention=["own"], as_json=False, quiet=True)
    assert re.search(r"own minus record: -0\.(49|50)\d\d in P-AP, where it is largest", capsys.readouterr().err)


def test_verify_takes_only_maps_of_the_records_own_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, _ = cell(tmp_path)
    shutil.copytree(folder, tmp_path / "cells" / "killed")
    (tmp_path / "cells" / "killed" / "record.json").unlink()
    asked: Any = [SimpleNamespace(name="mini/rd4ad", reported=SimpleNamespace(convention="ader"))]
    own = read_record(folder / "record.json")
    assert list(_rescored(asked, [own], tmp_path)[own.identity]) == ["ader"]
    assert "of another model" not in capsys.readouterr().err
    assert _rescored(asked, [own.model_copy(update={"model_sha256": "1" * 64})], tmp_path) == {}
    assert "its maps are of another model than the record's" in capsys.readouterr().err
    assert _rescored(asked, [], tmp_path) == {}
    shutil.rmtree(folder)
    assert _rescored(asked, [own], tmp_path) == {}


def test_from_run_to_rescore(tree: Path, tmp_path: Path) -> None:
    """A finished cell gets its maps from its model, without training, and its record stays as it is."""
    experiment, out = tmp_path / "small.yaml", tmp_path / "out"
    experiment.write_text(YAML)
    common = (experiment, "--data-root", tree, "--out", out, "--tracking", "none", "--no-report")
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
    assert "--force runs the cell again" in gone.stderr
