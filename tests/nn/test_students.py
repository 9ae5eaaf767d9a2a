"""The students that RD4AD's authors have for torchvision's ResNets, beside naive ones with their names."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from authors_networks import NETWORKS, students, unlike
from mddbench.baselines.rd4ad import RD4AD
from mddbench.errors import InputError
from mddbench.execution.protocol import protocol_card
from mddbench.nn.encoder import FrozenEncoder
from mddbench.nn.foreign_names import REVERSE_DISTILLATION, renamed
from mddbench.nn.reverse_distillation import WIDE, Bottleneck, Decoder, student_of
from support import experiment


@pytest.mark.parametrize("teacher", NETWORKS)
def test_parameters_are_counted_as_in_the_authors_code(teacher: str) -> None:
    channels, *_, millions = NETWORKS[teacher]
    with torch.device("meta"):
        student = student_of(f"{teacher}.any_tag")
        parts = Bottleneck(channels, 128, student), Decoder(channels, None, student)
    counted = sum(value.numel() for part in parts for value in part.parameters())
    assert counted / 1e6 == pytest.approx(millions, abs=6e-4)


def test_resnet_18_trains_what_is_published_of_it() -> None:
    detector = RD4AD(FrozenEncoder("resnet18", (1, 2, 3)), RD4AD.Settings(), 15)
    assert sum(value.numel() for value in detector.parameters() if value.requires_grad) == 15_383_168


@pytest.mark.parametrize("teacher", ["resnet18", "resnet34", "resnet50", "wide_resnet50_2"])
def test_it_computes_what_the_naive_network_does(teacher: str) -> None:
    bn, decoder = (unlike(part.double().eval()) for part in students(teacher))
    detector = RD4AD(FrozenEncoder(teacher, (1, 2, 3)), RD4AD.Settings(), 2).double().eval()
    content = {"bn": bn.state_dict(), "decoder": decoder.state_dict()}
    unread = ("bn.conv4.", "bn.bn4.")
    detector.load_learned_state(renamed(detector.learned_state(), content, REVERSE_DISTILLATION, "test", unread))
    channels = NETWORKS[teacher][0]
    levels = [torch.rand(2, c, s, s, dtype=torch.float64) for c, s in zip(channels, (8, 4, 2), strict=True)]
    with torch.inference_mode():
        for own, theirs in zip(detector.decoder(detector.bottleneck(levels)), decoder(bn(levels)), strict=True):
            torch.testing.assert_close(own, theirs, rtol=1e-9, atol=1e-9 * float(theirs.abs().max()))


def test_other_encoders_have_the_wide_ones_in_proportion() -> None:
    for name in ("tf_efficientnet_lite0", "wide_resnet50_2.tv_in1k", "resnet10t", "resnext50_32x4d"):
        assert student_of(name) == WIDE


def test_blocks_that_are_asked_for_go_before_the_authors() -> None:
    detector = RD4AD(FrozenEncoder("resnet18", (1, 2, 3)), RD4AD.Settings(decoder_blocks=(1, 1, 1)), 2)
    assert [len(stage) for stage in detector.decoder.stages] == [1, 1, 1]
    assert detector.network == "basic blocks: 2 in the embedding, 1/1/1 in the decoder"
    with pytest.raises(InputError, match="bottleneck_width 64: this encoder's blocks have no inner channels"):
        RD4AD(FrozenEncoder("resnet18", (1, 2, 3)), RD4AD.Settings(bottleneck_width=64), 2)


@pytest.mark.parametrize(
    ("teacher", "told"),
    [
        ("resnet18", "basic blocks: 2 in the embedding, 2/2/2 in the decoder"),
        ("resnet50", "bottleneck blocks, 1/4 wide: 3 in the embedding, 3/4/6 in the decoder"),
        ("tf_efficientnet_lite0", None),
        ("wide_resnet50_2", None),
    ],
)
def test_the_card_tells_another_network_and_so_does_the_identity(teacher: str, told: str | None) -> None:
    detector = RD4AD(FrozenEncoder(teacher, (1, 2, 3)), RD4AD.Settings(), 8)
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
    assert card.network == told
