"""The GateNet head beside a second, naive implementation; what its gates and its fold do; what it learns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mddbench.baselines.gatenet_head import FoldedPyramid, segmentation_loss
from mddbench.batch import Batch
from mddbench.detector import Detector, load_method
from mddbench.errors import InputError
from mddbench.nn.blending import blend
from mddbench.nn.encoder import FrozenEncoder
from mddbench.seeding import seed_everything
from mddbench.settings import validated

METHOD = load_method("gatenet_head")
SMALL: dict[str, Any] = {"width": 6, "folded_width": 4, "dilations": [1, 2]}
State = dict[str, Tensor]


def detector_of(encoder: FrozenEncoder, **settings: object) -> Detector:
    seed_everything(0)
    return METHOD(encoder, validated(METHOD.Settings, {**SMALL, **settings}, "test"), 2)


@pytest.fixture
def exact(double_by_default: None) -> Detector:
    """A detector in double precision, whose norms have seen something."""
    seed_everything(7)
    detector = detector_of(FrozenEncoder("tf_efficientnet_lite0", (1, 2, 3))).double()
    for name, value in detector.learned_state().items():
        if name.endswith("running_mean"):
            value.normal_(0, 0.1)
        elif name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
    return detector


@pytest.fixture
def batch() -> Batch:
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(5))
    return Batch(images, torch.zeros(3, dtype=torch.int64))


# The naive reading: functions of the saved tensors by their names; the fold by loops.


def naive_activated(state: State, name: str, x: Tensor, learning: bool, dilation: int = 1) -> Tensor:
    weight = state[f"{name}.0.weight"]
    x = F.conv2d(x, weight, padding=dilation * (weight.shape[2] // 2), dilation=dilation)
    return naive_norm(state, name, x, learning, 1)


def naive_norm(state: State, name: str, x: Tensor, learning: bool, first: int) -> Tensor:
    """A norm and a PReLU, which are number `first` and the next one."""
    mean, variance = state[f"{name}.{first}.running_mean"], state[f"{name}.{first}.running_var"]
    if learning:
        mean, variance = x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3), unbiased=False)
    x = (x - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
    x = x * state[f"{name}.{first}.weight"][:, None, None] + state[f"{name}.{first}.bias"][:, None, None]
    return torch.where(x > 0, x, state[f"{name}.{first + 1}.weight"] * x)


def naive_fold(x: Tensor) -> Tensor:
    """Channel 4 c + 2 y + x of a folded position is channel c of the position (y, x) in its square."""
    folded = torch.zeros(len(x), 4 * x.shape[1], x.shape[2] // 2, x.shape[3] // 2, dtype=x.dtype)
    for channel in range(x.shape[1]):
        for place in range(4):
            folded[:, 4 * channel + place] = x[:, channel, place // 2 :: 2, place % 2 :: 2]
    return folded


def naive_unfold(x: Tensor) -> Tensor:
    unfolded = torch.zeros(len(x), x.shape[1] // 4, 2 * x.shape[2], 2 * x.shape[3], dtype=x.dtype)
    for channel in range(x.shape[1]):
        unfolded[:, channel // 4, channel % 4 // 2 :: 2, channel % 2 :: 2] = x[:, channel]
    return unfolded


def naive_deepest(state: State, x: Tensor, learning: bool) -> Tensor:
    name = "head.transitions.2.0"
    folded = naive_fold(naive_activated(state, f"{name}.narrow", x, learning))
    whole = F.conv2d(
        folded.mean(dim=(2, 3), keepdim=True), state[f"{name}.whole.1.weight"], state[f"{name}.whole.1.bias"]
    )
    whole = torch.where(whole > 0, whole, state[f"{name}.whole.2.weight"] * whole)
    parts = [naive_activated(state, f"{name}.point", folded, learning)]
    for number, dilation in enumerate(SMALL["dilations"]):
        parts.append(naive_activated(state, f"{name}.parts.{number}", folded, learning, dilation))
    parts.append(whole.repeat(1, 1, *folded.shape[2:]))
    x = naive_unfold(naive_activated(state, f"{name}.fuse", torch.cat(parts, dim=1), learning))
    x = F.conv2d(x, state[f"{name}.last.weight"], state[f"{name}.last.bias"])
    return naive_norm(state, "head.transitions.2", x, learning, 1)


def naive_logits(state: State, levels: list[Tensor], size: int, learning: bool) -> tuple[Tensor, Tensor]:
    """The decoder's output and the sum, at the size of the image."""

    def convolved(name: str, x: Tensor) -> Tensor:
        return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)

    passed = [naive_activated(state, f"head.transitions.{number}", levels[number], learning) for number in (0, 1)]
    passed.append(naive_deepest(state, levels[2], learning))
    decoded, sent = passed[2], []
    for number in (2, 1, 0):
        above = F.interpolate(decoded, levels[number].shape[2:], mode="bilinear")
        inner = naive_activated(state, f"head.gates.{number}.0", torch.cat([levels[number], above], 1), learning)
        gates = (1 / (1 + (-convolved(f"head.gates.{number}.1", inner)).exp())).flatten(2).mean(dim=2)
        gated = torch.stack([gate * one for gate, one in zip(gates[:, 0], passed[number], strict=True)])
        gated = gated if number == 2 else gated + above
        name = f"head.decoder.{number}"
        decoded = naive_activated(state, name, gated, learning) if number else convolved(name, gated)
        beside = torch.stack([gate * one for gate, one in zip(gates[:, 1], passed[number], strict=True)])
        sent.append(F.interpolate(beside, levels[0].shape[2:], mode="bilinear"))
    x = torch.cat([decoded, *sent], dim=1)
    for number in (0, 1):
        x = naive_activated(state, f"head.parallel.{number}", x, learning)
    large = [F.interpolate(each, (size, size), mode="bilinear") for each in (decoded, convolved("head.parallel.2", x))]
    return large[0], large[0] + large[1]


@pytest.mark.parametrize("loss", ["cross_entropy", "focal"])
def test_losses_and_maps_equal_the_naive_ones(exact: Detector, batch: Batch, loss: str) -> None:
    exact.settings = validated(METHOD.Settings, {**SMALL, "loss": loss}, "test")
    state = dict(exact.state_dict())
    torch.manual_seed(3)
    abnormal, masks = blend(batch.images, exact.settings.synthesis, None)
    assert masks.any()
    with torch.no_grad():
        outputs = naive_logits(state, exact.encoder(abnormal), 64, True)
        expected = []
        for logits in outputs:
            right = torch.where(masks[:, None], 1 / (1 + (-logits).exp()), 1 / (1 + logits.exp()))
            weights = (1 - right) ** 2 if loss == "focal" else 1.0
            expected.append(float((-weights * right.log()).mean()))
        maps = exact.eval().anomaly_maps(batch.images)
        plain = 1 / (1 + (-naive_logits(state, exact.encoder(batch.images), 64, False)[1]).exp())
    torch.manual_seed(3)
    terms = exact.train().training_step(batch)
    assert list(terms) == ["decoded", "summed"]
    assert [term.item() for term in terms.values()] == pytest.approx(expected, rel=1e-9)
    torch.testing.assert_close(maps, plain[:, 0], rtol=1e-9, atol=1e-9)
    highest = maps.flatten(1).sort(dim=1, descending=True).values[:, :6].mean(dim=1)  # 100 / 256^2 of 64^2 is 6.25
    torch.testing.assert_close(exact.image_scores(maps), highest)


def test_a_gate_is_one_number_for_an_image(exact: Detector, batch: Batch) -> None:
    """Gates of a large bias are 1 and those of a small one 0, wherever the level is. Closed gates leave two constants."""
    exact.eval()
    for gate in exact.head.gates:
        assert isinstance(gate[1], nn.Conv2d)
        nn.init.zeros_(gate[1].weight)
        nn.init.constant_(gate[1].bias, -80.0)
    with torch.no_grad():
        levels = exact.encoder(batch.images)
        closed = exact.head(levels)
        for logits in closed:
            assert (logits - logits[0]).abs().max() < 1e-12  # nothing of the image passes
        nn.init.constant_(exact.head.gates[1][1].bias, 80.0)
        opened = exact.head(levels)
    assert not torch.allclose(opened[0][0], opened[0][1])


def test_the_pyramid_has_the_authors_parameters() -> None:
    """81,026,055 in their code for ResNet-50. Here convolutions before a norm have no bias, and one norm is not there."""
    with torch.device("meta"):
        pyramid = FoldedPyramid(2048, 512, 512, (2, 4, 6))
    biases, norm = 512 + 4 * 1024 + 2048, 2 * 1024
    assert sum(value.numel() for value in pyramid.parameters()) == 81_026_055 - biases - norm


def test_a_right_and_sure_segmentation_costs_nothing_and_focus_spares_the_easy() -> None:
    masks = torch.tensor([True, False])[None, None, :, None]
    sure = torch.where(masks, 200.0, -200.0)
    assert [float(segmentation_loss(sure, masks, power)) for power in (0.0, 2.0)] == [0.0, 0.0]
    assert float(segmentation_loss(-sure, masks, 2.0)) == pytest.approx(200.0)
    easy, hard = 0.1 * sure / 10, -0.1 * sure / 10
    ratios = [float(segmentation_loss(easy, masks, p) / segmentation_loss(hard, masks, p)) for p in (0.0, 2.0)]
    assert ratios[1] < ratios[0] / 10


def test_one_image_can_be_learnt_from_unless_one_position_is_left(encoder: FrozenEncoder, batch: Batch) -> None:
    detector = detector_of(encoder).train()
    one = Batch(batch.images[:1].float(), batch.categories[:1])
    assert all(torch.isfinite(term) for term in detector.training_step(one).values())
    with pytest.raises(InputError, match=r"gatenet_head: a training batch of one image.*give a larger batch_size"):
        detector.training_step(Batch(one.images[..., :32, :32], one.categories))


def test_a_size_that_cannot_be_folded_is_refused(encoder: FrozenEncoder) -> None:
    words = "image_size 80 does not fit; its deepest level has 5x5 positions.*use a multiple of 32"
    with pytest.raises(InputError, match=words):
        detector_of(encoder).anomaly_maps(torch.rand(1, 3, 80, 80))


def test_sides_may_differ(encoder: FrozenEncoder) -> None:
    with torch.inference_mode():
        maps = detector_of(encoder).eval().anomaly_maps(torch.rand(1, 3, 64, 96))
    assert maps.shape == (1, 64, 96)
    assert bool((maps > 0).all() and (maps < 1).all())


def test_the_encoder_learns_nothing_and_all_of_the_head_does(encoder: FrozenEncoder, batch: Batch) -> None:
    detector = detector_of(encoder).train()
    images = Batch(batch.images.float(), batch.categories)
    torch.stack([*detector.training_step(images).values()]).sum().backward()
    assert all(value.grad is None for value in detector.encoder.parameters())
    assert all(value.grad is not None and value.grad.any() for value in detector.head.parameters())


def test_it_learns_to_find_drawn_defects(encoder: FrozenEncoder) -> None:
    """On flat images with a little noise, other ones than it was trained on."""
    detector = detector_of(encoder, width=8, folded_width=8, synthesis={"textures": ["noise"]}).train()
    generator = torch.Generator().manual_seed(1)
    images = 0.5 + 0.02 * torch.randn(6, 3, 64, 64, generator=generator)
    optimizer = torch.optim.Adam(detector.parameter_groups(5e-3))
    for _ in range(60):
        loss = torch.stack([*detector.training_step(Batch(images, torch.zeros(6))).values()]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    others = 0.5 + 0.02 * torch.randn(6, 3, 64, 64, generator=generator)
    abnormal, masks = blend(others, detector.settings.synthesis, None)
    with torch.inference_mode():
        maps = detector.eval().anomaly_maps(abnormal)
    assert maps[masks].mean() > 3 * maps[~masks].mean()
