"""Weights as people have them: packed, prefixed, halved, in a hub's folder, or something else altogether."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from mddbench.errors import InputError
from mddbench.nn.encoder import FrozenEncoder, load_encoder
from mddbench.nn.tensor_files import read_content

NAME, LEVELS = "test_vit", (0, 1)
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    torch.manual_seed(0)
    return {name: torch.randn_like(value) for name, value in timm.create_model(NAME).state_dict().items()}


@pytest.fixture(scope="module")
def expected(state: State, tmp_path_factory: pytest.TempPathFactory) -> FrozenEncoder:
    folder = tmp_path_factory.mktemp("plain")
    torch.save(state, folder / f"{NAME}.pth")
    return load_encoder(NAME, LEVELS, folder)


def prefixed(prefix: str) -> Callable[[State], Any]:
    return lambda state: {prefix + name: value for name, value in state.items()}


PACKED: dict[str, Callable[[State], Any]] = {
    "model": lambda state: {"model": state},
    "state_dict": lambda state: {"epoch": 3, "state_dict": state, "optimizer": {"lr": 0.1}},
    "both": lambda state: {"model": {"state_dict": state}},
    "settings beside": lambda state: {"model": state, "args": argparse.Namespace(lr=0.1), "best": np.float64(0.5)},
    "averaged first": lambda state: {"state_dict": {"x": torch.zeros(1)}, "state_dict_ema": state},
    "module.": prefixed("module."),
    "backbone.": prefixed("backbone."),
    "encoder.": prefixed("encoder."),
    "model.": prefixed("model."),
    "nested": lambda state: {"state_dict": {f"module.backbone.model.{name}": value for name, value in state.items()}},
    "compiled": prefixed("_orig_mod."),
    "with others": lambda state: {"head.bias": torch.zeros(7), **prefixed("module.encoder.")(state)},
    "timm's wrapper": lambda state: {f"model.{name}": value for name, value in state.items() if "head" not in name},
}


@pytest.mark.parametrize("kind", PACKED)
def test_it_is_taken_out_of_what_it_is_packed_in(
    kind: str, state: State, expected: FrozenEncoder, tmp_path: Path
) -> None:
    torch.save(PACKED[kind](state), tmp_path / f"{NAME}.pth")
    assert load_encoder(NAME, LEVELS, tmp_path).weights_sha256 == expected.weights_sha256


def test_a_file_will_do_in_place_of_a_folder(state: State, expected: FrozenEncoder, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "mine.pth.tar")
    found = load_encoder(NAME, LEVELS, tmp_path / "mine.pth.tar")
    assert (found.weights_sha256, found.weights_source) == (expected.weights_sha256, "file mine.pth.tar")


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_single(state: State, kind: torch.dtype, tmp_path: Path) -> None:
    save_file({name: value.to(kind) for name, value in state.items()}, tmp_path / f"{NAME}.safetensors")
    found = load_encoder(NAME, LEVELS, tmp_path).weights()
    assert {value.dtype for value in found.values()} == {torch.float32}
    assert torch.equal(found["model.pos_embed"], state["pos_embed"].to(kind).float())


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_a_hubs_folder_is_read(file: str, state: State, expected: FrozenEncoder, tmp_path: Path) -> None:
    save_file(state, tmp_path / file) if file.endswith("safetensors") else torch.save(state, tmp_path / file)
    config = {"architecture": NAME, "pretrained_cfg": {"tag": "r160_in1k"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load_encoder(NAME, LEVELS, tmp_path).weights_sha256 == expected.weights_sha256
    assert load_encoder(f"{NAME}.r160_in1k", LEVELS, tmp_path).weights_sha256 == expected.weights_sha256


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            '{"architecture": "vit_tiny_patch16_224"}',
            r"config.json: describes the weights of 'vit_tiny_patch16_224', .* is 'test_vit.r160_in1k'",
        ),
        (
            '{"architecture": "test_vit", "pretrained_cfg": {"tag": "other"}}',
            r"'test_vit.other', .*'test_vit.r160_in1k'",
        ),
        ("[]", r"config.json: expected a hub's description with 'architecture'"),
        ("{", r"config.json: expected a hub's description with 'architecture'"),
        (None, r"no weights for encoder .*model.safetensors with its config.json"),
    ],
)
def test_another_hubs_folder_is_refused(config: str | None, message: str, state: State, tmp_path: Path) -> None:
    save_file(state, tmp_path / "model.safetensors")
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(InputError, match=message) as fault:
        load_encoder(f"{NAME}.r160_in1k", LEVELS, tmp_path)
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3, "args": {"a": 1}}, r"expected a state dict of tensors, found a dict of 2: epoch, args$"),
        ({}, "found an empty dict"),
        ([1, 2], "found list"),
        ({"conv.weight": torch.zeros(2)}, r"lack '.*'; they are another model's \(1 tensors: conv.weight\)"),
    ],
)
def test_something_else_is_one_line_that_says_what(content: object, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / f"{NAME}.pth")
    with pytest.raises(InputError, match=message) as fault:
        load_encoder(NAME, LEVELS, tmp_path)
    assert "\n" not in str(fault.value)


def test_a_model_that_is_there_twice_is_refused(state: State, tmp_path: Path) -> None:
    torch.save({**prefixed("student.")(state), **prefixed("teacher.")(state)}, tmp_path / f"{NAME}.pth")
    with pytest.raises(InputError, match=r"2 times, under 'student.' and 'teacher.'"):
        load_encoder(NAME, LEVELS, tmp_path)


def test_another_shape_is_named(state: State, tmp_path: Path) -> None:
    torch.save({"model": {**state, "pos_embed": torch.zeros(1, 5, 64)}}, tmp_path / f"{NAME}.pth")
    with pytest.raises(InputError, match=r"hold 'pos_embed' in another shape"):
        load_encoder(NAME, LEVELS, tmp_path)


def test_what_a_pickle_asks_to_run_is_named_and_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return (Path.touch, (tmp_path / "ran",))

    for number, content in enumerate(({"state_dict": Evil()}, {"args": argparse.Namespace(a=Evil())})):
        torch.save(content, tmp_path / f"{number}.pth")
        with pytest.raises(InputError, match=r"cannot be read as weights \(it asks to run .*Path") as fault:
            read_content(tmp_path / f"{number}.pth")
        assert "\n" not in str(fault.value)
    assert not (tmp_path / "ran").exists()
