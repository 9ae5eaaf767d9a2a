"""The metric engines beside the field's own code, in one run: medians and their ratios.

Run: tox -e bench. The number of maps (256x256) is 160, or what MDDBENCH_BENCH_MAPS says. anomalib and ADEval are compared
with where they are installed (tox installs them).
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

from compare import PEER, REFERENCE
from mddbench.data.datasets.mvtec import DATASET
from mddbench.data.images import decode_mask
from mddbench.metrics import threads
from mddbench.metrics.conventions import evaluate as in_convention
from mddbench.metrics.names import PIXEL_LEVEL, Engine
from mddbench.metrics.regions import find_regions
from mddbench.metrics.suite import CategoryMetrics, evaluate
from references import drawn_maps, sklearn_f1_max, sorted_aupro
from support import ROOT

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]
MAPS = int(os.environ.get("MDDBENCH_BENCH_MAPS", "160"))
MIB = 2**20
GROUP = f"pixel metrics of {MAPS} maps"
SECONDS: dict[str, float] = {}
Case = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def case() -> Case:
    """Maps in [0, 1], which anomalib needs; the exact metrics do not care."""
    drawn = drawn_maps(MAPS, 256)
    low, high = drawn["maps"].min(), drawn["maps"].max()
    maps = (drawn["maps"] - low) / (high - low)
    return {**drawn, "maps": maps, "image_scores": maps.max(axis=(1, 2))}


def timed(benchmark: Any, name: str, work: Callable[[], Any], rounds: int, role: str = "") -> Any:
    """Run `work` and keep its median under `name`; its result. role: of somebody else's code, REFERENCE or PEER."""
    benchmark.extra_info["role"] = role
    result = benchmark.pedantic(work, rounds=rounds, warmup_rounds=1 if rounds > 3 else 0)
    SECONDS[name] = median(benchmark.stats.stats.data)
    return result


@pytest.mark.benchmark(group=GROUP)
def test_exact(benchmark: Any, case: Case) -> None:
    timed(benchmark, "exact", lambda: evaluate(**case), 9)


@pytest.mark.benchmark(group=GROUP)
def test_exact_without_numba(benchmark: Any, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "WORTH_COMPILING", 1 << 60)
    timed(benchmark, "plain", lambda: evaluate(**case), 5)


@pytest.mark.benchmark(group=GROUP)
def test_histogram(benchmark: Any, case: Case) -> None:
    def work() -> CategoryMetrics:
        state = CategoryMetrics("histogram")
        state.update(**case)
        state.compute()
        return state

    state, exact = timed(benchmark, "histogram", work, 9), evaluate(**case)
    bounds = state.bounds()
    assert state.compute() == pytest.approx(exact, abs=1e-5)
    assert all(bounds[key][0] <= exact[key] <= bounds[key][1] for key in PIXEL_LEVEL)


@pytest.mark.parametrize("engine", ["exact", "histogram"])
def test_metrics_at_low_rates_take_at_most_a_third_more(case: Case, engine: Engine) -> None:
    """The seven with and without them, in turn: their medians, not their quickest runs."""
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for number in range(32):
        further = number % 2 == 1
        started = time.perf_counter()
        state = CategoryMetrics(engine)
        state.update(**case, copy=False)
        state.compute()
        if further:
            state.low_rates()
        seconds[further].append(time.perf_counter() - started)
    ratio = median(seconds[True][1:]) / median(seconds[False][1:])
    print(f"{engine}: with the metrics at low rates {ratio:.2f} times the time of the seven")
    assert ratio < 1.3


@pytest.mark.benchmark(group=GROUP)
def test_bootstrap_of_1000_samples(benchmark: Any, case: Case) -> None:
    state = CategoryMetrics()
    state.update(**case)
    state.compute()
    timed(benchmark, "bootstrap", lambda: state.replicates(1000, 0), 3)


@pytest.mark.benchmark(group=GROUP)
def test_scikit_learn_three_and_the_exact_mvtec_algorithm(benchmark: Any, case: Case) -> None:
    truth, scores = case["masks"].reshape(-1), case["maps"].reshape(-1)

    def work() -> tuple[float, ...]:
        return (
            float(roc_auc_score(truth, scores)),
            float(average_precision_score(truth, scores)),
            sklearn_f1_max(truth, scores),
            sorted_aupro(case["maps"], case["masks"]),
        )

    found, ours = timed(benchmark, "stack", work, 1 if MAPS > 200 else 3, REFERENCE), evaluate(**case)
    assert [ours[key] for key in PIXEL_LEVEL] == pytest.approx(found, abs=1e-12)


@pytest.mark.benchmark(group=GROUP)
def test_anomalib_four(benchmark: Any, case: Case) -> None:
    pytest.importorskip("anomalib", reason="tox -e bench installs it")
    from anomalib.metrics.aupr import _AUPR
    from anomalib.metrics.aupro import _AUPRO
    from anomalib.metrics.auroc import _AUROC
    from anomalib.metrics.f1_score import _F1Max

    maps, masks = torch.from_numpy(case["maps"]), torch.from_numpy(case["masks"]).int()

    def work() -> list[float]:
        found = []
        for kind in (_AUROC, _AUPR, _F1Max, _AUPRO):
            metric = kind()
            for start in range(0, MAPS, 32):
                part = slice(start, start + 32)
                shape = (-1,) if kind is not _AUPRO else (-1, 256, 256)
                metric.update(maps[part].reshape(shape), masks[part].reshape(shape))
            found.append(float(metric.compute()))
        return found

    found, ours = timed(benchmark, "anomalib", work, 1 if MAPS > 200 else 3, PEER), evaluate(**case)
    assert [ours[key] for key in PIXEL_LEVEL] == pytest.approx(found, abs=1e-5)


@pytest.mark.benchmark(group=GROUP)
@pytest.mark.parametrize("bins", [1000, 50])
def test_adeval_three_without_f1(benchmark: Any, case: Case, bins: int, monkeypatch: pytest.MonkeyPatch) -> None:
    adeval = pytest.importorskip("adeval", reason="the peers extra is not installed")
    monkeypatch.setattr(np, "trapz", np.trapezoid, raising=False)  # which ADEval 1.1 still calls
    masks = case["masks"].astype(np.uint8)

    def work() -> Any:
        return adeval.auroc_aupr_aupro(case["maps"], masks, nstrips=bins)

    found = timed(benchmark, f"adeval-{bins}", work, 5, PEER)
    if bins == 50:
        named = {key: case[key] for key in ("maps", "masks", "image_scores")}
        ours = in_convention("ader", **named)
        assert [ours[key] for key in ("p_auroc", "p_ap", "aupro")] == pytest.approx(found, abs=1e-6)


def test_zz_ratios(capsys: pytest.CaptureFixture[str]) -> None:
    """Least ratios of medians; how far they are from the numbers in the docs depends on the machine."""
    least = [
        ("stack", "exact", 100),
        ("stack", "plain", 20),
        ("stack", "histogram", 250 if MAPS >= 640 else 100),
        ("anomalib", "exact", 80),
        ("adeval-1000", "exact", 1.5),
    ]
    short = []
    with capsys.disabled():
        print(f"\n{GROUP}: how many times faster")
        for slow, fast, wanted in least:
            if slow not in SECONDS or fast not in SECONDS:
                print(f"  {fast:<10} than {slow:<12} not measured: that code is not installed")
                continue
            ratio = SECONDS[slow] / SECONDS[fast]
            print(f"  {fast:<10} than {slow:<12} {ratio:8.1f}   (at least {wanted})")
            short += [f"{fast} than {slow}: {ratio:.1f} < {wanted}"] if ratio < wanted else []
    assert not short
    if len(SECONDS) < 8:
        pytest.skip("some of the field's code is not installed; tox -e bench installs it")


def test_an_evaluation_of_the_size_of_mvtec(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """1725 images in 15 categories: masks of 1024x1024 decoded, regions labelled, all metrics; seconds of each part."""
    drawn = drawn_maps(160, 256)
    defects = np.flatnonzero(drawn["image_labels"])
    files = [tmp_path / f"{index}.png" for index in defects]
    for index, file in zip(defects, files, strict=True):
        Image.fromarray(255 * drawn["masks"][index].repeat(4, axis=0).repeat(4, axis=1).astype(np.uint8)).save(file)
    seconds = dict.fromkeys(("decoding masks", "regions alone", "metrics with regions"), 0.0)

    def timed_part(name: str, work: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        result = work()
        seconds[name] += time.perf_counter() - started
        return result

    evaluate(**drawn)  # loads the kernels
    generator = np.random.default_rng(0)
    assert DATASET.published is not None
    for _, good, defective in DATASET.published.categories.values():
        chosen = np.append(
            generator.choice(np.flatnonzero(~drawn["image_labels"]), good), generator.choice(defects, defective)
        )
        case = {key: values[chosen] for key, values in drawn.items()}
        case["maps"] = case["maps"] + generator.normal(size=case["maps"].shape).astype(np.float32) / 10
        marked = [files[int(np.searchsorted(defects, index))] for index in chosen[good:]]
        with ThreadPoolExecutor(threads.workers()) as pool:
            masks = timed_part(
                "decoding masks",
                lambda pool=pool, marked=marked: list(pool.map(lambda f: decode_mask(f, 256, (1024, 1024)), marked)),
            )
        case["masks"] = np.concatenate([np.zeros((good, 256, 256), bool), masks])
        timed_part("regions alone", lambda case=case: find_regions(case["masks"]))
        timed_part("metrics with regions", lambda case=case: evaluate(**case))
    with capsys.disabled():
        print("\n1725 images, 15 categories:", ", ".join(f"{name} {value:.2f} s" for name, value in seconds.items()))


MEMORY = """
import sys
from pathlib import Path
import numpy as np
from references import drawn_maps
from mddbench.metrics.suite import CategoryMetrics, evaluate
case = drawn_maps(4, 256)
case = {key: np.tile(value, (int(sys.argv[2]) // 4,) + (1,) * (value.ndim - 1)) for key, value in case.items()}
case["maps"] = case["maps"] + np.random.default_rng(0).normal(size=case["maps"].shape).astype(np.float32) * np.float32(0.1)
def measure(data):
    if sys.argv[1] == "exact":
        return evaluate(**data)
    state = CategoryMetrics("histogram")
    state.update(**data)
    return state.compute()
measure({key: value[:8] for key, value in case.items()})
def memory(kind):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(kind + ":"))
open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew from here
before = memory("VmRSS")
measure(case)
print((memory("VmHWM") - before) * 1024)
"""


@pytest.mark.parametrize(("engine", "per_pixel", "beside"), [("exact", 4, 32 * MIB), ("histogram", 0, 100 * MIB)])
def test_memory_beside_the_maps(engine: str, per_pixel: int, beside: int, capsys: pytest.CaptureFixture[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, engine, str(MAPS)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
        check=True,
        capture_output=True,
        text=True,
    )
    extra, pixels = int(done.stdout), MAPS * 256**2
    with capsys.disabled():
        print(f"\n{engine}: {extra / MIB:.0f} MiB beside the maps, {extra / pixels:.1f} bytes a pixel")
    assert extra <= per_pixel * pixels + beside


STREAM = """
import sys, time
import numpy as np
from references import drawn_maps
from mddbench.metrics.suite import CategoryMetrics
def memory(kind):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(kind + ":")) / 1024
batch, state, generator, peaks = drawn_maps(32, 256), CategoryMetrics("histogram"), np.random.default_rng(0), []
started = time.perf_counter()
images = int(sys.argv[1])
for first in range(0, images, 32):
    maps = batch["maps"] * np.float32(generator.uniform(0.5, 2))
    state.update(**{**batch, "maps": maps})
    if first // 32 in (images // 640, images // 320, images // 32 - 1):
        state.compute()
        peaks.append(memory("VmHWM"))
        open("/proc/self/clear_refs", "w").write("5")
print(*peaks[1:], time.perf_counter() - started)
"""


def test_memory_stays_flat_while_images_stream_through(capsys: pytest.CaptureFixture[str]) -> None:
    images = int(os.environ.get("MDDBENCH_BENCH_STREAM", "10000"))
    done = subprocess.run(
        [sys.executable, "-c", STREAM, str(images)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
        check=True,
        capture_output=True,
        text=True,
    )
    tenth, end, seconds = map(float, done.stdout.split())
    with capsys.disabled():
        print(
            f"\n{images} images of 256x256: peak {tenth:.0f} MiB at a tenth, {end:.0f} MiB at the end, {seconds:.0f} s"
        )
    assert end < tenth + 64
