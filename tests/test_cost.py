"""Costs: counted where they can be counted, and measured from where they should be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mddbench.batch import Batch
from mddbench.data.dataset import Split, open_dataset
from mddbench.detector import Detector
from mddbench.engine import latency as latency_module
from mddbench.engine.cost import (
    TIMES,
    inference_seconds,
    median_seconds,
    multiply_adds,
    peak_memory,
    size_and_speed,
    start_memory,
    training_speed,
)
from mddbench.engine.latency import BATCHES, KEYS, latency
from mddbench.nn.encoder import FrozenEncoder
from mddbench.progress import SilentReporter
from mddbench.report.tables.costs import COSTS, mean_cost, shown_cost
from mddbench.runs.records import EpochLog
from mddbench.settings import Strict
from support import record, write_tree


class Known(Detector):
    """One convolution and one attention, whose multiply-adds anybody can count."""

    label, version = "Known", 1

    class Settings(Strict):
        pass

    def __init__(self, encoder: FrozenEncoder, settings: Any, categories: int) -> None:
        super().__init__(encoder, settings, categories)
        self.convolution = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.batches: list[int] = []

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        return {"mean": self.convolution(batch.images).mean()}

    def anomaly_maps(self, images: Tensor) -> Tensor:
        self.batches.append(len(images))
        features = self.convolution(images)
        tokens = features.flatten(2).transpose(1, 2)[:, None, :64]
        read = nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)
        return features.mean(dim=1) + read.mean()


@pytest.fixture
def detector(encoder: FrozenEncoder) -> Known:
    return Known(encoder, Known.Settings(), 2)


def test_multiply_adds_are_those_of_one_image(detector: Known) -> None:
    assert multiply_adds(detector, 32) == 32 * 32 * 8 * 3 * 9 + 2 * 64 * 64 * 8
    assert detector.batches == [1]


def test_inference_is_timed_in_full_batches_after_a_first_one(detector: Known) -> None:
    assert inference_seconds(detector, 32) > 0
    assert set(detector.batches) == {32}
    assert len(detector.batches) > 3


def test_the_first_call_warms_up_and_counts_only_if_calls_are_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter([100.0, 3.0, 1.0, 2.0, 1.0, 3.0, 2.0, 2.0])
    assert median_seconds(lambda: next(calls)) == 2.0
    monkeypatch.setattr("mddbench.engine.cost.MOST_SECONDS", 0.0)
    assert median_seconds(lambda: 7.0) == 7.0


def test_parameters_are_all_and_those_that_are_trained(detector: Known) -> None:
    found = size_and_speed(detector, 32, "float32")
    assert found["parameters_trainable"] == 8 * 3 * 9
    teacher = sum(value.numel() for value in detector.encoder.parameters())
    assert found["parameters_total"] == teacher + 8 * 3 * 9
    buffers = sum(value.nbytes for value in detector.encoder.buffers())
    assert found["model_mib"] == pytest.approx((4 * (teacher + 8 * 3 * 9) + buffers) / 2**20)
    assert set(found) <= set(COSTS) | {"inference_batch"}


def test_the_first_epoch_warms_up() -> None:
    def log(epoch: int, seconds: float) -> EpochLog:
        return EpochLog(epoch=epoch, loss=1.0, terms={}, lr=0.1, seconds=seconds, images=100)

    assert training_speed([log(1, 50.0), log(2, 1.0), log(3, 1.0)]) == {
        "train_seconds": 52.0,
        "train_images_per_second": 100.0,
    }
    assert training_speed([log(1, 2.0)])["train_images_per_second"] == 50.0
    assert training_speed([])["train_images_per_second"] is None


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="this system does not count peaks anew")
def test_a_peak_is_that_of_the_cell() -> None:
    """What was there and gone before the cell does not count, where the system counts anew."""
    cpu = torch.device("cpu")
    start_memory(cpu)
    before = peak_memory(cpu)["peak_host_mib"]
    block = np.ones(64 * 2**20 // 8)
    during = peak_memory(cpu)["peak_host_mib"]
    assert before is not None
    assert during is not None
    assert block.sum() > 0
    assert during >= before + 40
    del block
    start_memory(cpu)
    after = peak_memory(cpu)["peak_host_mib"]
    assert after is not None
    assert after < during - 40


@pytest.fixture
def split(tmp_path: Path) -> Split:
    tree = write_tree(tmp_path / "tree")
    return open_dataset("folder", tree, tmp_path / "cache", 32, SilentReporter()).test


def test_latency_is_that_of_single_images_and_throughput_that_of_the_best_batch(
    detector: Known, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    decode = latency_module.decode_image
    monkeypatch.setattr(latency_module, "decode_image", lambda file, size: read.append(file) or decode(file, size))
    monkeypatch.setattr(latency_module, "CALLS", 25)
    found = latency(detector, split, "float32")
    assert tuple(found) == KEYS
    assert detector.batches[:70] == [1] * 70  # 10 that warm up and 25 timed ones, without and with decoding
    assert len(read) == 35
    assert set(read) == {sample.image for sample in split.samples}
    tried = detector.batches[70:]
    assert tried == [batch for batch in BATCHES for _ in range(6)]
    assert found["throughput_batch"] in BATCHES
    for key in ("latency", "latency_decoded"):
        middle, high = found[f"{key}_ms"], found[f"{key}_p95_ms"]
        assert middle is not None
        assert high is not None
        assert 0 < middle <= high
    assert set(KEYS) <= set(COSTS)
    assert set(KEYS) <= set(TIMES)


def test_latency_of_slow_calls_has_no_quantile(detector: Known, split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency_module, "MOST_SECONDS", 0.0)
    found = latency(detector, split, "float32")
    assert found["latency_p95_ms"] is None
    assert (found["latency_ms"] or 0) > 0
    assert found["throughput_batch"] == 1


def test_the_quantile_is_a_time_that_was_measured() -> None:
    seconds = [float(number) / 1000 for number in range(1, 101)]
    assert latency_module._median_and_p95(seconds) == pytest.approx((50.5, 95.0))
    assert latency_module._median_and_p95(seconds[:20]) == pytest.approx((10.5, 19.0))
    assert latency_module._median_and_p95(seconds[:19]) == (10.0, None)


def test_a_cost_that_one_seed_lacks_is_a_dash() -> None:
    known, unknown = record(cost={"multiply_adds": 2.5e9}), record(1, cost={})
    assert shown_cost(mean_cost([known], "multiply_adds"), "multiply_adds") == "2.50"
    assert shown_cost(mean_cost([known, unknown], "multiply_adds"), "multiply_adds") == "–"
