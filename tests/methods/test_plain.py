"""Each method's network, loss, gradients, maps and scores against the same written plainly, with PyTorch's own layers.

In double precision: of these networks a last bit of an image moves the gradient by some
percent in single precision, since values close to a kink change sides.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mddbench.batch import Batch
from mddbench.detector import Detector, load_method, method_settings
from mddbench.experiments.catalogue import load_experiment
from mddbench.nn import tokens
from mddbench.nn.encoder import load_encoder
from mddbench.seeding import seed_everything
from networks import KINDS, Plain, plain_twin
from support import small_encoder, small_settings

PROGRESS = (0.0, 0.05, 0.5)
"""The share of the training at each step: phases and schedules of methods change between them."""
SINGLE_PASS = sorted(name for name in KINDS if load_method(name).single_pass)
CATEGORIES = torch.arange(6) % 2


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture(autouse=True)
def _dropout_that_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The suite draws other numbers than PyTorch; that the rest is scaled instead still shows where dropout stands."""
    monkeypatch.setattr(tokens, "dropout", lambda values, probability: values * (1 - probability))
    monkeypatch.setattr(F, "dropout", lambda values, p, training, _inplace: values * (1 - p) if training else values)


@pytest.fixture
def batch() -> Batch:
    return Batch(torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(5)), CATEGORIES)


def twins(name: str) -> tuple[Detector, Plain]:
    experiment = load_experiment(f"mini/{name}", {})
    seed_everything(0)
    method = load_method(name)
    encoder = small_encoder(experiment) or load_encoder(experiment.encoder.name, experiment.encoder.levels, None)
    detector = method(encoder, method_settings(method, small_settings(experiment), "test"), 2).double()
    return detector, plain_twin(name, detector)


@pytest.fixture(params=sorted(set(KINDS) - set(SINGLE_PASS)))
def pair(request: pytest.FixtureRequest) -> tuple[Detector, Plain]:
    """A detector with the settings of mini's experiment, but no dropout of what attention weighs; and its plain twin."""
    detector, twin = twins(request.param)
    for part in (*detector.modules(), *twin.modules()):
        if isinstance(part, nn.MultiheadAttention):
            part.dropout = 0.0
    return detector, twin


def stepped(module: Detector | Plain, batch: Batch) -> tuple[list[float], Tensor]:
    """The losses of some steps of gradient descent, and the latest gradient of each value."""
    trained = [value for value in module.train().parameters() if value.requires_grad]
    optimizer, losses, gradients = torch.optim.SGD(trained, lr=0.1), [], {}
    for step, progress in enumerate(PROGRESS):
        seed_everything(step)
        if isinstance(module, Detector):
            loss = torch.stack(list(module.training_step(replace(batch, progress=progress)).values())).sum()
        else:
            loss = module.loss(batch.images, batch.categories, progress)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        gradients |= {index: value.grad.flatten() for index, value in enumerate(trained) if value.grad is not None}
    return losses, torch.cat([gradient for _, gradient in sorted(gradients.items())])


def learnt(plain: Plain) -> list[Tensor]:
    return [value for key, value in plain.state_dict().items() if not key.startswith("teacher.")]


def test_training_equals_the_plain_networks(pair: tuple[Detector, Plain], batch: Batch) -> None:
    """Losses, the gradient, and all that is learnt: weights, averages of batches, a memory's items and their use."""
    detector, plain = pair
    (losses, gradient), (expected, plain_gradient) = stepped(detector, batch), stepped(plain, batch)
    assert len(gradient) == sum(value.numel() for value in detector.parameters() if value.requires_grad)
    assert losses == pytest.approx(expected, rel=1e-9)
    assert float((gradient - plain_gradient).norm() / plain_gradient.norm()) < 1e-6
    torch.testing.assert_close(list(detector.learned_state().values()), learnt(plain), rtol=1e-7, atol=1e-9)


def test_maps_and_scores_equal_the_plain_networks(pair: tuple[Detector, Plain], batch: Batch) -> None:
    detector, plain = pair
    stepped(plain, batch)
    detector.load_learned_state(dict(zip(detector.learned_state(), learnt(plain), strict=True)))
    with torch.inference_mode():
        maps, expected = detector.eval().anomaly_maps(batch.images), plain.eval().maps(batch.images)
        torch.testing.assert_close(maps, expected, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(detector.image_scores(maps), plain.scores(expected), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", SINGLE_PASS)
def test_what_a_single_pass_learns_equals_the_plain_way(name: str, batch: Batch) -> None:
    """Maps and scores of the images of the pass and of others. What is kept for them has another form or order."""
    detector, plain = twins(name)
    with torch.inference_mode():
        for part in batch.images.split(4):
            assert detector.train().training_step(Batch(part, CATEGORIES[: len(part)])) == {}
            plain.train().collect(part)
        for module, finish in ((detector.eval(), detector.finish_training), (plain.eval(), plain.finish)):
            assert not module.training
            seed_everything(1)
            finish()
        images = torch.cat([batch.images, batch.images.flip(1)])
        maps, expected = detector.anomaly_maps(images), plain.maps(images)
        assert expected[6:].mean() > expected[:6].mean() > 0
        torch.testing.assert_close(maps, expected, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(detector.image_scores(maps), plain.scores(expected), rtol=1e-9, atol=1e-9)
