"""One protocol for all: what every card must agree in, and what training can never see."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mddbench.data.dataset import Dataset, Split
from mddbench.data.samples import Sample
from mddbench.detector import load_method
from mddbench.errors import InputError
from mddbench.execution.cells import Prepared
from mddbench.execution.fit import Fit, Watch
from mddbench.execution.models import build_detector
from mddbench.execution.options import RunOptions
from mddbench.execution.plan import check_cells, plan
from mddbench.execution.runner import Runner
from mddbench.experiments.catalogue import load_experiment, load_protocol, load_suite, suite_names
from mddbench.plugins import METHODS, modules
from mddbench.progress import SilentReporter
from mddbench.report.rows.groups import sheets
from mddbench.runs.card import CARD_FIELDS, Role
from mddbench.runs.records import EpochLog, Record, as_json, parse_record, read_record
from mddbench.runs.store import MlflowStore
from support import BRIDGES, ROOT, mddbench, needs_anomalib, small_overrides, write_tree

QUIET = SilentReporter()
SHORT: dict[str, Any] = {"epochs": 2, "image_size": 64, "batch_size": 4}
OF_THE_RECIPE = {
    "method_version",
    "optimizer",
    "schedule",
    "gradient_clip",
    "smoothing",
    "image_score",
}
SMALL_SETTINGS_ONLY = {
    *("memae", "memae_features", "daad", "ama", "esad", "futureg", "gatenet_head", "rda_distillation"),
    "diffusion_features",
}
"""Methods with a recipe for small images only: no sizes for industrial images were published."""
IN_NO_SUITE = {"diad"}
"""Methods that start from weights which a user has to give, so that a suite with them would stop."""
OF_SOME_CARDS = {"encoder_features", "encoder_padding", "network", "learned_weights", "calibration", "contamination"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "tree", train=6)


def options(root: Path, out: Path, **changes: Any) -> RunOptions:
    return replace(RunOptions(out=out, cache=out / "cache", device=torch.device("cpu"), data_root=root), **changes)


def run(chosen: RunOptions, name: str = "folder/rd4ad", **settings: Any) -> Record:
    cells = plan([name], "named", (0,), {**SHORT, **settings})
    datasets = check_cells(cells, chosen, QUIET)
    (outcome,) = Runner(chosen, datasets, QUIET).run(cells)
    assert outcome.status == "finished", outcome.message
    assert outcome.folder is not None
    return read_record(outcome.folder / "record.json")


def begun(chosen: RunOptions, **settings: Any) -> tuple[Prepared, Path]:
    """A cell of folder/rd4ad that could start, and its empty folder."""
    (cell,) = plan(["folder/rd4ad"], "named", (0,), {**SHORT, **settings})
    (dataset,) = check_cells([cell], chosen, QUIET).values()
    prepared = Prepared.of(cell, build_detector(cell.experiment, dataset, chosen, 0), dataset)
    folder = prepared.folder(chosen.out)
    folder.mkdir(parents=True)
    return prepared, folder


def small_dataset() -> Dataset:
    """A stand-in with the counts of mini, whose pixels nobody reads."""
    samples = tuple(Sample(Path(f"{c}{n}"), c, "train") for c in "abcdefgh" for n in range(24))
    split = Split(samples, np.zeros((192, 2, 2, 3), dtype=np.uint8), np.zeros((192, 2, 2), dtype=np.bool_))
    return Dataset("mini", tuple("abcdefgh"), "f" * 64, 3, split, split, "mask > 0")


def test_the_methods_of_the_quick_suite_have_one_card(tmp_path: Path) -> None:
    cards = []
    for cell in plan([], "quick", None, {}):
        detector = build_detector(cell.experiment, small_dataset(), options(tmp_path, tmp_path), 0)
        cards.append(Prepared.of(cell, detector, small_dataset()).card.texts())
    assert len(cards) == 3
    own = {key for key in cards[0] if len({json.dumps(card[key]) for card in cards}) > 1}
    assert own | {"method_version"} == OF_THE_RECIPE  # versions may happen to be equal
    assert set(CARD_FIELDS) == set(cards[0]) | OF_SOME_CARDS
    of_the_task = {name for name, field in CARD_FIELDS.items() if field.role is Role.TASK}
    assert of_the_task - set(cards[0]) == {"calibration", "contamination"}  # without them no images are moved


@pytest.mark.parametrize("dataset", ["mini", "folder", "elpv", "mvtec", "visa", "real_iad", "uni_medical"])
def test_the_experiments_of_a_dataset_have_one_budget(dataset: str) -> None:
    """Those that a suite holds, and what a method without a file gets. A single pass has no budget. Suites of vision
    transformers have images of whole patches, and one suite has each author's own budget.
    """
    protocol, methods = load_protocol(dataset), set()
    for suite in suite_names():
        names = [name for name in load_suite(suite).experiments if name.startswith(f"{dataset}/")]
        experiments = [load_experiment(name) for name in names]
        methods |= {one.method for one in experiments}
        if not names or suite == "paper_authors":
            continue
        assert {one.epochs for one in experiments if not load_method(one.method).single_pass} == {protocol["epochs"]}
        size = 126 if suite.endswith("_vit") else protocol["image_size"]
        assert {(one.image_size, one.precision, one.setting, one.seeds) for one in experiments} == {
            (size, "float32", "unified", tuple(protocol["seeds"]))
        }
    small = set() if dataset in ("mini", "folder") else SMALL_SETTINGS_ONLY
    absent = (
        small
        | IN_NO_SUITE
        | {"elpv": {"vitad", "dinomaly", "inpformer"}, "uni_medical": {"dinomaly", "inpformer"}}.get(dataset, set())
    )
    assert methods == set(modules(METHODS)) - absent - set(BRIDGES)


class Forbidden:
    """An array that must not be touched yet."""

    shape = (1, 64, 64, 3)

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"training asked the test images for '{name}'")

    def __getitem__(self, index: Any) -> Any:
        raise AssertionError(f"training read test images {index}")

    def __len__(self) -> int:
        raise AssertionError("training counted the test images")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=needs_anomalib if name in BRIDGES else ()) for name in modules(METHODS)]
)
def test_training_cannot_reach_test_images(name: str, root: Path, tmp_path: Path) -> None:
    chosen = options(root, tmp_path / "out")
    single_pass = load_method(name).single_pass  # which knows no epochs
    short = {key: value for key, value in SHORT.items() if not (single_pass and key == "epochs")}
    tiny, weights = small_overrides(load_experiment(f"folder/{name}"), tmp_path)
    chosen = replace(chosen, weights_dir=weights)
    (cell,) = plan([f"folder/{name}"], "named", (0,), short | tiny)
    datasets = check_cells([cell], chosen, QUIET)
    (dataset,) = datasets.values()
    sealed: Any = Forbidden()
    dataset = replace(dataset, test=replace(dataset.test, images=sealed, masks=sealed))
    detector = build_detector(cell.experiment, dataset, chosen, 0)
    folder = tmp_path / "cell"
    folder.mkdir()
    fit = Fit(Prepared.of(cell, detector, dataset), chosen, folder, QUIET)
    trained = fit.train()
    assert len(trained.history) == (1 if single_pass else 2)
    with pytest.raises(AssertionError, match="test images"):
        fit.evaluate(trained)  # the seal holds: whoever does ask is found out


def test_images_that_are_no_whole_patches_are_refused(root: Path, tmp_path: Path) -> None:
    tiny, weights = small_overrides(load_experiment("folder/inpformer"), tmp_path)
    cells = plan(["folder/inpformer"], "named", (0,), SHORT | tiny | {"image_size": 72})
    with pytest.raises(InputError, match=r"image_size 72 does not fit 'test_vit', whose patches have 16 pixels; use a"):
        check_cells(cells, replace(options(root, tmp_path / "out"), weights_dir=weights), QUIET)


def test_numbers_on_development_data_say_so_and_stand_apart(root: Path, tmp_path: Path) -> None:
    usual = run(options(root, tmp_path / "usual"), epochs=1)
    chosen = run(options(root, tmp_path / "chosen", development=True), epochs=1)
    assert str(chosen.card.setting) == f"{usual.card.setting}, development data"
    assert usual.card.standard_setting
    assert not chosen.card.standard_setting
    assert "development" not in json.dumps(usual.model_dump())
    assert chosen.identity != usual.identity
    assert chosen.metrics == usual.metrics
    assert len(sheets([usual, chosen])) == 2
    assert parse_record(as_json(chosen), "test") == chosen


def test_looking_at_the_test_set_changes_nothing(root: Path, tmp_path: Path) -> None:
    plain = run(options(root, tmp_path / "plain"), epochs=4)
    looked = run(options(root, tmp_path / "looked", test_curve=2), epochs=4)
    assert looked.deterministic() == plain.deterministic()
    assert [point.epoch for point in looked.test_curve] == [2, 4]
    assert looked.test_curve[-1].metrics == looked.metrics["mean"]
    assert plain.test_curve == []


@pytest.mark.parametrize(
    ("cut_at", "where", "share"),
    [
        (2, "before the look", 0.0),
        (2, "before the look", 1.0),
        (1, "in the look", 0.0),
        (3, "in the look", 0.0),
        (3, "in the look", 1.0),
    ],
)
def test_a_test_curve_goes_on_after_an_interruption(
    cut_at: int, where: str, share: float, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it is cut, and whether a checkpoint was written there: the result is the same, and so is the whole curve."""
    whole = run(options(root, tmp_path / "whole", test_curve=1), epochs=3)
    chosen = options(root, tmp_path / "cut", test_curve=1)
    prepared, folder = begun(chosen, epochs=3)
    with monkeypatch.context() as patch:
        patch.setattr("mddbench.engine.checkpoint.SHARE", 1e9 if share else 0.0)
        if where == "in the look":
            look = Fit._test_point
            patch.setattr(Fit, "_test_point", lambda fit, epoch: stop() if epoch == cut_at else look(fit, epoch))
        with pytest.raises(KeyboardInterrupt):
            Fit(prepared, chosen, folder, QUIET, StoppedAt(cut_at if "before" in where else 0)).train()
    resumed = run(chosen, epochs=3)
    assert resumed.deterministic() == whole.deterministic()
    assert resumed.test_curve == whole.test_curve
    assert [point.epoch for point in resumed.test_curve] == [1, 2, 3]


def test_an_unfinished_curve_is_left_out_if_none_is_asked_for(root: Path, tmp_path: Path) -> None:
    chosen = options(root, tmp_path / "cut", test_curve=1)
    prepared, folder = begun(chosen, epochs=3)
    with pytest.raises(KeyboardInterrupt):
        Fit(prepared, chosen, folder, QUIET, StoppedAt(2)).train()
    assert run(options(root, tmp_path / "cut"), epochs=3).test_curve == []


def test_a_curve_cannot_begin_in_the_middle(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Epochs that nobody looked at are gone: refused, and what was trained is kept."""
    monkeypatch.setattr("mddbench.engine.checkpoint.SHARE", 1e9)  # a checkpoint at each epoch
    plain = options(root, tmp_path / "cut")
    prepared, folder = begun(plain, epochs=3)
    with pytest.raises(KeyboardInterrupt):
        Fit(prepared, plain, folder, QUIET, StoppedAt(2)).train()
    asked = options(root, tmp_path / "cut", test_curve=1)
    with pytest.raises(
        InputError, match=r"first 2 epochs were trained without --test-curve 1; leave that out to go on"
    ):
        Fit(prepared, asked, folder, QUIET).train()
    assert run(plain, epochs=3).test_curve == []


def stop() -> None:
    raise KeyboardInterrupt


class StoppedAt(Watch):
    """Interrupts a training at the end of an epoch."""

    def __init__(self, epoch: int) -> None:
        super().__init__()
        object.__setattr__(self, "last", epoch)

    def epoch(self, log: EpochLog) -> None:
        if log.epoch == self.last:
            stop()


def test_separate_models_are_those_of_the_categories_alone(root: Path, tmp_path: Path) -> None:
    record = run(options(root, tmp_path / "both"), setting="separate")
    assert record.card.shown("setting") == "a separate model for each of 2 categories"
    assert record.card.iterations == 2 * 2 * 1
    assert record.history[0].images == 2 * 4
    weights = load_file(next((tmp_path / "both").glob("cells/*/model.safetensors")))
    for category in record.categories:
        (tmp_path / category).mkdir()
        (root / category).rename(tmp_path / category / category)
        alone = run(options(tmp_path / category, tmp_path / f"out-{category}"))
        (tmp_path / category / category).rename(root / category)
        assert alone.metrics[category] == record.metrics[category]
        own = load_file(next((tmp_path / f"out-{category}").glob("cells/*/model.safetensors")))
        assert all(torch.equal(weights[f"{category}/{name}"], value) for name, value in own.items())
    assert len(weights) == 2 * len(own)


def test_separate_models_resume_and_are_marked(root: Path, tmp_path: Path) -> None:
    chosen = options(root, tmp_path / "out")
    prepared, folder = begun(chosen, setting="separate")
    first = Fit(prepared, chosen, folder, QUIET)
    first._trainer(first._untrained(), "bolt").run(first._data("bolt"), QUIET)  # then the power failed
    run(chosen, setting="separate")
    assert not list(folder.glob("checkpoint*"))
    run(options(root, tmp_path / "out"))
    report = mddbench("report", "--records", tmp_path / "out", "--to", tmp_path / "report", "--tables")
    assert report.returncode == 0, report.stderr
    assert "another protocol" in report.stderr
    assert "--allow-mixed" in report.stderr
    mains = sorted((tmp_path / "report").glob("*/main.md"))
    assert len(mains) == 2
    assert ["a separate model for each of 2" in file.read_text() for file in mains].count(True) == 1
    mixed = mddbench("report", "--records", tmp_path / "out", "--to", tmp_path / "mixed", "--allow-mixed", "--tables")
    (file,) = (tmp_path / "mixed").glob("*/main.md")
    assert mixed.returncode == 0, mixed.stderr
    assert "†" in file.read_text()
    assert "another protocol (setting " in file.read_text()


def test_both_settings_are_cells_of_one_plan(root: Path) -> None:
    (folder := root.parent / "own").mkdir()
    text = (ROOT / "mddbench/experiments/folder/rd4ad.yaml").read_text()
    for name in ("unified", "separate"):
        (folder / f"{name}.yaml").write_text(f"{text}setting: {name}\n")
    cells = plan([str(folder / "unified.yaml"), str(folder / "separate.yaml")], "named", (0,), {})
    assert [cell.experiment.setting for cell in cells] == ["unified", "separate"]


def test_a_test_curve_of_separate_models_is_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--test-curve"):
        run(options(root, tmp_path / "out", test_curve=1), setting="separate")


def test_a_test_curve_is_a_curve_in_the_store_and_a_table_in_the_report(
    root: Path, fresh_store: Callable[[str], Path]
) -> None:
    out = fresh_store("out")
    arguments = ("run", "folder/rd4ad", "--data-root", root, "--out", out, "--test-curve", "1")
    ran = mddbench(*arguments, "--set", "epochs=3", "--set", "image_size=64", "--set", "batch_size=4")
    assert ran.returncode == 0, ran.stderr
    client = MlflowStore(f"sqlite:///{out / 'mlflow.db'}", None)
    (found,) = client.search("tags.`mddbench.kind` = 'cell'")
    points = client.client.get_metric_history(found.info.run_id, "test_curve/mad")
    assert [point.step for point in points] == [1, 2, 3]
    assert "3 looks at the test set" in (out / "report" / root.name / "selection.md").read_text()


def test_a_short_training_is_not_compiled(root: Path, tmp_path: Path) -> None:
    """It would take minutes to compile and save seconds; a long one of separate models is as short as its shortest."""
    chosen = options(root, tmp_path / "out", compiling=True)
    assert run(chosen).environment["compiled"] is False
    (dataset,) = check_cells(plan(["folder/rd4ad"], "named", (0,), SHORT), chosen, QUIET).values()
    (cell,) = plan(["folder/rd4ad"], "named", (0,), SHORT)
    detector = build_detector(cell.experiment, dataset, chosen, 0)
    for setting, epochs, expected in (("unified", 3334, True), ("unified", 3333, False), ("separate", 5000, False)):
        (cell,) = plan(["folder/rd4ad"], "named", (0,), {**SHORT, "epochs": epochs, "setting": setting})
        assert Prepared.of(cell, detector, dataset, compiling=True).compiled is expected
        assert not Prepared.of(cell, detector, dataset).compiled
