"""ReContrast: its counts, what gets a gradient and what does not, its smoothing and its score.

tests/methods/test_plain.py holds losses, gradient and maps against a plain network.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mddbench.batch import Batch
from mddbench.detector import Detector, load_method, method_settings
from mddbench.engine.optimizer import make_optimizer
from mddbench.errors import InputError
from mddbench.experiments.schema import OptimizerSettings
from mddbench.nn.encoder import FrozenEncoder
from mddbench.nn.reverse_distillation import Decoder, flat_cosine_distance
from mddbench.nn.smoothing import window_smooth
from mddbench.nn.tensor_files import digest
from mddbench.nn.trained_encoder import TrainedEncoder
from mddbench.seeding import seed_everything

METHOD = load_method("recontrast")
SMALL = {"decoder_blocks": (1, 1, 1), "window": 3, "sigma": 2.0}
CATEGORIES = torch.tensor([0, 0, 1, 1])
hard_cosine_distance: Callable[[list[Tensor], list[Tensor], float], Tensor] = METHOD.training_step.__globals__[
    "hard_cosine_distance"
]


@pytest.fixture
def detector(encoder: FrozenEncoder) -> Detector:
    seed_everything(0)
    return METHOD(encoder, METHOD.Settings(**SMALL), 2)


def pyramids(seed: int, count: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((4, 8), (6, 4), (8, 2))
    return [torch.randn(count, c, s, s, generator=generator, dtype=torch.float64) for c, s in shapes]


def millions(*modules: nn.Module) -> float:
    return sum(value.numel() for module in modules for value in module.parameters()) / 1e6


def test_parameters_are_counted_from_the_parts() -> None:
    """A second encoder of 24.863 M is trained; two sets of 1x1 outputs have C^2 + C weights a level."""
    with torch.device("meta"):
        teacher = FrozenEncoder("wide_resnet50_2", (1, 2, 3))
        detector = METHOD(teacher, METHOD.Settings(), 15)
        swapped = METHOD(teacher, METHOD.Settings(decoder_blocks=(6, 4, 3)), 15)
    assert millions(detector.encoder) == pytest.approx(24.863, abs=1e-3)
    assert millions(detector.trained) == pytest.approx(24.863, abs=1e-3)
    heads = 2 * sum(width**2 + width for width in (256, 512, 1024)) / 1e6
    assert millions(detector.to_frozen, detector.to_trained) == pytest.approx(heads, abs=1e-9)
    own = sum(value.numel() for value in detector.parameters() if value.requires_grad) / 1e6
    assert own == pytest.approx(24.863 + 58.885 + 24.918 + heads, abs=3e-3)
    assert millions(swapped.decoder) > millions(detector.decoder) + 3  # three more blocks at the deepest level


def test_the_decoder_has_gelu_where_rd4ads_has_relu() -> None:
    """At each place, also after the shortcut, so that rebuilt features may be negative; the weights are the same."""
    kinds = [
        [type(part) for part in Decoder((4, 6, 8), (1, 2, 1), activation=kind).modules() if not list(part.children())]
        for kind in (nn.ReLU, nn.GELU)
    ]
    assert kinds[1] == [nn.GELU if kind is nn.ReLU else kind for kind in kinds[0]]
    assert nn.ReLU in kinds[0]
    seed_everything(0)
    plain = Decoder((4, 6, 8))
    seed_everything(0)
    smooth = Decoder((4, 6, 8), activation=nn.GELU)
    assert digest(plain.state_dict()) == digest(smooth.state_dict())
    levels = smooth(torch.randn(4, 16, 2, 2))
    assert all(level.min() < 0 for level in levels)
    assert all(level.min() >= -0.17 for level in levels)  # GELU's own least value is -0.16997


def test_the_trained_encoder_starts_as_the_frozen_one(encoder: FrozenEncoder, images: Tensor) -> None:
    copy = TrainedEncoder(encoder).train()
    assert not any(part.training for part in copy.modules())
    assert all(value.requires_grad for value in copy.parameters())
    assert not any(value.requires_grad for value in encoder.parameters())
    for own, frozen in zip(copy(images), encoder(images), strict=True):
        assert torch.equal(own.detach(), frozen)
        assert own.requires_grad


# What gets a gradient


def test_without_a_limit_the_gradient_is_the_plain_one() -> None:
    targets, features = pyramids(0), [level.requires_grad_() for level in pyramids(1)]
    plain = torch.autograd.grad(flat_cosine_distance(targets, features), features)
    hard = torch.autograd.grad(hard_cosine_distance(targets, features, -1e6), features)
    for one, other in zip(plain, hard, strict=True):
        assert torch.equal(one, other)


def test_learnt_positions_get_no_gradient_and_the_others_the_plain_one() -> None:
    """Naively: position by position, with the mean and the standard deviation of all positions of the batch."""
    targets, features = pyramids(0), [level.requires_grad_() for level in pyramids(1)]
    plain = torch.autograd.grad(flat_cosine_distance(targets, features), features)
    for limit in (-0.5, 0.0, 1.0):
        loss = hard_cosine_distance(targets, features, limit)
        assert loss.item() == pytest.approx(flat_cosine_distance(targets, features).item(), rel=1e-12)
        hard = torch.autograd.grad(loss, features)
        for target, feature, one, other in zip(targets, features, plain, hard, strict=True):
            distances = {}
            for image, row, column in np.ndindex(len(target), *target.shape[2:]):
                a, b = (level[image, :, row, column].detach().numpy() for level in (target, feature))
                distances[image, row, column] = 1 - a @ b / math.sqrt((a @ a) * (b @ b))
            threshold = np.mean([*distances.values()]) + limit * np.std([*distances.values()], ddof=1)
            cut = 0
            for (image, row, column), distance in distances.items():
                expected = one[image, :, row, column] * (distance >= threshold)
                torch.testing.assert_close(other[image, :, row, column], expected, rtol=1e-12, atol=0)
                cut += distance < threshold
            assert 0 < cut < len(distances)


def test_the_limit_rises_during_the_first_tenth() -> None:
    limit = METHOD.training_step.__globals__["easy_limit"]
    settings = METHOD.Settings()
    found = [limit(settings, progress) for progress in (0.0, 0.025, 0.05, 0.1, 0.7)]
    assert found == pytest.approx([-3.0, -2.0, -1.0, 1.0, 1.0])
    assert limit(METHOD.Settings(ramp=0.0), 0.0) == 1.0


def test_a_step_reads_how_far_the_training_is(detector: Detector, images: Tensor) -> None:
    """The losses are the same, the gradients are not."""
    losses, sizes = [], []
    for progress in (0.0, 0.5):
        detector.zero_grad()
        terms = detector.train().training_step(Batch(images, CATEGORIES, progress=progress))
        torch.stack(list(terms.values())).sum().backward()
        losses.append({name: term.item() for name, term in terms.items()})
        sizes.append(float(detector.to_frozen[0].weight.grad.norm()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert sizes[1] < 0.8 * sizes[0]


def test_targets_get_no_gradient(detector: Detector, images: Tensor) -> None:
    """A target does not move towards the decoder: without a path through the bottleneck the trained encoder gets nothing."""
    batch = Batch(images, CATEGORIES)
    terms = detector.train().training_step(batch)
    inner = list(detector.trained.parameters())
    through = torch.autograd.grad(terms["to_frozen"], inner, retain_graph=True, allow_unused=True)
    assert sum(float(value.abs().sum()) for value in through if value is not None) > 0
    bottleneck = detector.bottleneck.forward
    detector.bottleneck.forward = lambda levels: bottleneck([level.detach() for level in levels])
    terms = detector.training_step(batch)
    for name, term in terms.items():
        assert all(value is None for value in torch.autograd.grad(term, inner, retain_graph=True, allow_unused=True)), (
            name
        )


def test_a_step_moves_the_trained_encoder_and_not_the_frozen_one(detector: Detector, images: Tensor) -> None:
    before = detector.encoder.weights_sha256
    start = {name: value.clone() for name, value in detector.trained.state_dict().items()}
    optimizer = make_optimizer(
        detector, OptimizerSettings(name="adamw", lr=0.002, weight_decay=1e-5, eps=1e-10, amsgrad=True)
    )
    assert optimizer is not None
    torch.stack(list(detector.train().training_step(Batch(images, CATEGORIES)).values())).sum().backward()
    optimizer.step()
    assert detector.encoder.weights_sha256 == before
    parameters = dict(detector.trained.named_parameters())
    for name, value in detector.trained.state_dict().items():
        if name in parameters:
            moved = (value - start[name]).abs().max().item()
            assert 0 < moved < 2e-5, name  # Adam's first step is the rate, 0.00001
        else:
            assert torch.equal(value, start[name]), name  # the averages of BatchNorm


def test_the_trained_encoder_has_a_rate_of_its_own_and_is_saved(detector: Detector) -> None:
    rebuilding, encoder = detector.parameter_groups(2e-3)
    assert (rebuilding["lr"], encoder["lr"]) == pytest.approx((2e-3, 1e-5))
    assert {id(value) for value in encoder["params"]} == {id(value) for value in detector.trained.parameters()}
    trained = [id(value) for value in detector.parameters() if value.requires_grad]
    assert sorted(id(value) for group in (rebuilding, encoder) for value in group["params"]) == sorted(trained)
    kept = {name for name in detector.learned_state() if name.startswith("trained.")}
    assert kept == {f"trained.{name}" for name in detector.trained.state_dict()}


# Maps and scores


def test_smoothing_is_a_cut_gaussian_with_zeros_around() -> None:
    maps = torch.rand(2, 9, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for window, sigma in ((5, 4.0), (3, 2.0), (11, 1.0)):
        half = window // 2
        taps = [(dy, dx) for dy in range(-half, half + 1) for dx in range(-half, half + 1)]
        weights = {(dy, dx): math.exp(-(dy * dy + dx * dx) / (2 * sigma * sigma)) for dy, dx in taps}
        expected = torch.zeros_like(maps)
        for image, y, x in np.ndindex(*maps.shape):
            total = 0.0
            for (dy, dx), weight in weights.items():
                if 0 <= y + dy < maps.shape[1] and 0 <= x + dx < maps.shape[2]:
                    total += weight * float(maps[image, y + dy, x + dx])
            expected[image, y, x] = total / sum(weights.values())
        torch.testing.assert_close(window_smooth(maps, window, sigma), expected, rtol=1e-12, atol=1e-12)
    assert window_smooth(maps, 1, 4.0) is maps


def test_the_score_is_the_mean_of_the_highest_pixels(encoder: FrozenEncoder) -> None:
    detector = METHOD(encoder, METHOD.Settings(**SMALL), 2)
    maps = torch.rand(3, 256, 256, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = [float(np.sort(one.numpy().ravel())[::-1][:655].mean()) for one in maps]  # 1 % of 65536, rounded down
    assert detector.image_scores(maps).tolist() == pytest.approx(expected, rel=1e-12)
    assert torch.equal(detector.image_scores(maps[:, :2, :2]), maps[:, :2, :2].flatten(1).amax(dim=1))
    assert detector.image_score_rule == "mean of the highest 1 % of the map"
    assert detector.smoothing == "Gaussian in 3x3 pixels, sigma 2 pixels"


def test_the_same_rebuilt_features_give_an_empty_map(detector: Detector, images: Tensor) -> None:
    """The map compares what is rebuilt of each encoder with that encoder."""
    detector.eval()
    detector._rebuilt = lambda frozen, trained, _: (frozen, trained)
    with torch.inference_mode():
        assert detector.anomaly_maps(images).abs().max() < 1e-5
    detector._rebuilt = lambda frozen, trained, _: ([-level for level in frozen], trained)
    with torch.inference_mode():
        middle = detector.anomaly_maps(images)[:, 4:-4, 4:-4]
    torch.testing.assert_close(middle, torch.ones_like(middle), rtol=1e-5, atol=1e-5)  # three maps of 2, three of 0


@pytest.mark.parametrize(("name", "levels"), [("resnet18", (1, 2)), ("resnet18", (1, 2, 4))])
def test_other_pyramids_are_refused(name: str, levels: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="recontrast: expected an encoder with three levels"):
        METHOD(FrozenEncoder(name, levels), METHOD.Settings(), 2)


def test_an_image_size_that_does_not_fit_is_said(detector: Detector) -> None:
    with pytest.raises(InputError, match="recontrast: image_size 100 does not fit; use a multiple of 32"):
        detector.eval().anomaly_maps(torch.rand(1, 3, 100, 100))


def test_an_even_window_is_refused() -> None:
    with pytest.raises(InputError, match=r"settings: 'window' is 4: expected an odd number, which has a middle"):
        method_settings(METHOD, {"window": 4}, "test")
