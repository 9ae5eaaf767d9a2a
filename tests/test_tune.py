"""The search for settings: what is tried, how it is judged, and what is kept of it."""

from __future__ import annotations

import json
import shutil
from copy import deepcopy
from pathlib import Path
from shutil import rmtree

import pytest

from mddbench.cli import tune as module
from mddbench.cli.tune import _keep
from mddbench.errors import InputError
from mddbench.execution.plan import plan
from mddbench.execution.tune import plan_searches
from mddbench.experiments.catalogue import experiment_names
from mddbench.experiments.search import SearchSpace, draw_points, load_space
from mddbench.plugins import METHODS, modules
from mddbench.report.figures.tuning import draw_searches
from mddbench.report.tables.markdown import markdown
from mddbench.report.tables.tuning import search_table
from mddbench.runs.search import SearchResult, read_search, write_search
from mddbench.runs.store import CELL, TRIAL, existing_store
from support import BRIDGES, mddbench, plugin_folder, write_tree

SPACE = SearchSpace(vary={"optimizer.lr": [0.1, 0.2, 0.3], "settings.sigma": [1.0, 2.0]})
RECIPE = {"optimizer.lr": 0.2, "settings.sigma": 1.0}
SINGLE = ("--set", "image_size=64", "--set", "batch_size=4", "-q")
SMALL = ("--set", "epochs=1", "--set", "image_size=64", "--set", "batch_size=4", "-q")


def test_the_recipe_is_tried_first_and_no_point_twice() -> None:
    points = draw_points(SPACE, RECIPE, 100)
    assert points[0] == RECIPE
    assert len({json.dumps(point) for point in points}) == len(points) == 6


def test_a_longer_search_goes_on_where_a_shorter_one_ended() -> None:
    assert draw_points(SPACE, RECIPE, 5)[:3] == draw_points(SPACE, RECIPE, 3)


def test_a_recipe_outside_the_grid_is_a_point_of_its_own() -> None:
    recipe = {"optimizer.lr": 0.25, "settings.sigma": 1.0}
    assert [point == recipe for point in draw_points(SPACE, recipe, 100)] == [True] + [False] * 6


@pytest.mark.parametrize("method", sorted(set(modules(METHODS)) - set(BRIDGES)))
def test_every_method_of_the_package_has_a_space_whose_points_load(method: str) -> None:
    (search,) = plan_searches([f"folder/{method}"], "", 12, (0,), {})
    assert 2 <= len(load_space(method, method).vary) <= 3
    assert len(search.points) == len(search.cells) == 12
    assert len({cell.experiment.model_dump_json() for cell in search.cells_to_run()}) == 12


def test_what_cannot_be_searched_is_one_line() -> None:
    for names, overrides, message in (
        (["ablation/components"], {}, r"ablation/components is an ablation; expected experiments"),
        (["folder/rd4ad", "mini/rd4ad"], {}, r"mini/rd4ad is a second one whose result is rd4ad.json"),
        (["folder/rd4ad"], {"optimizer.lr": 1.0}, r"--set optimizer.lr: the search space of rd4ad varies it"),
    ):
        with pytest.raises(InputError, match=message):
            plan_searches(names, "", 3, None, overrides)


def test_no_space_and_unknown_settings_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing: no search space; write experiments/search/nothing.yaml"):
        load_space("nothing", "nothing")
    (tmp_path / "experiments" / "search").mkdir(parents=True)
    space = "vary: {settings.radius: [1, 2]}"
    (tmp_path / "experiments" / "search" / "own.yaml").write_text(space, encoding="utf-8")
    plugin_folder(tmp_path, "own")
    done = mddbench("tune", "folder/own", "--plugins", tmp_path, "--dry-run")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "the search space of own: 'settings.radius' is no setting of folder/own" in done.stderr


def test_settings_are_never_chosen_on_the_test_images_of_a_benchmark(tmp_path: Path) -> None:
    done = mddbench("tune", "mini/rd4ad", "--out", tmp_path)
    assert done.returncode == 2
    assert "mini/rd4ad would choose settings on the test images of a benchmark" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_search_is_kept_goes_on_and_is_in_no_report(tmp_path: Path) -> None:
    root, out = write_tree(tmp_path / "tree"), tmp_path / "out"
    search = ("tune", "folder/rd4ad", "--data-root", root, "--out", out, *SMALL)
    done = mddbench(*search, "--trials", 1)
    assert done.returncode == 0, done.stderr
    first = read_search(out / "rd4ad.json")
    done = mddbench(*search, "--trials", 2, "--json")
    assert done.returncode == 0, done.stderr
    result = read_search(out / "rd4ad.json")
    assert json.loads(done.stdout)[0] == result.model_dump(mode="json")
    assert result.trials[0] == first.recipe == result.recipe  # also its time: the first trial was not run again
    assert result.trials[1].settings != result.recipe.settings
    assert len(list((out / "cells").glob("*/record.json"))) == 2
    assert result.judged_on.categories == ("bolt", "nut")
    assert not result.judged_on.held_out
    assert result.epochs == 1
    assert result.metric == "mad"
    assert result.score(result.winner) == max(map(result.score, result.trials))
    assert (out / "tuning.png").exists()
    assert "so they are no test results" in (out / "tuning.md").read_text(encoding="utf-8")
    store = existing_store(None, out)
    assert (len(store.finished(kind=TRIAL)), len(store.finished(kind=CELL))) == (2, 0)
    report = mddbench("report", "--out", out)
    assert (report.returncode, "no finished run there" in report.stderr) == (2, True)


def test_a_dead_store_costs_no_trial_and_is_an_exit_status(tmp_path: Path, migrated: Path) -> None:
    """`collect` logs the trials later, as trials."""
    tree, out = write_tree(tmp_path / "tree"), tmp_path / "out"
    words = ("tune", "folder/padim", "--data-root", tree, "--trials", 2, "--out", out, *SINGLE)
    done = mddbench(*words, "--tracking-uri", "http://127.0.0.1:9")
    assert done.returncode == 1
    assert len(read_search(out / "padim.json").trials) == 2, "nothing is lost"
    plan_file = out / "cells" / "plan.json"
    assert done.stderr.splitlines()[-1] == (
        f"mddbench: 2 finished cells are not logged; their records are in {out}; `mddbench collect {plan_file}` will log them"
    )
    shutil.copy(migrated, out / "mlflow.db")
    assert mddbench("collect", plan_file).returncode == 0
    store = existing_store(None, out)
    assert (len(store.finished(kind=TRIAL)), len(store.finished(kind=CELL))) == (2, 0)
    assert mddbench(*words).returncode == 0


def test_a_search_goes_on_from_its_result_alone(tmp_path: Path) -> None:
    """As on another machine, which has no folders of trials. A changed recipe makes all of its trials anew."""
    root, out = write_tree(tmp_path / "tree"), tmp_path / "out"
    search = ("tune", "folder/rd4ad", "--data-root", root, "--out", out, "--tracking", "none", *SMALL)
    assert mddbench(*search, "--trials", 2).returncode == 0
    rmtree(out / "cells")
    first = read_search(out / "rd4ad.json")
    for trials, made in ((2, 0), (3, 1)):
        done = mddbench(*search, "--trials", trials)
        assert done.returncode == 0, done.stderr
        result = read_search(out / "rd4ad.json")
        assert result.trials[:2] == first.trials
        assert len(result.trials) == trials
        assert len(list((out / "cells").glob("*/record.json"))) == made
    rmtree(out / "cells")
    assert mddbench(*search, "--set", "settings.sigma=2.0", "--trials", 3).returncode == 0
    assert len(list((out / "cells").glob("*/record.json"))) == 3


def test_a_kept_search_is_not_replaced_by_a_smaller_one_or_one_on_other_images(tmp_path: Path) -> None:
    _keep(result(), tmp_path / "rd4ad.json")
    with pytest.raises(InputError, match=r"rd4ad.json: holds a search of 3 trials; give as many by --trials"):
        _keep(result(trials=TRIALS[:1]), tmp_path / "rd4ad.json")
    other = {**result().judged_on.model_dump(mode="json"), "fingerprint": "e" * 64}
    with pytest.raises(InputError, match=r"rd4ad.json: holds a search on other images .*; give another --out"):
        _keep(result(judged_on=other), tmp_path / "rd4ad.json")


def test_without_masks_the_image_auroc_judges() -> None:
    values = zip(TRIALS, (0.1, 0.9, 0.5), strict=True)
    found = result(
        trials=[{**trial, "metrics": {"i_auroc": score, "mad": None}} for trial, score in values], metric="i_auroc"
    )
    assert found.winner == found.trials[1]
    assert "I-AUROC of the best" in markdown(search_table([found]))


def test_a_setting_that_some_methods_do_not_use_is_left_out_for_those() -> None:
    one, other = plan_searches(["folder/rd4ad", "folder/patchcore"], "", 1, (0,), {"epochs": 7})
    assert (one.experiment.epochs, other.experiment.epochs) == (7, 1)
    assert (one.experiment.overrides, other.experiment.overrides) == ({"epochs": 7}, {})
    with pytest.raises(InputError, match=r"--set epochs: patchcore sees each image once"):
        plan(["folder/patchcore", "folder/padim"], "named", (0,), {"epochs": 7})
    with pytest.raises(InputError, match=r"--set encoder.name: draem uses no encoder; leave it out"):
        plan(["folder/draem"], "named", (0,), {"encoder.name": "resnet18"})


def test_held_out_images_are_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two searches, whose outcomes are copies as those of child processes are."""
    run_cells = module.run_cells
    monkeypatch.setattr(module, "run_cells", lambda *given: deepcopy(run_cells(*given)))
    root = write_tree(tmp_path / "tree")
    held_out = ("--held-out", "--trials", 1, "--tracking", "none")
    names = ("folder/rd4ad", "folder/padim")
    done = mddbench("tune", *names, "--data-root", root, "--out", tmp_path / "out", *held_out, *SMALL)
    assert done.returncode == 0, done.stderr
    results = [read_search(tmp_path / "out" / f"{method}.json") for method in ("rd4ad", "padim")]
    assert all(each.judged_on.held_out for each in results)
    assert [each.epochs for each in results] == [1, "one pass"]
    assert "drawn defects on held-out training images" in done.stdout


TRIALS: list[dict[str, object]] = [
    {"settings": {"optimizer.lr": rate}, "identities": ["0" * 16], "metrics": {"mad": score}, "train_seconds": 1.0}
    for rate, score in ((0.1, 0.5), (0.2, 0.75), (0.3, None))
]


def result(**changes: object) -> SearchResult:
    judged_on = {
        "dataset": "folder",
        "fingerprint": "f" * 64,
        "categories": ["bolt"],
        "test_images": 9,
        "held_out": False,
    }
    content = {
        "method": "rd4ad",
        "label": "RD4AD",
        "experiment": "folder/rd4ad",
        "judged_on": judged_on,
        "metric": "mad",
        "epochs": 20,
        "seeds": [0],
        "trials": TRIALS,
        "failed": {'{"optimizer.lr": 9.0}': "loss is not finite"},
    }
    return SearchResult.model_validate_json(json.dumps({**content, **changes}))


def test_the_table_says_what_won_and_what_failed(tmp_path: Path) -> None:
    text = markdown(search_table([result(), result(method="pad", label="Pad", epochs="one pass", failed={})]))
    assert "| RD4AD | 3 | 50.0 | 75.0 | optimizer.lr 0.2 |" in text
    assert "Epochs: RD4AD 20, Pad one pass." in text
    assert "RD4AD: 1 of its trials failed." in text
    elsewhere = {**TRIALS[0], "processor": "an EPYC"}, {**TRIALS[1], "processor": "a Xeon"}
    assert "Trials ran on several machines: a Xeon; an EPYC." in markdown(search_table([result(trials=elsewhere)]))
    assert "machines" not in text
    draw_searches([result()], tmp_path / "a.png")
    assert (tmp_path / "a.png").exists()


def test_a_result_is_read_as_it_was_written_and_a_strange_one_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_search(result(), file)
    assert read_search(file) == result()
    for text, message in (
        ("[]", "expected the result of a search"),
        ("{", "cannot be read there"),
        ('{"x": 1}', "unknown key 'x'"),
    ):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=message):
            read_search(file)


def test_search_spaces_are_no_experiments() -> None:
    assert not any(name.startswith("search/") for name in experiment_names())
