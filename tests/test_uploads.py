"""What a GPU is given ahead of time: the same batches, the same results, in the same order."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mddbench.batch import Batch
from mddbench.data.dataset import Dataset, open_dataset
from mddbench.detector import Detector, load_method
from mddbench.engine import batches, inference
from mddbench.engine.batches import TrainingImages, epoch_batches
from mddbench.engine.compiling import compiled
from mddbench.engine.evaluate import Evaluation, EvaluationOptions, evaluate
from mddbench.engine.train import Conditions, Trainer
from mddbench.engine.uploads import Uploader, one_ahead
from mddbench.errors import InputError
from mddbench.nn.encoder import FrozenEncoder
from mddbench.nn.feature_cache import FeatureCache
from mddbench.progress import SilentReporter
from support import experiment, write_tree

QUIET = SilentReporter()
CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def data() -> TrainingImages:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (10, 64, 64, 3), dtype=np.uint8)
    return TrainingImages(pixels, np.arange(10) % 3, generator.integers(0, 256, (5, 64, 64, 3), dtype=np.uint8))


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return open_dataset("folder", write_tree(tmp_path / "tree"), tmp_path / "cache", 64, QUIET)


def network(method: str, encoder: FrozenEncoder, device: torch.device) -> Detector:
    kind = load_method(method)
    torch.manual_seed(0)
    return kind(deepcopy(encoder), kind.Settings(), 3).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def always_ahead(monkeypatch: pytest.MonkeyPatch, module: Any) -> list[object]:
    """Let a module take a GPU's way on the CPU. Returns what was begun, in order."""
    begun: list[object] = []

    def watched(items: Iterator[Any]) -> Iterator[Any]:
        return one_ahead(begun.append(item) or item for item in items)

    monkeypatch.setattr(module, "one_ahead", watched)
    monkeypatch.setattr(module, "is_asynchronous", lambda _: True)
    return begun


def test_each_item_is_begun_before_the_one_ahead_of_it_is_given() -> None:
    begun: list[int] = []
    given = one_ahead(begun.append(number) or number for number in range(3))
    assert [(number, len(begun)) for number in given] == [(0, 2), (1, 3), (2, 3)]
    assert list(one_ahead([])) == []
    assert list(one_ahead(["one"])) == ["one"]


def test_a_fault_comes_one_item_early_and_is_not_lost() -> None:
    def broken() -> Iterator[int]:
        yield 0
        yield 1
        raise InputError("image 2 is broken")

    given = one_ahead(broken())
    assert next(given) == 0
    with pytest.raises(InputError, match="image 2"):
        next(given)


def test_arrays_arrive_as_they_were(data: TrainingImages) -> None:
    upload = Uploader(CPU).begin(data.images[3:7], data.categories[3:7])
    images, categories = upload.wait()
    assert np.array_equal(images.numpy(), data.images[3:7])
    assert np.array_equal(categories.numpy(), data.categories[3:7])


@pytest.mark.parametrize("first", [0, 2])
def test_batches_drawn_ahead_are_the_same(
    first: int, data: TrainingImages, encoder: FrozenEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their order, their textures and their features, also after an interruption."""

    def drawn() -> Iterator[Batch]:
        cache = FeatureCache(encoder, len(data.images), 4)
        return epoch_batches(data, experiment(drop_last=False), 5, CPU, cache, first)

    expected = list(drawn())
    begun = always_ahead(monkeypatch, batches)
    found = drawn()
    for number, (batch, other) in enumerate(zip(found, expected, strict=True)):
        assert len(begun) == min(number + 2, len(expected))
        assert_equal(batch, other)
    assert len(expected) == 3 - first


def assert_equal(batch: Batch, other: Batch) -> None:
    assert torch.equal(batch.images.cpu(), other.images)
    assert torch.equal(batch.categories.cpu(), other.categories)
    assert batch.textures is not None
    assert other.textures is not None
    assert torch.equal(batch.textures.cpu(), other.textures)
    assert (batch.features is None) == (other.features is None)
    for own, level in zip(batch.features or (), other.features or (), strict=True):
        torch.testing.assert_close(own.cpu(), level)


def test_an_evaluation_that_infers_ahead_gives_the_same(
    dataset: Dataset, encoder: FrozenEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "BATCH_SIZE", 3)
    detector = network("rd4ad", encoder, CPU)
    expected = evaluated(detector, dataset)
    begun = always_ahead(monkeypatch, inference)
    assert evaluated(detector, dataset).metrics == expected.metrics
    assert len(begun) > len(dataset.categories)


def evaluated(detector: Detector, dataset: Dataset) -> Evaluation:
    return evaluate(detector, dataset, "float32", QUIET, EvaluationOptions())


def test_cuda_graphs_need_a_gpu(encoder: FrozenEncoder, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--cuda-graphs needs a CUDA device, found cpu; leave it out"):
        Trainer(network("rd4ad", encoder, CPU), experiment(), 0, tmp_path / "c.pt", Conditions(graphs=True))


def test_a_step_is_recorded_without_new_kernels_and_draws_the_same() -> None:
    """On the CPU nothing is recorded, which PyTorch says, but the step goes through the same code."""
    layer = torch.nn.Linear(4, 4)

    def step(images: torch.Tensor) -> torch.Tensor:
        return layer(images).square().sum() + torch.rand(1).sum()

    graphs = compiled(step, fused=False, graphs=True)
    for seed in range(2):
        torch.manual_seed(seed)
        expected = step(torch.ones(2, 4))
        torch.manual_seed(seed)
        assert torch.equal(graphs(torch.ones(2, 4)), expected)


def trained(detector: Detector, data: TrainingImages, file: Path, graphs: bool = False, **changes: Any) -> list[float]:
    """The losses of each epoch."""
    history = Trainer(detector, experiment(**{"epochs": 3, **changes}), 0, file, Conditions(graphs=graphs)).run(
        data, QUIET
    )
    return [log.loss for log in history if log.loss is not None]


@pytest.mark.gpu
def test_on_a_gpu_batches_are_those_of_the_cpu(data: TrainingImages, encoder: FrozenEncoder) -> None:
    """From pinned memory, in a stream of their own. After the first epoch, drawing them waits for nothing."""
    own = network("rd4ad", encoder, GPU).encoder
    caches = FeatureCache(own, 10, 4), FeatureCache(encoder, 10, 4)
    settings = experiment()
    for seed in range(6):
        there = epoch_batches(data, settings, seed, GPU, caches[0])
        here = epoch_batches(data, settings, seed, CPU, caches[1])
        for batch, other in zip(there, here, strict=True):
            assert_equal(batch, other)
    assert caches[0].cached.all()
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert len(list(epoch_batches(data, settings, 0, GPU, caches[0]))) == 2
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["rd4ad", "mddnet", "uniad"])
def test_on_a_gpu_the_same_seed_gives_the_same_losses(
    method: str, data: TrainingImages, encoder: FrozenEncoder, tmp_path: Path
) -> None:
    """To few digits: some kernels of a GPU add in any order."""
    first, again = (trained(network(method, encoder, GPU), data, tmp_path / name) for name in "ab")
    assert again == pytest.approx(first, rel=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["rd4ad", "mddnet"])
def test_on_a_gpu_an_interrupted_training_is_resumed(
    method: str, data: TrainingImages, encoder: FrozenEncoder, tmp_path: Path
) -> None:
    whole = trained(network(method, encoder, GPU), data, tmp_path / "whole.pt")
    cut = Trainer(network(method, encoder, GPU), experiment(epochs=3), 0, tmp_path / "cut.pt")

    def stop(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut.run(data, QUIET, stop)
    assert trained(network(method, encoder, GPU), data, tmp_path / "cut.pt") == pytest.approx(whole, rel=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_on_a_gpu_mixed_precision_learns_nearly_the_same(
    precision: str, data: TrainingImages, encoder: FrozenEncoder, tmp_path: Path
) -> None:
    exact = trained(network("rd4ad", encoder, GPU), data, tmp_path / "exact.pt")
    mixed = trained(network("rd4ad", encoder, GPU), data, tmp_path / "mixed.pt", precision=precision)
    assert mixed == pytest.approx(exact, rel=0.05)
    assert mixed != exact


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["rd4ad", "mddnet"])
def test_cuda_graphs_learn_nearly_the_same(
    method: str, data: TrainingImages, encoder: FrozenEncoder, tmp_path: Path
) -> None:
    plain = trained(network(method, encoder, GPU), data, tmp_path / "plain.pt")
    graphs = trained(network(method, encoder, GPU), data, tmp_path / "graphs.pt", graphs=True)
    assert graphs == pytest.approx(plain, rel=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["rd4ad", "mddnet", "uniad"])
def test_on_a_gpu_an_evaluation_gives_nearly_what_the_cpu_gives(
    method: str, dataset: Dataset, encoder: FrozenEncoder
) -> None:
    detector = network(method, encoder, CPU)
    here, there = evaluated(detector, dataset), evaluated(detector.to(GPU), dataset)
    for category, values in here.metrics.items():
        assert there.metrics[category] == pytest.approx(values, abs=5e-3)
