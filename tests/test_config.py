"""Settings: strict, and with errors that a person can act on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mddbench.errors import InputError
from mddbench.experiments.catalogue import experiment_names, load_experiment, load_protocol, load_suite, protocol_files
from mddbench.experiments.schema import parse_override
from support import YAML


def write(tmp_path: Path, text: str) -> str:
    file = tmp_path / "own.yaml"
    file.write_text(text)
    return str(file)


def test_an_experiment_of_ones_own(tmp_path: Path) -> None:
    loaded = load_experiment(write(tmp_path, YAML), {"optimizer.lr": 0.5, "settings.sigma": 2})
    assert loaded.optimizer.lr == 0.5
    assert loaded.settings == {"sigma": 2}
    assert loaded.overrides == {"optimizer.lr": 0.5, "settings.sigma": 2}
    with pytest.raises(Exception, match="frozen"):
        loaded.epochs = 7  # type: ignore[misc]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("epochs: 3", "epoch: 3", "unknown key 'epoch' (did you mean 'epochs'?)"),
        ("epochs: 3", "", "'epochs' is missing"),
        ("epochs: 3", "epochs: 0", "'epochs' is 0: input should be greater than or equal to 1; it means: "),
        ("epochs: 3", "epochs: three", "'epochs' is 'three': input should be a valid integer"),
        ("epochs: 3", "epochs: 3\nepochs: 4", "line 7: not valid YAML ('epochs' is given twice)"),
        ("lr: 0.005", "rl: 0.005", "unknown key 'optimizer.rl'"),
        (
            "name: adam",
            "name: adamm",
            "'optimizer.name' is 'adamm': input should be 'adam', 'adamw', 'stableadamw' or 'sgd'",
        ),
        ("seeds: [0]", "seeds: []", "'seeds' is []"),
        ("method: rd4ad", "method: [", "not valid YAML"),
        ("method: rd4ad", "!!python/object/apply:os.system [ls]: 1\nmethod: rd4ad", "not valid YAML"),
        (YAML, "- just\n- a list", "expected settings as 'key: value' lines, found list"),
        ("method: rd4ad", "1: x\nmethod: rd4ad", "key 1 is not text"),
        ("method: rd4ad", "? [1, 2]\n: x\nmethod: rd4ad", "not valid YAML"),
        ("method: rd4ad", "a: &a [*a]\nmethod: rd4ad", "aliases are not supported"),
        ("method: rd4ad", "a: " + "[" * 20_000, "not valid YAML"),
        ("lr: 0.005", "lr: .nan", "'optimizer.lr' is"),
        ("method: rd4ad", "name: mine\nmethod: rd4ad", "'name' is filled in on loading"),
    ],
)
def test_faults_are_one_line_that_names_the_setting(old: str, new: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, YAML.replace(old, new))
    with pytest.raises(InputError) as fault:
        load_experiment(path)
    assert str(fault.value).startswith(f"{path}:")
    assert message in str(fault.value)
    assert "\n" not in str(fault.value)


def test_names_are_suggested() -> None:
    with pytest.raises(InputError, match=r"unknown experiment 'mini/rd4da' \(did you mean 'mini/rd4ad'\?\)"):
        load_experiment("mini/rd4da")
    with pytest.raises(InputError, match=r"unknown suite 'quik' \(did you mean 'quick'\?\)"):
        load_suite("quik")


def test_a_path_is_not_a_way_out_of_the_package() -> None:
    with pytest.raises(InputError, match="unknown experiment"):
        load_experiment("../suites/quick")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("epochs=3", ("epochs", 3)),
        ("a.b=[1, 2]", ("a.b", [1, 2])),
        ("x=null", ("x", None)),
        ("x=a=b", ("x", "a=b")),
        ("lr=1e-3", ("lr", 1e-3)),
    ],
)
def test_overrides_are_read_as_yaml(text: str, expected: tuple[str, Any]) -> None:
    assert parse_override(text) == expected


@pytest.mark.parametrize("text", ["epochs", "=3", "x=[1"])
def test_faulty_overrides(text: str) -> None:
    with pytest.raises(InputError, match=r"--set"):
        parse_override(text)


def test_overriding_into_a_value_is_an_error() -> None:
    with pytest.raises(InputError, match="'epochs' is not a group of settings"):
        load_experiment("mini/rd4ad", {"epochs.x": 1})


def test_a_dataset_that_is_run_like_another() -> None:
    own, other = load_experiment("visa/rd4ad_ader"), load_experiment("mvtec/rd4ad_ader")
    assert own.dataset == "visa"
    assert own.name == "visa/rd4ad_ader"
    assert own.model_copy(update={"dataset": "mvtec", "name": other.name}) == other
    assert {"btad/mddnet", "visa/uniad"} <= set(experiment_names())


@pytest.mark.parametrize("content", ["like: nowhere\n", "like: visa\n", "like: [mvtec]\n", "like: {a: b}\n"])
def test_a_likeness_names_a_dataset_with_settings(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "experiments" / "mine" / "protocol.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(content)
    monkeypatch.setattr("mddbench.experiments.catalogue.experiment_folders", lambda: [tmp_path / "experiments"])
    with pytest.raises(InputError, match=r"protocol.yaml: expected 'like: DATASET'"):
        load_protocol("mine")


@pytest.mark.parametrize("key", ["calibraton: 0.1", "method: padim", "optimizer: {lr: 0.1}", "settings: {sigma: 1.0}"])
def test_what_a_likeness_cannot_replace_is_named_with_its_own_file(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "experiments" / "mpdd" / "protocol.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(f"like: mvtec\n{key}\n")
    files = {**protocol_files(), "mpdd": file}
    monkeypatch.setattr("mddbench.experiments.catalogue.protocol_files", lambda: files)
    for load in (lambda: load_protocol("mpdd"), lambda: load_experiment("mpdd/rd4ad")):
        with pytest.raises(InputError, match=rf"mpdd/protocol.yaml: '{key.partition(':')[0]}' beside 'like'"):
            load()


def test_a_likeness_with_other_settings_has_no_published_numbers() -> None:
    assert load_experiment("mvtec/rd4ad_ader").reported is not None
    assert load_experiment("mvtec_ad2/rd4ad_ader").reported is None


def test_a_likeness_can_replace_settings() -> None:
    own, other = load_experiment("mvtec_ad2/rd4ad"), load_experiment("mvtec/rd4ad")
    assert (own.calibration, other.calibration) == ("validation", 0)
    assert own.epochs == other.epochs
    assert load_protocol("mvtec_ad2") == {**load_protocol("mvtec"), "calibration": "validation"}
