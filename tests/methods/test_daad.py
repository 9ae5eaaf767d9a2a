"""DAAD: a plain twin with loops over blocks, who is moved by which term, and blocks that steer what is rebuilt."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mddbench.batch import Batch
from mddbench.detector import Detector, load_method
from mddbench.errors import InputError
from mddbench.nn.encoder import FrozenEncoder
from mddbench.nn.smoothing import gaussian_smooth
from mddbench.seeding import seed_everything
from mddbench.settings import validated

pytestmark = pytest.mark.usefixtures("double_by_default")
METHOD = load_method("daad")
SMALL = {"widths": [4, 6, 8], "block": 8, "groups": 2, "adversary_widths": [4, 6], "addressing": {"items": 12}}


@pytest.fixture
def batch() -> Batch:
    return Batch(
        torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(5)), torch.zeros(3, dtype=torch.int64)
    )


def detector_of(encoder: FrozenEncoder, **settings: object) -> Detector:
    seed_everything(0)
    return METHOD(encoder, validated(METHOD.Settings, {**SMALL, **settings}, "test"), 2).double()


def remembered(level: Tensor, memory: nn.Module, temperature: float) -> Tensor:
    """Each block of each part of the channels, replaced by what cosines to the items read above 1 / N."""
    items, side, result = memory.memory.items, memory.side, torch.empty_like(level)
    part = level.shape[1] // memory.groups
    for image in range(len(level)):
        for first in range(0, level.shape[1], part):
            for y in range(0, level.shape[2], side):
                for x in range(0, level.shape[3], side):
                    where = (image, slice(first, first + part), slice(y, y + side), slice(x, x + side))
                    query = level[where].reshape(1, -1)
                    weights = (F.cosine_similarity(query, items, dim=1) / temperature).softmax(dim=0)
                    weights = weights * (weights > 1 / len(items))
                    result[where] = (weights / weights.sum() @ items).reshape(part, side, side)
    return result


def judged(adversary: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and features, with the vectors of the adversary as they are."""

    def convolved(layer: nn.Module, features: Tensor, stride: int, padding: int) -> Tensor:
        matrix = layer.weight.flatten(1)
        right = F.normalize(matrix.T @ layer.left, dim=0)
        weight = layer.weight / (layer.left @ matrix @ right.detach())
        return F.conv2d(features, weight, layer.bias, stride, padding)

    for level in adversary.levels:
        images = F.leaky_relu(convolved(level, images, 2, 1), 0.2)
    return convolved(adversary.last, images.mean(dim=(2, 3), keepdim=True), 1, 0).flatten(), images


def rebuilt_plainly(detector: Detector, images: Tensor) -> tuple[Tensor, Tensor]:
    """Images on [-1, 1], and what the network's own layers rebuild of them through plain memories."""
    settings = detector.settings
    signed = 2 * images - 1
    first, second, third = detector.down
    levels = [first(signed)]
    levels.append(second(levels[0]))
    levels.append(third(levels[1]))
    memories = list(detector.memories)
    features = remembered(levels[2], memories.pop(), settings.addressing.temperature)
    features = detector.up[0](features)
    for number in (1, 2):
        if settings.skips:
            side = remembered(levels[2 - number], memories.pop(), settings.addressing.temperature)
            features = torch.cat([features, side], dim=1)
        features = detector.up[number](features)
    return signed, features


def far(left: Tensor, right: Tensor) -> Tensor:
    return ((left - right) ** 2).sum(dim=1).sqrt()


@pytest.mark.parametrize(
    "settings", [{}, {"skips": False}, {"adversary": True}, {"adversary": True, "feature_weight": 0.5}]
)
def test_losses_and_maps_equal_the_plain_ones(
    encoder: FrozenEncoder, batch: Batch, settings: dict[str, object]
) -> None:
    detector = detector_of(encoder, **settings).train()
    terms = {name: term.item() for name, term in detector.training_step(batch).items()}
    with torch.no_grad():
        signed, rebuilt = rebuilt_plainly(detector, batch.images)
        expected = {"reconstruction": ((signed - rebuilt) ** 2).mean().item()}
        if detector.adversary is not None:
            (real, wanted), (made, features) = judged(detector.adversary, signed), judged(detector.adversary, rebuilt)
            expected["adversary"] = -(real.sigmoid().log().mean() + (1 - made.sigmoid()).log().mean()).item()
            expected["adversarial"] = -0.02 * made.sigmoid().log().mean().item()
            expected["alignment"] = (
                detector.settings.alignment * (((wanted - features) ** 2).sum() / (wanted**2).sum()).item()
            )
        assert terms == pytest.approx(expected, rel=1e-7)
        errors = [far(signed, rebuilt).mean()] + ([far(wanted, features).mean()] if len(terms) > 1 else [])
        averaged = [0.95 + 0.05 * error.item() for error in errors]
        assert detector.errors.tolist()[: len(averaged)] == pytest.approx(averaged, rel=1e-7)
        maps = detector.eval().anomaly_maps(batch.images)
        signed, rebuilt = rebuilt_plainly(detector, batch.images)
        plain = far(signed, rebuilt) / averaged[0]
        if detector.adversary is not None:
            (_, wanted), (_, features) = judged(detector.adversary, signed), judged(detector.adversary, rebuilt)
            wide = F.interpolate(far(wanted, features)[:, None], (32, 32), mode="bilinear")[:, 0]
            plain = plain + detector.settings.feature_weight * wide / averaged[1]
    torch.testing.assert_close(maps, gaussian_smooth(plain, 2.0), rtol=1e-7, atol=1e-7)


def test_each_term_reaches_its_player_only(encoder: FrozenEncoder, batch: Batch) -> None:
    detector = detector_of(encoder, adversary=True)
    network, adversary = detector.parameter_groups(1e-3)
    assert (network["lr"], adversary["lr"]) == (1e-3, 2e-3)
    assert len(network["params"]) + len(adversary["params"]) == sum(1 for _ in detector.parameters()) - len([
        *encoder.parameters()
    ])
    for name in ("reconstruction", "adversary", "adversarial", "alignment"):
        detector.zero_grad(set_to_none=True)
        detector.train().training_step(batch)[name].backward()
        moved = [any(value.grad is not None for value in group["params"]) for group in (network, adversary)]
        assert moved == ([False, True] if name == "adversary" else [True, False]), name


def test_the_label_says_which_parts_there_are(encoder: FrozenEncoder) -> None:
    labels = [
        detector_of(encoder, adversary=adversary, skips=skips).label
        for adversary, skips in ((False, True), (True, True), (True, False))
    ]
    assert labels == ["DAAD", "DAAD with adversary", "MemAE with adversary"]


def test_a_block_has_its_side_at_each_level(encoder: FrozenEncoder) -> None:
    """In positions: pixels over the level's stride, and one at least."""
    sides = {block: [each.side for each in detector_of(encoder, block=block).memories] for block in (1, 4, 16)}
    assert sides == {1: [1, 1, 1], 4: [2, 1, 1], 16: [8, 4, 2]}


def test_what_does_not_fit_is_refused_in_words(encoder: FrozenEncoder) -> None:
    with pytest.raises(InputError, match=r"daad: groups 4 do not divide 6 channels of widths \[4, 6, 8\]"):
        detector_of(encoder, groups=4)
    with pytest.raises(InputError, match=r"is not filled by blocks of 8x8; choose a smaller block"):
        detector_of(encoder, block=16).anomaly_maps(torch.zeros(1, 3, 24, 24))


def test_with_larger_blocks_less_of_new_images_is_rebuilt(encoder: FrozenEncoder) -> None:
    """The claim's first half: what a memory puts together gets coarser with the blocks. The second half is a figure."""
    torch.set_default_dtype(torch.float32)
    images = torch.rand(40, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    images = F.interpolate(images, (32, 32), mode="bilinear")
    learnt, new = images[:32], 2 * images[32:] - 1
    errors = []
    for block in (2, 32):
        detector = detector_of(encoder, widths=[8, 16, 16], block=block, addressing={"items": 16}).float().train()
        optimizer = torch.optim.Adam(detector.parameter_groups(5e-3))
        for _ in range(50):
            loss = detector.training_step(Batch(learnt, torch.zeros(32, dtype=torch.int64)))["reconstruction"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            errors.append(F.mse_loss(detector.eval().rebuilt(new), new).item())
    assert errors[0] < 0.7 * errors[1]
    assert set(detector.diagnostics()) == {"alive_items", "answered_queries"}
