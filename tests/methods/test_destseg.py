"""DeSTSeg beside a second, naive implementation from its description; its two phases; its counts beside the published."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from mddbench.baselines.destseg import denoising_loss, segmentation_losses
from mddbench.batch import Batch
from mddbench.detector import Detector, load_method
from mddbench.engine.batches import TrainingImages
from mddbench.engine.checkpoint import Checkpoint
from mddbench.engine.cost import multiply_adds
from mddbench.engine.step import TrainingStep
from mddbench.engine.train import Trainer
from mddbench.errors import InputError
from mddbench.nn.encoder import FrozenEncoder, load_encoder
from mddbench.nn.tensor_files import digest
from mddbench.progress import SilentReporter
from mddbench.seeding import seed_everything
from support import experiment

METHOD = load_method("destseg")
SMALL: dict[str, Any] = {"head_width": 8, "dilations": (2, 3), "rectified": False}
SGD = {"name": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}
State = dict[str, Tensor]


@pytest.fixture
def detector(encoder: FrozenEncoder) -> Detector:
    seed_everything(0)
    return METHOD(encoder, METHOD.Settings(**SMALL), 2)


@pytest.fixture
def batch(images: Tensor) -> Batch:
    return Batch(images, torch.tensor([0, 0, 1, 1]))


@pytest.fixture
def exact() -> Detector:
    """A detector in double precision, whose norms have seen something."""
    seed_everything(0)
    encoder = load_encoder("tf_efficientnet_lite0", (1, 2, 3), None)
    detector = METHOD(encoder, METHOD.Settings(**SMALL), 2).double()
    with torch.no_grad():
        for name, value in detector.learned_state().items():
            if name.endswith("running_mean"):
                value.normal_(0, 0.1)
            elif name.endswith("running_var"):
                value.uniform_(0.5, 1.5)
            elif value.is_floating_point():
                value.add_(0.1 * torch.randn_like(value))  # zero weights would hide an error
    return detector


# The naive reading: functions of the saved tensors by their names, bilinear weights pixel by pixel.


def naive_weights(before: int, after: int) -> Tensor:
    """(after, before): what each pixel takes of the two nearest, pixels being squares whose centres are compared."""
    weights = torch.zeros(after, before, dtype=torch.float64)
    for place in range(after):
        source = min(max((place + 0.5) * before / after - 0.5, 0.0), before - 1.0)
        low = int(source)
        weights[place, low] += 1 - (source - low)
        weights[place, min(low + 1, before - 1)] += source - low
    return weights


def naive_resize(features: Tensor, height: int, width: int) -> Tensor:
    rows, columns = naive_weights(features.shape[2], height), naive_weights(features.shape[3], width)
    return torch.einsum("yh,bchw,xw->bcyx", rows, features, columns)


def naive_norm(state: State, name: str, x: Tensor, learning: bool) -> Tensor:
    mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    if learning:
        mean, variance = x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3), unbiased=False)
    scaled = (x - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
    return scaled * state[f"{name}.weight"][:, None, None] + state[f"{name}.bias"][:, None, None]


def naive_block(state: State, name: str, x: Tensor, stride: int, last: bool, learning: bool) -> Tensor:
    inner = F.conv2d(x, state[f"{name}.body.0.weight"], stride=stride, padding=1)
    inner = naive_norm(state, f"{name}.body.1", inner, learning).clamp_min(0)
    inner = F.conv2d(inner, state[f"{name}.body.3.weight"], padding=1)
    inner = naive_norm(state, f"{name}.body.4", inner, learning)
    if f"{name}.shortcut.0.weight" in state:
        x = F.conv2d(x, state[f"{name}.shortcut.0.weight"], stride=stride)
        x = naive_norm(state, f"{name}.shortcut.1", x, learning)
    return (inner + x).clamp_min(0) if last else inner + x


def naive_student(state: State, images: Tensor, learning: bool) -> list[Tensor]:
    x = F.conv2d(images, state["student.stem.0.weight"], stride=2, padding=3)
    x = naive_norm(state, "student.stem.1", x, learning).clamp_min(0)
    x = F.max_pool2d(F.pad(x, (1, 1, 1, 1), value=-1e9), 3, 2)
    sizes = []
    for level in range(4):
        x = naive_block(state, f"student.encoder.{level}.0", x, 1 if level == 0 else 2, True, learning)
        x = naive_block(state, f"student.encoder.{level}.1", x, 1, True, learning)
        sizes.append(x.shape[2])
    found = []
    for step in range(4):
        if step:
            x = naive_resize(x, sizes[3 - step], sizes[3 - step])
        x = naive_block(state, f"student.decoder.{step}.0", x, 1, True, learning)
        x = naive_block(state, f"student.decoder.{step}.1", x, 1, SMALL["rectified"], learning)
        found.append(x)
    return [found[3], found[2], found[1]]


def unit(features: Tensor) -> Tensor:
    return features / features.square().sum(dim=1, keepdim=True).sqrt()


def naive_shares(state: State, teacher: list[Tensor], student: list[Tensor], learning: bool) -> Tensor:
    """(B, 1, h, w), the probabilities of a defect at the size of the first level."""
    size = teacher[0].shape[2]
    x = torch.cat([naive_resize(-unit(a) * unit(b), size, size) for a, b in zip(teacher, student, strict=True)], dim=1)
    for number in range(2):
        x = naive_block(state, f"head.blocks.{number}", x, 1, True, learning)

    def part(name: str, number: int, x: Tensor, spread: int) -> Tensor:
        weight = state[f"head.context.{name}{number}.weight"]
        x = F.conv2d(x, weight, padding=spread * (weight.shape[2] // 2), dilation=spread)
        return naive_norm(state, f"head.context.{name}{number + 1}", x, learning).clamp_min(0)

    whole = part("0.whole.", 1, x.mean(dim=(2, 3), keepdim=True), 1).repeat(1, 1, size, size)
    parts = [part(f"0.parts.{number}.", 0, x, spread) for number, spread in enumerate(SMALL["dilations"])]
    x = part("", 1, part("0.fuse.", 0, torch.cat([whole, *parts], dim=1), 1), 1)
    logits = F.conv2d(x, state["head.context.4.weight"], state["head.context.4.bias"])
    return 1 / (1 + (-logits).exp())


def test_map_and_score_equal_the_naive_ones(exact: Detector, images: Tensor) -> None:
    images, state = images.double(), dict(exact.eval().state_dict())
    with torch.no_grad():
        normalised = (images - exact.encoder.mean) / exact.encoder.std
        shares = naive_shares(state, exact.encoder(images), naive_student(state, normalised, False), False)
        maps = exact.anomaly_maps(images)
    expected = naive_resize(shares, 64, 64)[:, 0]
    torch.testing.assert_close(maps, expected, rtol=1e-9, atol=1e-9)
    assert float(expected.max() - expected.min()) > 0.01
    highest = expected.flatten(1).sort(dim=1, descending=True).values[:, :6].mean(dim=1)  # 100 / 256^2 of 64^2 is 6.25
    torch.testing.assert_close(exact.image_scores(maps), highest, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("progress", [0.1, 0.2])
def test_losses_equal_the_naive_ones(exact: Detector, batch: Batch, progress: float) -> None:
    images, state = batch.images.double(), dict(exact.state_dict())
    abnormal, masks = images.flip(3), torch.rand(4, 64, 64, generator=torch.Generator().manual_seed(0)) < 0.5
    denoising = progress < 0.2
    with torch.no_grad():
        student = naive_student(state, (abnormal - exact.encoder.mean) / exact.encoder.std, denoising)
        if denoising:
            expected = [0.0, 0.0, 0.0]
            for one, other in zip(exact.encoder(images), student, strict=True):
                expected[0] += float((1 - (unit(one) * unit(other)).sum(dim=1)).sum()) / one[0, 0].numel()
        else:
            shares = naive_shares(state, exact.encoder(abnormal), student, True)
            small = naive_resize(masks[:, None].double(), 16, 16)
            right = torch.where(small >= 0.5, shares, 1 - shares)
            expected = [0.0, float((1 - right).mean()), float(-((1 - right) ** 4 * right.log()).mean())]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METHOD.training_step.__globals__, "blend", lambda *_: (abnormal, masks))
        terms = exact.train().training_step(Batch(images, batch.categories, progress=progress))
    assert list(terms) == ["denoising", "distance", "focal"]
    assert [float(term.detach()) for term in terms.values()] == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_repeating_the_batch_doubles_the_students_loss(detector: Detector, images: Tensor) -> None:
    """The rate of 0.4 depends on it."""
    detector.settings = METHOD.Settings(**SMALL, synthesis={"probability": 0.0})
    losses = [
        float(detector.training_step(Batch(torch.cat([images] * count), torch.zeros(4 * count)))["denoising"].detach())
        for count in (1, 2)
    ]
    assert losses[1] == pytest.approx(2 * losses[0], rel=1e-4)
    levels = [torch.rand(2, 3, 4, 4), torch.rand(2, 5, 2, 2)]
    assert float(denoising_loss(levels, levels)) == pytest.approx(0.0, abs=1e-5)
    assert float(denoising_loss(levels, [-level for level in levels])) == pytest.approx(8.0)  # 2 images x 2 levels x 2


def test_a_sure_and_right_segmentation_costs_nothing() -> None:
    masks = torch.tensor([True, False])[None, None, :, None]
    sure = torch.where(masks, 200.0, -200.0)
    assert [float(term) for term in segmentation_losses(sure, masks, 4.0)] == [0.0, 0.0]
    wrong = segmentation_losses(-sure, masks, 4.0)
    assert [float(term) for term in wrong] == pytest.approx([1.0, 200.0])


def parts(detector: Detector) -> dict[str, State]:
    """Copies of what is learned, averages of batches included, of the student and of the head."""
    state = {name: value.clone() for name, value in detector.learned_state().items()}
    return {
        part: {name: value for name, value in state.items() if name.startswith(part)} for part in ("student", "head")
    }


@pytest.mark.parametrize(("progress", "learns", "rests"), [(0.0, "student", "head"), (0.2, "head", "student")])
def test_one_part_learns_and_the_other_rests(
    detector: Detector, batch: Batch, progress: float, learns: str, rests: str
) -> None:
    """With momentum and weight decay, after steps in which the other part learned: not one bit of it changes."""
    step = TrainingStep(detector.train(), experiment(optimizer=SGD))
    for each in (0.0, 0.2):
        step(replace(batch, progress=each))
    detector.train()
    before = parts(detector)
    for _ in range(2):
        terms = step(replace(batch, progress=progress))
    after = parts(detector)
    assert all(torch.equal(after[rests][name], value) for name, value in before[rests].items())
    assert not any(torch.equal(after[learns][name], value) for name, value in before[learns].items())
    zero = {name for name, term in terms.items() if not float(term.detach())}
    assert zero == ({"distance", "focal"} if learns == "student" else {"denoising"})


def test_a_training_resumed_in_the_second_phase_learns_the_same_bits(
    encoder: FrozenEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of ten steps are the student's. It is interrupted in the fourth epoch, from whose start it goes on."""
    monkeypatch.setattr(Checkpoint, "is_due", True)
    generator = np.random.default_rng(0)
    data = TrainingImages(generator.integers(0, 256, (8, 64, 64, 3), dtype=np.uint8), np.arange(8) % 2)
    settings = experiment(optimizer=SGD, epochs=5)

    def trainer(file: str) -> Trainer:
        seed_everything(0)
        return Trainer(METHOD(encoder, METHOD.Settings(**SMALL), 2), settings, 0, tmp_path / file)

    def watched(trainer: Trainer, stop_after: int | None = None) -> list[float]:
        """When the steps of a training are, as shares of it."""
        seen: list[float] = []
        inner = trainer.step.losses

        def losses(batch: Batch) -> dict[str, Tensor]:
            if len(seen) == stop_after:
                raise KeyboardInterrupt
            seen.append(batch.progress)
            return inner(batch)

        trainer.step.losses = losses
        if stop_after is None:
            trainer.run(data, SilentReporter())
        else:
            with pytest.raises(KeyboardInterrupt):
                trainer.run(data, SilentReporter())
        return seen

    whole, cut, resumed = trainer("whole.pt"), trainer("cut.pt"), trainer("cut.pt")
    assert watched(whole) == pytest.approx([step / 10 for step in range(10)])
    assert max(watched(cut, stop_after=7)) == pytest.approx(0.6)
    assert watched(resumed) == pytest.approx([step / 10 for step in range(6, 10)])
    assert digest(resumed.detector.learned_state()) == digest(whole.detector.learned_state())
    assert [bool(log.terms["denoising"]) for log in resumed.progress.history] == [True, False, False, False, False]


def test_the_three_rates_are_the_authors(detector: Detector) -> None:
    groups = detector.parameter_groups(0.4)
    assert [group["lr"] for group in groups] == pytest.approx([0.4, 0.1, 0.01])
    held = [sum(value.numel() for value in group["params"]) for group in groups]
    expected = [detector.student, detector.head.blocks, detector.head.context]
    assert held == [sum(value.numel() for value in part.parameters()) for part in expected]
    assert sum(held) == sum(value.numel() for value in detector.parameters() if value.requires_grad)


def test_parameters_and_multiply_adds_match_the_published() -> None:
    """35.154 M and 30.673 G at 256 px; source: ADer's logs. Their network asks the teacher twice, and their counter does not
    know the convolution that joins the dilated ones (its padding is a word), but norms (1 %).
    """
    detector = METHOD(FrozenEncoder("resnet18", (1, 2, 3)), METHOD.Settings(), 15).eval()
    assert sum(value.numel() for value in detector.parameters()) / 1e6 == pytest.approx(35.154, abs=5e-4)
    counter = FlopCounterMode(display=False)
    with counter:
        detector.encoder(torch.rand(1, 3, 256, 256))
    uncounted = 9 * 1024 * 256 * 64**2
    counted = multiply_adds(detector, 256) + counter.get_total_flops() / 2 - uncounted
    assert counted / 1e9 == pytest.approx(30.673, rel=0.01)


def test_blocks_of_the_students_encoder_start_as_their_shortcuts(detector: Detector) -> None:
    last = [value for name, value in detector.student.named_parameters() if name.endswith("body.4.weight")]
    assert [float(value.detach().abs().max()) for value in last] == [0.0] * 8 + [1.0] * 8


def test_the_score_of_256_pixels_is_the_mean_of_a_hundred(detector: Detector) -> None:
    maps = torch.rand(2, 256, 256)
    expected = maps.flatten(1).sort(dim=1, descending=True).values[:, :100].mean(dim=1)
    torch.testing.assert_close(detector.image_scores(maps), expected)
    assert detector.image_score_rule == "mean of the highest 0.152588 % of the map"
    one = METHOD(detector.encoder, METHOD.Settings(**SMALL, top=1e-5), 2)
    assert torch.equal(one.image_scores(maps), maps.amax(dim=(1, 2)))


@pytest.mark.parametrize("rectified", [True, False])
def test_the_students_features_are_rectified_or_not(encoder: FrozenEncoder, images: Tensor, rectified: bool) -> None:
    settings = METHOD.Settings(**{**SMALL, "rectified": rectified})
    levels = METHOD(encoder, settings, 2).student(images)
    assert all(bool((level < 0).any()) != rectified for level in levels)


@pytest.mark.parametrize("shade", [0.0, 0.5, 1.0])
def test_images_of_one_shade_give_numbers_in_both_phases(detector: Detector, shade: float) -> None:
    step = TrainingStep(detector.train(), experiment(optimizer=SGD))
    flat = Batch(torch.full((4, 3, 64, 64), shade), torch.zeros(4))
    for progress in (0.0, 0.1, 0.5, 0.9):
        assert all(torch.isfinite(term) for term in step(replace(flat, progress=progress)).values())
    assert all(torch.isfinite(value).all() for value in detector.learned_state().values())


def test_labels_of_categories_decide_nothing(detector: Detector, images: Tensor) -> None:
    losses = []
    for categories in (torch.zeros(4), torch.arange(4)):
        seed_everything(4)
        losses.append(float(detector.training_step(Batch(images, categories))["denoising"].detach()))
    assert losses[0] == losses[1]


@pytest.mark.parametrize(("name", "size"), [("resnet18", 72), ("tf_efficientnet_lite0", 100)])
def test_sizes_that_are_no_multiples_will_do(name: str, size: int) -> None:
    detector = METHOD(FrozenEncoder(name, (1, 2, 3)), METHOD.Settings(**SMALL), 1).eval()
    with torch.inference_mode():
        maps = detector.anomaly_maps(torch.rand(2, 3, size, size))
    assert maps.shape == (2, size, size)
    assert 0 <= float(maps.min()) <= float(maps.max()) <= 1


def test_a_batch_of_one_image_is_one_line(detector: Detector, images: Tensor) -> None:
    one = Batch(images[:1], torch.zeros(1), progress=0.5)
    with pytest.raises(InputError, match="a training batch of one image") as fault:
        detector.train().training_step(one)
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize(("name", "levels"), [("vit_tiny_patch16_224", (5, 8, 11)), ("resnet18", (2, 3))])
def test_encoders_without_three_halving_levels_are_refused(name: str, levels: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="destseg: expected an encoder with three levels"):
        METHOD(FrozenEncoder(name, levels), METHOD.Settings(**SMALL), 1)


@pytest.mark.parametrize(("levels", "first"), [((0, 1, 2), 2), ((1, 2, 3), 4), ((2, 3, 4), 8)])
def test_the_students_levels_are_as_large_as_the_teachers(levels: tuple[int, ...], first: int) -> None:
    encoder = FrozenEncoder("tf_efficientnet_lite0", levels)
    assert encoder.strides[0] == first
    detector = METHOD(encoder, METHOD.Settings(**SMALL), 1).eval()
    with torch.inference_mode():
        shapes = [[level.shape for level in part(torch.rand(1, 3, 96, 96))] for part in (encoder, detector.student)]
    assert shapes[0] == shapes[1]
