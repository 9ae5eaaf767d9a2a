"""What a real Slurm does by itself: it warns before a time limit, and takes the nodes back for a job of higher priority."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_cluster import Slurm, running_slurm
from test_slurm import assert_equal, has_trained, records

from mddbench.execution.frozen import FrozenPlan, read_plan
from mddbench.execution.slurm import ClusterSettings, jobs, submit
from mddbench.runs.events import read_events
from mddbench.runs.records import Record
from support import mddbench, mddbench_process, write_tree

SLOW = '''"""A convolution that learns to copy images, as slowly as MDDBENCH_TEST_PAUSE says.

Paper:     none.
Code read: none.
Differs:   in all.
Unsaid:    nothing.
"""

import os
import time

import torch
from torch import Tensor, nn

from mddbench.plugin_api import methods as api


class SlowSettings(api.Strict):
    width: api.Count = 3


class Slow(api.Detector[SlowSettings]):
    label, version, uses_encoder = "Slow", 1, False
    smoothing = api.describe_smoothing(4.0)

    def __init__(self, encoder: api.FrozenEncoder, settings: SlowSettings, categories: int) -> None:
        super().__init__(encoder, settings, categories)
        self.copy = nn.Conv2d(3, 3, settings.width, padding=settings.width // 2)

    def training_step(self, batch: api.Batch) -> dict[str, Tensor]:
        time.sleep(float(os.environ.get("MDDBENCH_TEST_PAUSE", "0")))
        noise = torch.rand(batch.images.shape)
        return {"copy": (self.copy(batch.images) - batch.images + 0.01 * noise).square().mean()}

    def anomaly_maps(self, images: Tensor) -> Tensor:
        return api.gaussian_smooth((self.copy(images) - images).square().mean(1), 4.0)
'''
STEPS = 48
"""Of the whole training: 16 images, two at a time, in six epochs."""
SMALL = ("--set", "epochs=6", "--set", "image_size=64", "--set", "batch_size=2", "-q")


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, ...]:
    """What chooses a cell that trains as slowly as it is told."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "plugins" / "methods").mkdir(parents=True)
    (folder / "plugins" / "methods" / "slow.py").write_text(SLOW, encoding="utf-8")
    tree = write_tree(folder / "tree", train=8)
    return ("folder/slow", "--plugins", folder / "plugins", "--data-root", tree, "--device", "cpu", *SMALL)


@pytest.fixture(scope="module")
def serial(words: tuple[object, ...], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Record]:
    """The record of a process that nobody disturbs."""
    out = tmp_path_factory.mktemp("serial") / "out"
    one_thread = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "MDDBENCH_TEST_PAUSE": "0"}
    done = mddbench_process("run", *words, "--out", out, "--tracking", "none", "--no-report", **one_thread)
    assert done.returncode == 0, done.stderr
    return records(out)


@pytest.fixture
def slurm(serial: dict[str, Record], tmp_path: Path) -> Iterator[Slurm]:
    """A cluster that has just started: it looks at time limits after 30 s, and every 30 s from then on."""
    with running_slurm(tmp_path / "slurm") as cluster:
        yield cluster


@pytest.fixture
def file(words: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = mddbench("plan", *words, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    (tmp_path / "plan.json").write_text(done.stdout, encoding="utf-8")
    return tmp_path / "plan.json"


def starts(plan: FrozenPlan) -> list[str]:
    """The jobs that have started the only cell, one for each start."""
    return [event.job for event in read_events(plan.folder(plan.cells()[0])) if event.kind == "started"]


def test_a_cell_that_takes_longer_than_the_time_limit_goes_on_in_another_turn(
    slurm: Slurm, file: Path, serial: dict[str, Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slurm's own SIGUSR2, half a minute after its start; the training takes nearly as long."""
    monkeypatch.setenv("MDDBENCH_TEST_PAUSE", str(25 / STEPS))
    plan = read_plan(file)
    number, _ = submit(plan, file, ClusterSettings(gpus=0, cpus=1, time="1", warning=45))
    slurm.wait(slurm.is_empty, 200, "the task does not end")
    assert_equal(records(tmp_path / "out"), serial)
    assert set(starts(plan)) == {f"{number}_0"}, "one job"
    assert len(starts(plan)) >= 2, "in several turns"
    assert "put back into the queue" in jobs(plan)[0].log.read_text()


def test_a_cell_that_is_preempted_goes_on_when_the_nodes_are_free(
    slurm: Slurm, file: Path, serial: dict[str, Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MDDBENCH_TEST_PAUSE", str(5 / STEPS))
    plan = read_plan(file)
    number, _ = submit(plan, file, ClusterSettings(gpus=0, cpus=1, time="30", warning=60))
    slurm.wait(lambda: has_trained(plan, 0), 100, "the cell does not train")
    slurm.ask("sbatch", "-p", "urgent", "-N", "2", "--time=5", "-o", os.devnull, "--wrap", "sleep 0.1")
    slurm.wait(slurm.is_empty, 200, "the task does not end")
    assert_equal(records(tmp_path / "out"), serial)
    assert starts(plan) == [f"{number}_0"] * 2
    kinds = [event.kind for event in read_events(plan.folder(plan.cells()[0]))]
    assert kinds.count("interrupted") == 1
    assert "failed" not in kinds
