"""A file dropped in is all that a new method or dataset takes; from outside the checkout, too."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from tempfile import gettempdir

import pytest

from mddbench.runs.records import read_record
from support import ROOT, mddbench, plugin_folder, template_of_a_method, write_tree

METHOD = '''\
"""Foo: how far each place is from the mean feature of all training images.

Paper:     none; the smallest method that learns anything.
Code read: none.
Differs:   nothing.
Unsaid:    nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mddbench.plugin_api.methods import Batch, Detector, FrozenEncoder, Strict


class Foo(Detector):
    """One learnt vector for all places of the deepest level."""

    label = "Foo"
    version = 1

    class Settings(Strict):
        """scale: of the map."""

        scale: float = 1.0

    def __init__(self, encoder: FrozenEncoder, settings: Any, categories: int) -> None:
        super().__init__(encoder, settings, categories)
        self.mean = torch.nn.Parameter(torch.randn(encoder.channels[-1]))

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        return {"distance": self._distances(batch.images).mean()}

    def anomaly_maps(self, images: Tensor) -> Tensor:
        maps = self._distances(images)[:, None] * self.settings.scale
        return F.interpolate(maps, images.shape[-2:], mode="bilinear", align_corners=True)[:, 0]

    def _distances(self, images: Tensor) -> Tensor:
        return (self.encoder(images)[-1].float() - self.mean[:, None, None]).square().mean(dim=1)
'''
DATASET = '''\
"""Bar: a folder whose categories are what they are."""

from mddbench.plugin_api.datasets import DatasetSource, Layout, read_tree

DATASET = DatasetSource(description="bar", read=lambda root, _: read_tree(root, Layout(masks_required=False)))
'''
SHORT = ("--set", "epochs=1", "--set", "image_size=64", "--tracking", "none")


def call(*arguments: object, home: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m ...`, with a folder that goes before what is installed."""
    path = {"PYTHONPATH": str(home)} if home else {}
    return subprocess.run(
        [sys.executable, *(str(argument) for argument in arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **path, **environment},
        timeout=280,
        check=False,
        cwd=home or gettempdir(),  # not the checkout, which lacks what a wheel puts into the package
    )


MAIN = ("-c", "from mddbench.cli.main import main; main()")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the package as a wheel lays it out, with a method and a dataset dropped in and nothing else touched."""
    home = tmp_path / "checkout"
    ignored = shutil.ignore_patterns("__pycache__", "rendered")
    shutil.copytree(ROOT / "mddbench", home / "mddbench", ignore=ignored)
    for name in ("baselines", "paper_tables"):
        shutil.copytree(ROOT / name, home / "mddbench" / name, ignore=ignored)
    shutil.copytree(ROOT / "tests", home / "tests", ignore=ignored)
    (home / "mddbench/baselines/foo.py").write_text(METHOD)
    (home / "mddbench/data/datasets/bar.py").write_text(DATASET)
    return home


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A plug-in folder outside of any checkout."""
    found = tmp_path / "plugins"
    for name, text in (("methods/foo.py", METHOD), ("datasets/bar.py", DATASET)):
        (found / name).parent.mkdir(parents=True)
        (found / name).write_text(text)
    return found


def test_a_dropped_file_is_listed_checked_run_and_in_the_table(checkout: Path, tmp_path: Path) -> None:
    listed = json.loads(call(*MAIN, "list", "--json", home=checkout).stdout)
    assert "foo" in listed["methods"]
    assert "bar" in listed["datasets"]
    tree = write_tree(tmp_path / "tree")
    arguments = ("run", "bar/foo", "bar/rd4ad", "--data-root", tree, "--out", tmp_path / "out", *SHORT)
    ran = call(*MAIN, *arguments, home=checkout)
    assert ran.returncode == 0, ran.stderr
    assert "| Foo | 1 |" in ran.stdout
    assert "| RD4AD | 1 |" in ran.stdout
    records = [read_record(file) for file in (tmp_path / "out").glob("cells/*/record.json")]
    assert {record.experiment for record in records} == {"bar/foo", "bar/rd4ad"}


def test_a_dropped_file_is_in_the_conformance_suite(checkout: Path) -> None:
    chosen = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/conformance", "-k", "foo or bar")
    tested = call(*chosen, home=checkout)
    assert tested.returncode == 0, tested.stdout
    assert " passed" in tested.stdout
    (checkout / "mddbench/baselines/foo.py").write_text(METHOD.replace(".square().mean(dim=1)", ".mean(dim=1) / 0"))
    broken = call(*chosen, home=checkout)
    assert broken.returncode == 1
    assert "test_it_conforms[foo-maps fit the images]" in broken.stdout


def test_a_method_of_a_plugin_folder_is_checked_as_the_suites_own(folder: Path) -> None:
    asked = ("check", "--methods", "foo", "--plugins", folder)
    sound = mddbench(*asked)
    assert sound.returncode == 0, sound.stdout
    assert "foo: maps fit the images: yes" in sound.stdout
    (folder / "methods" / "foo.py").write_text(METHOD.replace(".square().mean(dim=1)", ".mean(dim=1) / 0"))
    broken = mddbench(*asked)
    assert broken.returncode == 1
    assert "foo: maps fit the images: no: maps or scores are not finite" in broken.stdout
    assert json.loads(mddbench(*asked, "--json").stdout)["foo"]["it says where it is from"] is None
    unknown = mddbench("check", "--methods", "fou", "--plugins", folder)
    assert unknown.returncode == 2
    assert "unknown method 'fou' (did you mean 'foo'?)" in unknown.stderr


def test_a_folder_of_plugins(folder: Path, tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "tree")
    arguments = ("run", "bar/foo", "--plugins", folder, "--data-root", tree, "--out", tmp_path / "out", *SHORT)
    ran = mddbench(*arguments)
    assert ran.returncode == 0, ran.stderr
    assert "| Foo | 1 |" in ran.stdout
    listed = json.loads(mddbench("list", "methods", "--json", MDDBENCH_PLUGINS=str(folder)).stdout)
    assert "foo" in listed
    assert "foo" not in json.loads(mddbench("list", "methods", "--json").stdout)
    assert f"({folder / 'methods' / 'foo.py'})" in mddbench("list", "--plugins", folder).stdout


def test_experiments_of_a_plugin_folder(folder: Path) -> None:
    file = folder / "experiments/bar/mine.yaml"
    file.parent.mkdir(parents=True)
    shutil.copy(ROOT / "mddbench/experiments/folder/protocol.yaml", file)
    file.write_text(f"method: foo\ndataset: bar\nsettings: {{scale: 2}}\n{file.read_text()}")
    assert "bar/mine" in mddbench("list", "experiments", "--plugins", folder).stdout.split()
    assert mddbench("check", "--plugins", folder).returncode == 0
    file.write_text(file.read_text().replace("scale", "scalar"))
    checked = mddbench("check", "--plugins", folder)
    assert checked.returncode == 1
    assert "did you mean 'scale'?" in checked.stdout


def test_an_installed_package_brings_a_method(tmp_path: Path) -> None:
    site = tmp_path / "site"
    (site / "theirs-1.0.dist-info").mkdir(parents=True)
    (site / "theirs_foo.py").write_text(METHOD)
    (site / "theirs-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (site / "theirs-1.0.dist-info/entry_points.txt").write_text("[mddbench.methods]\nfoo = theirs_foo\n")
    assert "foo" in call(*MAIN, "list", "methods", home=site).stdout.split()
    arguments = ("run", "mini/foo", "--out", tmp_path / "out", *SHORT)
    ran = call(*MAIN, *arguments, home=site)
    assert ran.returncode == 0, ran.stderr
    assert "| Foo | 1 |" in ran.stdout


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda folder: None, "no such folder"),
        (lambda folder: folder.mkdir(), "it has none of them"),
        (lambda folder: _put(folder / "methods/rd4ad.py"), "'rd4ad' is known already; rename the file"),
    ],
)
def test_a_folder_that_is_none_is_one_line(prepare: object, message: str, tmp_path: Path) -> None:
    assert callable(prepare)
    prepare(tmp_path / "x")
    listed = mddbench("list", "--plugins", tmp_path / "x")
    assert listed.returncode == 2
    assert message in listed.stderr
    assert listed.stderr.count("\n") == 1


def test_a_known_experiment_is_not_replaced(folder: Path) -> None:
    file = folder / "experiments/mini/rd4ad.yaml"
    file.parent.mkdir(parents=True)
    shutil.copy(ROOT / "mddbench/experiments/mini/rd4ad.yaml", file)
    listed = mddbench("list", "--plugins", folder)
    assert listed.returncode == 2
    assert "'mini/rd4ad' is known already; rename the file" in listed.stderr


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "methods/foo.py",
            METHOD.replace("mddbench.plugin_api.methods", "mddbench.config"),
            "write 'from mddbench.plugin_api.methods import",
        ),
        ("datasets/bar.py", "from mddbench.data.splits import Below", "'Below' is 'ImageFolder' now"),
        ("datasets/bar.py", "from mddbench.plugin_api.datasets import Nothing", "cannot import name 'Nothing'"),
        ("datasets/bar.py", "import mddbench.nowhere", "write 'from mddbench.plugin_api.datasets import"),
        ("methods/foo.py", "def broken(:", "'foo' (mddbench.baselines.foo) cannot be imported: SyntaxError"),
        (
            "methods/foo.py",
            "import no_such_thing",
            "cannot be imported: ModuleNotFoundError: No module named 'no_such_thing'",
        ),
        ("methods/foo.py", "x = 1", "expected one subclass of Detector in it, found 0"),
        ("datasets/bar.py", "x = 1", "expected a constant DATASET, found NoneType"),
    ],
)
def test_a_broken_plugin_is_one_line(folder: Path, name: str, text: str, message: str, tmp_path: Path) -> None:
    (folder / name).write_text(text)
    ran = mddbench("run", "bar/foo", "--plugins", folder, "--data-root", tmp_path, "--out", tmp_path / "out", *SHORT)
    assert ran.returncode == 2
    assert message in ran.stderr
    assert ran.stderr.count("\n") == 1


def test_a_new_dataset_gets_each_methods_own_recipe(folder: Path) -> None:
    """As on any folder, and not a start for methods that nobody knows."""
    code = (
        "from pathlib import Path\n"
        "from mddbench.experiments.catalogue import load_experiment as load\n"
        "from mddbench.plugins import add_folder\n"
        f"add_folder(Path({str(folder)!r}))\n"
        "for name in ('rd4ad', 'uniad', 'mddnet'):\n"
        "    one, other = (load(f'{d}/{name}').model_dump(exclude={'name', 'dataset'}) for d in ('bar', 'folder'))\n"
        "    assert one == other, name\n"
        "assert load('bar/foo').optimizer.lr == 0.001\n"
        "assert load('mini/foo').epochs == load('mini/rd4ad').epochs\n"
    )
    ran = call("-c", code)
    assert ran.returncode == 0, ran.stderr


def _put(file: Path) -> None:
    file.parent.mkdir(parents=True)
    file.write_text("")


def test_this_process_knows_no_plugin() -> None:
    """The tests above add folders in processes of their own only."""
    assert len(list(import_module("mddbench.baselines").__path__)) == 1


def test_the_method_of_contributing_stands_in_the_table(tmp_path: Path) -> None:
    """Forty lines suffice, and a method of one pass stands beside one with epochs."""
    lines = [line for line in template_of_a_method().partition('"""\n\n')[2].splitlines() if line]
    assert len(lines) <= 40
    folder, tree, out = plugin_folder(tmp_path / "plugins"), write_tree(tmp_path / "tree"), tmp_path / "out"
    short = tmp_path / "rd4ad.yaml"
    short.write_text((ROOT / "mddbench/experiments/folder/rd4ad.yaml").read_text().replace("epochs: 20", "epochs: 1"))
    names = ("folder/patch_bank", short, "--set", "image_size=64", "--set", "batch_size=4", "--tracking", "none")
    done = mddbench("run", *names, "--plugins", folder, "--data-root", tree, "--out", out, "-q")
    assert done.returncode == 0, done.stderr
    (table,) = (out / "report").glob("*/main.md")
    text = table.read_text(encoding="utf-8")
    assert "| Patch bank | 1 |" in text
    assert "| RD4AD | 1 |" in text
    assert "Patch bank: epochs one pass" in text


def test_ablations_and_suites_of_a_plugin_folder(folder: Path, tmp_path: Path) -> None:
    ablation, suite = folder / "experiments/ablation/mine.yaml", folder / "suites/ours.yaml"
    for file, text in (
        (ablation, "# What the scale does.\ntitle: Scale\nbase: mini/foo\nvary: {settings.scale: [1.0, 2.0]}\n"),
        (suite, "description: what we look at\nexperiments: [mini/foo, ablation/mine]\n"),
    ):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (folder / "README.md").touch()
    (folder / "tables").mkdir()
    listed = mddbench("list", "--plugins", folder)
    assert f"What the scale does. ({ablation})" in listed.stdout
    assert f"what we look at ({suite})" in listed.stdout
    assert f"{folder}: not read: tables; read are methods, datasets, experiments, suites" in listed.stderr
    assert mddbench("check", "--plugins", folder).returncode == 0
    ran = mddbench("run", "--all", "--suite", "ours", "--plugins", folder, "--out", tmp_path / "out", *SHORT)
    assert ran.returncode == 0, ran.stderr
    assert "Scale" in ran.stdout
    suite.rename(suite.with_stem("quick"))
    refused = mddbench("list", "--plugins", folder)
    assert refused.returncode == 2
    assert "'quick' is known already; rename the file" in refused.stderr
