"""Dinomaly, INP-Former, ViTAD and MDD-Net on tokens: counts, what their losses do to gradients, and what is refused.

tests/methods/test_plain.py holds the first three against plain networks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from packaging.version import Version
from torch import Tensor

from mddbench.batch import Batch
from mddbench.detector import Detector, load_method, method_settings
from mddbench.engine.step import for_method
from mddbench.errors import InputError
from mddbench.experiments.catalogue import load_experiment
from mddbench.nn.encoder import FrozenEncoder
from mddbench.nn.reverse_distillation import flat_cosine_distance
from mddbench.seeding import seed_everything

GROUPS = ((2, 3, 4, 5), (6, 7, 8, 9))
TINY_GROUPS = ((0, 1), (2, 3))
BATCH = Batch(torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 0, 1, 1]))


def function(method: str, name: str) -> Callable[..., Tensor]:
    found: Callable[..., Tensor] = load_method(method).training_step.__globals__[name]
    return found


def detector(method: str, encoder: FrozenEncoder, **settings: Any) -> Detector:
    seed_everything(0)
    kind = load_method(method)
    return kind(encoder, method_settings(kind, settings, "test"), 2)


def trained_millions(method: str, encoder: str, levels: tuple[Any, ...], **settings: Any) -> float:
    # timm reads numbers of tensors while it builds a transformer, up to this version; the meta device has none.
    device = "cpu" if Version(timm.__version__) < Version("1.0.25") else "meta:0"
    with torch.device(device):
        built = detector(method, FrozenEncoder(encoder, levels), **settings)
    return sum(value.numel() for value in built.parameters() if value.requires_grad) / 1e6


@pytest.mark.parametrize(("method", "small", "base"), [("dinomaly", 15.377, 61.425), ("inpformer", 17.154, 68.518)])
def test_parameters_are_those_of_the_authors(method: str, small: float, base: float) -> None:
    for size, millions in (("small", small), ("base", base)):
        encoder = f"vit_{size}_patch14_reg4_dinov2"
        assert trained_millions(method, encoder, GROUPS) == pytest.approx(millions, abs=5e-4)


def test_vitads_parameters_are_those_of_its_parts() -> None:
    """Nine blocks of 15.970 M, 256 positions, and one linear layer of 384 channels."""
    parts = 15.970176 + 256 * 384 / 1e6 + (384**2 + 384) / 1e6
    assert trained_millions("vitad", "vit_small_patch16_224", (2, 5, 8, 11)) == pytest.approx(parts, abs=1e-9)


def levels(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(3, 8, 4, 4, generator=generator, dtype=torch.float64) for _ in range(2)]


def gradients(loss: Callable[..., Tensor], *options: float) -> tuple[float, list[Tensor]]:
    features = [level.requires_grad_() for level in levels(1)]
    value = loss(levels(0), features, *options)
    value.backward()
    return value.item(), [level.grad for level in features if level.grad is not None]


def plain(targets: list[Tensor], features: list[Tensor]) -> Tensor:
    return flat_cosine_distance(targets, features) / len(targets)


def test_easy_positions_get_a_tenth_of_the_gradient() -> None:
    """The value stays; with no easy position it is the plain gradient; else each level's hardest quarter keeps it."""
    loose = function("dinomaly", "loose_distance")
    value, whole = gradients(plain)
    for easy in (0.0, 0.75):
        found, own = gradients(loose, easy, 0.1)
        assert found == value
        for level, (target, feature) in enumerate(zip(levels(0), levels(1), strict=True)):
            distance = 1 - torch.cosine_similarity(target, feature, dim=1)
            hard = distance >= distance.flatten().sort(descending=True).values[int(48 * (1 - easy)) - 1]
            assert int(hard.sum()) == int(48 * (1 - easy))
            torch.testing.assert_close(own[level], whole[level] * torch.where(hard, 1.0, 0.1)[:, None])


def test_easy_positions_come_to_count_during_the_ramp(monkeypatch: pytest.MonkeyPatch) -> None:
    dinomaly = detector("dinomaly", FrozenEncoder("test_vit", TINY_GROUPS), blocks=2)
    shares: list[float] = []
    step: Any = type(dinomaly).training_step
    monkeypatch.setitem(
        step.__globals__, "loose_distance", lambda targets, _, easy, __: (shares.append(easy), targets[0].sum())[1]
    )
    for progress in (0.0, 0.05, 0.1, 0.9):
        dinomaly.training_step(Batch(BATCH.images, BATCH.categories, progress=progress))
    assert shares == pytest.approx([0.0, 0.45, 0.9, 0.9])


def test_hard_positions_get_more_gradient_by_a_power_of_their_distance() -> None:
    mined = function("inpformer", "mined_distance")
    value, whole = gradients(plain)
    for power in (0.0, 3.0):
        found, own = gradients(mined, power)
        assert found == value
        for level, (target, feature) in enumerate(zip(levels(0), levels(1), strict=True)):
            distance = 1 - torch.cosine_similarity(target, feature, dim=1)
            torch.testing.assert_close(own[level], whole[level] * (distance / distance.mean())[:, None] ** power)


def test_coherence_is_the_distance_to_the_nearest_prototype() -> None:
    tokens, prototypes = torch.randn(2, 5, 8), torch.randn(2, 3, 8)
    distances = [
        min(1 - float(torch.cosine_similarity(token, each, dim=0)) for each in prototypes[image])
        for image in range(2)
        for token in tokens[image]
    ]
    found = float(function("inpformer", "coherence")(tokens, prototypes))
    assert found == pytest.approx(sum(distances) / len(distances), rel=1e-5)


def test_a_level_answers_to_its_own_place() -> None:
    """The outputs of ViTAD's last blocks answer to the first target: only then does the deep one hang on few blocks."""
    vitad = detector("vitad", FrozenEncoder("test_vit", (0, 1, 2, 3)), grid=4, blocks=3)
    embedding = vitad.encoder(BATCH.images)[-1]
    rebuilt: Callable[[Tensor], list[Tensor]] = vitad.training_step.__self__._rebuilt  # type: ignore[attr-defined]
    before = rebuilt(embedding)
    with torch.no_grad():
        vitad.get_submodule("decoder.2").get_submodule("mlp.second").bias.add_(1.0)  # type: ignore[operator,union-attr]
    after = rebuilt(embedding)
    assert [torch.equal(*pair) for pair in zip(before, after, strict=True)] == [False, True, True]


def test_mdd_net_on_tokens_learns_and_its_memory_reads_patches() -> None:
    encoder = FrozenEncoder("test_vit", TINY_GROUPS)
    for place, memories in (("before", 2), ("restoration", 1), ("none", 0)):
        net = detector(
            "mddnet", encoder, tokens={"blocks": 2, "dropout": 0.0}, scoring={"levels": [0, 1]}, memory_at=place
        )
        assert len(net.get_submodule("memories").state_dict()) == 3 * memories
        terms = net.training_step(BATCH)
        assert {"restoration", "identity", "discrepancy"} <= set(terms)
        assert net.eval().anomaly_maps(BATCH.images).shape == (4, 64, 64)


def test_what_does_not_fit_is_told_in_one_line() -> None:
    plain_transformer = FrozenEncoder("test_vit", TINY_GROUPS)
    pyramid = FrozenEncoder("test_efficientnet", (1, 2, 3))
    for method, encoder, settings, message in (
        ("dinomaly", pyramid, {}, r"dinomaly: expected levels of one size"),
        ("inpformer", plain_transformer, {"blocks": 3}, r"inpformer: 3 blocks cannot be divided among 2 levels"),
        ("vitad", plain_transformer, {"blocks": 3, "grid": 4}, None),
        ("vitad", FrozenEncoder("test_vit", (0,)), {}, r"vitad: expected at least two levels, the last one for the"),
        ("mddnet", plain_transformer, {}, r"mddnet: expected an encoder with three levels"),
        ("mddnet", pyramid, {"tokens": {}}, r"mddnet: expected levels of one size"),
    ):
        if message is None:
            detector(method, encoder, **settings)
            continue
        with pytest.raises(InputError, match=message):
            detector(method, encoder, **settings)
    vitad = detector("vitad", plain_transformer, grid=9, blocks=2)
    with pytest.raises(InputError, match=r"images have 4 patches a side, settings.grid is 9; set it to 4"):
        vitad.anomaly_maps(BATCH.images)


def test_class_tokens_only_go_to_methods_that_take_them() -> None:
    wanted = load_experiment("mini/inpformer", {"encoder.prefix_tokens": True})
    with pytest.raises(InputError, match=r"inpformer takes no class and register tokens; remove encoder.prefix_tokens"):
        for_method(wanted, load_method("inpformer"))


def test_dinomaly_without_class_tokens_reads_the_patches_alone() -> None:
    """The authors' code has this as a switch. The class token reaches the result by attention only."""
    maps = []
    for prefix in (False, True):
        seed_everything(0)
        encoder = FrozenEncoder("test_vit", TINY_GROUPS, prefix_tokens=prefix)
        maps.append(detector("dinomaly", encoder, blocks=2).eval().anomaly_maps(BATCH.images))
    assert maps[0].shape == maps[1].shape
    assert not torch.equal(*maps)
