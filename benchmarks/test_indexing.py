"""Reading a large dataset's tree, beside the least that it takes: parsing its split files and looking at each file once."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compare import REFERENCE
from mddbench.data.dataset import load_source
from support import read

pytestmark = pytest.mark.bench
GROUP = "reading a tree of 12 000 images"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("large") / "root"
    source = load_source("real_iad")
    assert source.fabricate is not None
    source.fabricate(place, {"toy": (2000, 2000, 2000), "usb": (2000, 2000, 2000)})
    return place


def least(root: Path) -> int:
    """Split files parsed, and every file's entry looked up."""
    looked = 0
    for file in (root / "realiad_jsons" / "realiad_jsons").glob("*.json"):
        content = json.loads(file.read_text())
        base = root / "realiad_256" / content["meta"]["prefix"]
        for entry in (*content["train"], *content["test"]):
            for name in (entry["image_path"], entry["mask_path"]):
                if name is not None:
                    (base / name).lstat()
                    looked += 1
    return looked


def seconds(work: Callable[[], object]) -> float:
    times = []
    for _ in range(5):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return statistics.median(times)


@pytest.mark.benchmark(group=GROUP)
def test_indexing(benchmark: Any, root: Path) -> None:
    benchmark.pedantic(lambda: read("real_iad", root), rounds=5, warmup_rounds=1)


@pytest.mark.benchmark(group=GROUP)
def test_parsing_and_looking(benchmark: Any, root: Path) -> None:
    benchmark.extra_info["role"] = REFERENCE
    benchmark.pedantic(lambda: least(root), rounds=5, warmup_rounds=1)


def test_indexing_costs_little_more_than_looking(root: Path) -> None:
    ratio = seconds(lambda: read("real_iad", root)) / seconds(lambda: least(root))
    print(f"\nreading a tree of 12 000 images: {ratio:.2f} of parsing and looking at each file")
    assert ratio < 4
