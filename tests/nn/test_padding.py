"""Padding fixed as for one size: what is padded by how much, where it changes nothing, and who may ask for it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from mddbench.baselines.rd4ad import RD4AD
from mddbench.errors import InputError
from mddbench.execution.protocol import protocol_card
from mddbench.experiments.catalogue import experiment_names, load_experiment
from mddbench.experiments.schema import EncoderSettings
from mddbench.nn.encoder import FrozenEncoder
from mddbench.nn.padding import PaddedConv2d
from support import experiment

B4, LEVELS = "tf_efficientnet_b4", (0, 1, 2, 3)


def pair(name: str, padding_for: int) -> tuple[FrozenEncoder, FrozenEncoder]:
    torch.manual_seed(0)
    plain, padded = FrozenEncoder(name, (0, 1, 2)).double(), FrozenEncoder(name, (0, 1, 2), padding_for).double()
    padded.load_weights(plain.weights())
    return plain, padded


def test_five_by_five_at_380_pixels_has_two_on_each_side() -> None:
    """As in the code of UniAD's authors, at every size of images: at 256 timm has one before and two behind."""
    parts = [part for part in FrozenEncoder(B4, LEVELS, 380).backbone.modules() if isinstance(part, PaddedConv2d)]
    margins = {(part.kernel_size[0], part.margins) for part in parts}
    assert margins == {(3, (0, 1, 0, 1)), (5, (2, 2, 2, 2))}
    assert len(parts) == 4


@pytest.mark.parametrize("size", [64, 76])
def test_at_its_own_size_it_is_timms(size: int) -> None:
    plain, padded = pair("tf_efficientnet_b0", size)
    images = torch.rand(1, 3, size, size, dtype=torch.float64)
    for own, theirs in zip(padded(images), plain(images), strict=True):
        assert torch.equal(own, theirs)
    assert padded.weights_sha256 == plain.weights_sha256


def test_at_another_size_it_is_a_convolution_with_those_zeros() -> None:
    plain, padded = pair("tf_efficientnet_b0", 76)
    images = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    assert not torch.allclose(padded(images)[2], plain(images)[2])
    place = "blocks.2.0.conv_dw"  # the 5x5 of stride 2: 76 pixels are 19 there, an odd number
    part = padded.backbone.get_submodule(place)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    part.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    padded(images)
    ((given, found),) = seen
    expected = torch.zeros_like(found)
    wide = F.pad(given, (2, 2, 2, 2))
    for row in range(found.shape[2]):
        for column in range(found.shape[3]):
            window = wide[0, :, 2 * row : 2 * row + 5, 2 * column : 2 * column + 5]
            expected[0, :, row, column] = (window * part.weight[:, 0]).sum(dim=(1, 2))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("resnet18", "has no convolution whose padding depends on the image size"),
        ("dm_nfnet_f0", "ScaledStdConv2dSame"),
    ],
)
def test_an_encoder_that_pads_otherwise_is_refused(name: str, what: str) -> None:
    with pytest.raises(InputError, match=f"encoder '{name}' .*{what}.*remove encoder.padding_for"):
        FrozenEncoder(name, (0, 1), 380)


def test_it_is_written_down_only_where_it_is_set() -> None:
    """So that nothing else's identity changes."""
    assert set(EncoderSettings(name="a").model_dump(mode="json")) == {"name", "levels", "sha256"}
    assert EncoderSettings(name="a", padding_for=380).model_dump(mode="json")["padding_for"] == 380


@pytest.mark.parametrize(("padding_for", "told"), [(None, None), (380, "as for 380 pixels")])
def test_the_card_tells_it_where_it_is_set(padding_for: int | None, told: str | None) -> None:
    detector = RD4AD(FrozenEncoder("tf_efficientnet_lite0", (1, 2, 3), padding_for), RD4AD.Settings(), 1)
    splits = {"train": range(20), "test": SimpleNamespace(samples=())}
    dataset = SimpleNamespace(
        calibration_source="",
        contamination="",
        categories=("a",),
        mask_rule="none",
        textures=None,
        fabricated=False,
        development=False,
        **splits,
    )
    card = protocol_card(experiment(metrics="exact"), detector, dataset)  # type: ignore[arg-type]
    assert card.encoder_padding == told
    assert ("encoder_padding" in card.model_fields_set) == (padding_for is not None)


def test_uniads_authors_pad_so_and_ader_does_not() -> None:
    asked = {name: load_experiment(name).encoder.padding_for for name in experiment_names() if "/uniad" in name}
    whole = ("mini", "folder", "elpv")
    for name, padding in asked.items():
        dataset, _, variant = name.partition("/")
        assert padding == (None if variant == "uniad_ader" or dataset in whole else 380), name
    assert asked["visa/uniad_authors"] == 380
