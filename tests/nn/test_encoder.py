"""Encoders: frozen, with the right weights or none at all."""

from __future__ import annotations

import hashlib
import socket
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from mddbench.errors import InputError
from mddbench.nn.encoder import FrozenEncoder, load_encoder
from mddbench.nn.tensor_files import digest
from mddbench.nn.weights import load_state

LITE = "tf_efficientnet_lite0"


def packaged() -> dict[str, torch.Tensor]:
    return {name: value.contiguous() for name, value in load_state(LITE, None)[0].items()}


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_it_is_frozen_whatever_train_says(encoder: FrozenEncoder, images: torch.Tensor) -> None:
    before = encoder.weights_sha256
    encoder.train()
    features = encoder(images)
    assert not any(module.training for module in encoder.modules())
    assert not any(value.requires_grad for value in (*encoder.parameters(), *features))
    assert encoder.weights_sha256 == before


def test_the_pyramid_has_the_stated_shape(encoder: FrozenEncoder, images: torch.Tensor) -> None:
    shapes = [tuple(level.shape) for level in encoder(images)]
    assert shapes == [(4, c, 64 // s, 64 // s) for c, s in zip(encoder.channels, encoder.strides, strict=True)]


@pytest.mark.parametrize(("photograph", "top"), [("chelsea", {281, 282, 285}), ("coffee", {967, 504})])
def test_the_packaged_weights_classify(photograph: str, top: set[int]) -> None:
    import skimage.data

    model = timm.create_model(LITE).eval()
    model.load_state_dict(load_state(LITE, None)[0])
    pixels = np.asarray(Image.fromarray(getattr(skimage.data, photograph)()).resize((224, 224)))
    image = (torch.tensor(pixels).permute(2, 0, 1)[None] / 255.0 - 0.5) / 0.5
    with torch.inference_mode():
        assert int(model(image).argmax()) in top


def test_weights_from_a_folder_are_the_same(encoder: FrozenEncoder, tmp_path: Path) -> None:
    save_file(packaged(), tmp_path / f"{LITE}.safetensors")
    loaded = load_encoder(LITE, (1, 2, 3), tmp_path)
    assert loaded.weights_sha256 == encoder.weights_sha256
    assert loaded.weights_source == f"folder {LITE}.safetensors"


def test_a_tagged_encoder_takes_no_other_tags_file(tmp_path: Path) -> None:
    save_file(packaged(), tmp_path / "resnet18.safetensors")
    with pytest.raises(InputError, match=r"no weights for encoder 'resnet18.a1_in1k'"):
        load_encoder("resnet18.a1_in1k", (1, 2, 3), tmp_path)


def test_a_folder_without_them_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "other.pth").write_bytes(b"x")
    with pytest.raises(InputError, match=r"no weights for encoder 'tf_efficientnet_lite0' \(found: other.pth\)"):
        load_encoder(LITE, (1, 2, 3), tmp_path)


def test_a_hash_in_the_name_is_checked(tmp_path: Path) -> None:
    torch.save(load_state(LITE, None)[0], tmp_path / "weights.pth")
    stem = Path(timm.get_pretrained_cfg_value(LITE, "url")).stem  # the name of timm's own download, with its hash
    found = hashlib.sha256((tmp_path / "weights.pth").read_bytes()).hexdigest()
    (tmp_path / "weights.pth").rename(tmp_path / f"{stem}.pth")
    with pytest.raises(InputError, match=rf"its SHA-256 begins {found[:8]}, its name says {stem[-8:]}"):
        load_encoder(LITE, (1, 2, 3), tmp_path)


def test_a_pinned_hash_is_checked(encoder: FrozenEncoder) -> None:
    load_encoder(LITE, (1, 2, 3), None, encoder.weights_sha256)
    with pytest.raises(InputError, match="the experiment expects 00"):
        load_encoder(LITE, (1, 2, 3), None, "00")


def test_another_models_weights_are_refused(tmp_path: Path) -> None:
    save_file(packaged(), tmp_path / "resnet18.safetensors")
    with pytest.raises(InputError, match="they are another model's"):
        load_encoder("resnet18", (1, 2, 3), tmp_path)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"a": Evil()}, tmp_path / "resnet18.pth")
    with pytest.raises(InputError, match="cannot be read as weights"):
        load_encoder("resnet18", (1, 2, 3), tmp_path)
    assert not (tmp_path / "ran").exists()


def test_no_encoder_has_neither_weights_nor_levels(tmp_path: Path) -> None:
    nothing = load_encoder("none", (), tmp_path)
    assert nothing(torch.rand(2, 3, 32, 32)) == []
    assert (nothing.channels, nothing.strides, list(nothing.parameters())) == ((), (), [])
    with pytest.raises(InputError, match=r"encoder 'none' has no level 1; write `levels: \[\]`"):
        load_encoder("none", (1, 2, 3), None)


@pytest.mark.usefixtures("no_network")
def test_no_network_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(InputError, match=r"could not be fetched from timm's hub .* --weights-dir DIR"):
        load_encoder("resnet10t", (1, 2, 3), None)


@pytest.mark.parametrize(
    ("name", "levels", "message"),
    [
        ("resnet1888", (1, 2, 3), r"unknown encoder 'resnet1888' \(did you mean 'resnet18'\?\)"),
        ("resnet18", (1, 2, 9), r"has no features at levels \[1, 2, 9\]"),
    ],
)
def test_unknown_encoders_and_levels(name: str, levels: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_encoder(name, levels, None)


def test_the_digest_sees_names_values_and_types() -> None:
    one = {"a": torch.ones(2), "b": torch.zeros(3)}
    assert digest(one) == digest(dict(reversed(one.items())))
    assert digest(one) != digest({"a": torch.ones(2), "c": torch.zeros(3)})
    assert digest(one) != digest({"a": torch.ones(2).double(), "b": torch.zeros(3)})
    assert digest(one) != digest({"a": torch.tensor([1.0, 1.0 + 1e-7]), "b": torch.zeros(3)})
