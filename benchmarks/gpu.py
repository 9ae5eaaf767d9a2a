"""What a GPU is worth here, in parts of `benchmarks/gpu.sh`; each measurement is written down as soon as it is there.

Run: python benchmarks/gpu.py steps|jobs|suite|table|floors OUT [--seconds N] [--device cuda] [--dry-run]
- steps: training and inference at paper scale beside the plain networks, one JSON line a measurement in OUT/steps.jsonl. The
  most important come first. What does not begin within the given seconds is not measured, and the table says so.
- jobs: two cells one after another and at a time, in OUT/jobs.json.
- suite: the main job, and its mean metrics beside those of the committed records, in OUT/suite.json.
- table: all that is there, as Markdown in OUT/gpu.md.
- floors: what operations and bytes let expect, at the rates of a GPU that is not at hand, in OUT/floors.md.

The encoders have random weights, which cost the same time. --dry-run: tiny networks on the CPU, to see that all of it runs.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from models import noise
from steps import Setting, measured

from mddbench.engine.device import choose_device
from mddbench.engine.train import Conditions
from mddbench.execution.jobs import PROGRAM
from mddbench.experiments.catalogue import load_experiment
from mddbench.experiments.schema import Experiment
from mddbench.runs.records import read_record
from mddbench.seeding import use_deterministic_algorithms
from profile_step import bandwidth, product_rates, work

ROOT = Path(__file__).resolve().parents[1]
STEPS, EPOCHS = 4, 3
"""Steps of an epoch, and epochs, of which the first warms up."""
UNIAD = {"encoder.name": "wide_resnet50_2.tv_in1k", "encoder.levels": [1, 2, 3], "encoder.padding_for": None}
"""In place of its own encoder, so that all but the transformer have the same."""
TINY = {"encoder.name": "tf_efficientnet_lite0", "encoder.levels": [1, 2, 3]}
TINY_TOKENS = {
    "encoder.name": "vit_tiny_patch16_224",
    "encoder.levels": [[2, 3], [4, 5]],
    "encoder.prefix_tokens": False,
    "settings.blocks": 2,
}
"""The networks of a dry run."""
TARGET = 3.0
"""How many times as fast as plain a training should be."""


@dataclass(frozen=True)
class Case:
    """One measurement.

    way: 'plain', 'ours', and these with '-inference'; cached: the teacher's features are kept; the last two as in Conditions.
    """

    method: str
    size: int
    batch: int
    precision: str
    way: str
    cached: bool = False
    compiled: bool = False
    graphs: bool = False

    @property
    def how(self) -> str:
        """The way with its conditions, as a table names it."""
        more = {"cached features": self.cached, "compiled": self.compiled, "CUDA graphs": self.graphs}
        return ", ".join([self.way, *(name for name, on in more.items() if on)])

    @property
    def trains(self) -> bool:
        return not self.way.endswith("inference")

    @property
    def work(self) -> str:
        """What is counted of it."""
        if not self.trains:
            return "inference"
        return "remembered" if self.cached else "asked"

    def experiment(self, dry: bool) -> Experiment:
        """Its experiment: that for MVTec-AD, with another size, batch and budget."""
        changes: dict[str, Any] = {"image_size": self.size, "batch_size": self.batch, "precision": self.precision}
        if self.method != "patchcore":
            changes |= {"epochs": EPOCHS, "schedule.name": "constant", "drop_last": True}
        if self.method == "uniad":
            changes |= UNIAD | {"settings.grid": self.size // 16}
        if self.method == "patchcore":
            changes["settings.coreset"] = 0.01
        if dry:
            changes |= TINY_TOKENS if self.method == "dinomaly" else TINY
        if dry and self.method == "uniad":
            changes["settings.neighbours"] = 1
        return load_experiment(f"mvtec/{self.method}", changes)


def cases(dry: bool) -> list[Case]:
    """All measurements, the most important first. Sizes are multiples of 16, of 14 for the transformer."""
    shapes = [(64, 4)] if dry else [(256, 16), (256, 64), (384, 16), (384, 64)]
    found: list[Case] = []
    for size, batch in shapes:
        for method in ("mddnet", "rd4ad", "dinomaly", "uniad", "patchcore"):
            own = size if dry or method != "dinomaly" else {256: 252, 384: 392}[size]
            found += of_method(method, own, batch, first=(size, batch) == shapes[0], dry=dry)
    return found


def of_method(method: str, size: int, batch: int, first: bool, dry: bool) -> Iterator[Case]:
    """The measurements of a method at a size. Single precision, compiling and CUDA graphs are for the first size alone."""
    ways = ("plain", "ours", "plain-inference", "ours-inference")
    for precision in ("bfloat16", "float32") if first else ("bfloat16",):
        yield from (Case(method, size, batch, precision, way) for way in ways)
        if method != "patchcore":
            yield Case(method, size, batch, precision, "ours", cached=True)
    if first and method in ("mddnet", "rd4ad") and not dry:
        yield Case(method, size, batch, "bfloat16", "ours", cached=True, graphs=True)
        yield Case(method, size, batch, "bfloat16", "ours", cached=True, compiled=True)
        yield Case(method, size, batch, "bfloat16", "ours", cached=True, compiled=True, graphs=True)


def measure(case: Case, device: torch.device, dry: bool) -> dict[str, Any]:
    """Images per second, MiB and operations of a case, or the error that it ended with."""
    experiment = case.experiment(dry)
    conditions = Conditions(feature_room=100.0 if case.cached else 0.0, compiled=case.compiled, graphs=case.graphs)
    images = noise(experiment, (2 if dry else STEPS) * case.batch).images
    try:
        told = measured(Setting(experiment, images, device, True, conditions), case.way)
        per_image = case.batch if case.trains and case.method != "patchcore" else 1
        found = {"images_per_second": per_image / told["seconds"], "mib": told["mib"]}
        if case.way.startswith("ours") and not (case.method == "patchcore" and case.trains):
            operations, moved = work(experiment, device, case.work, random_weights=True)
            found |= {"operations": operations / case.batch, "bytes": moved / case.batch}
    except Exception as fault:
        found = {"error": f"{type(fault).__name__}: {' '.join(str(fault).split())[:300]}"}
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return found


def steps(out: Path, device: torch.device, seconds: float, dry: bool) -> None:
    """Measure all cases that begin in time."""
    started, file = time.monotonic(), out / "steps.jsonl"
    rates = product_rates(device, "bfloat16", side=256 if dry else 8192, products=2 if dry else 10)
    write(
        file,
        {
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
            "torch": torch.__version__,
            "operations_per_second": rates["matrix product"],
            "bytes_per_second": bandwidth(device),
        },
    )
    for case in cases(dry):
        if time.monotonic() - started > seconds:
            found: dict[str, Any] = {"error": "not measured: no time was left"}
        else:
            found = measure(case, device, dry)
        write(file, asdict(case) | found)


def floors(out: Path, operations: float, traffic: float) -> None:
    """Predict images per second in bfloat16 from operations and bytes, counted here, at a GPU's rates of both."""
    lines = [
        f"At {operations / 1e12:g} TFLOP/s and {traffic / 1e12:g} TB/s; predicted: operations and bytes in turn.",
        "",
        "| | px | | GFLOP an image | MB an image | operations, images/s | bytes, images/s | predicted, images/s |",
        "|:--|--:|:--|--:|--:|--:|--:|--:|",
    ]
    for case in cases(False):
        known = case.way.startswith("ours") and not case.graphs and not case.compiled and case.precision == "bfloat16"
        if not known or case.batch != 16 or (case.method == "patchcore" and case.trains):
            continue
        # Two images, in single precision, which a CPU computes faster: in bfloat16 bytes are half of that.
        experiment = case.experiment(False).model_copy(update={"batch_size": 2, "precision": "float32"})
        done, moved = work(experiment, torch.device("cpu"), case.work, random_weights=True)
        done, moved = done / 2, moved / 2 / 2
        rates = operations / done, traffic / moved, 1 / (done / operations + moved / traffic)
        lines.append(
            f"| {case.method} | {case.size} | {case.how} | {done / 1e9:.1f} | {moved / 1e6:.0f} | "
            f"{' | '.join(f'{rate:.0f}' for rate in rates)} |"
        )
        print(lines[-1], flush=True)
    (out / "floors.md").write_text("\n".join([*lines, ""]), encoding="utf-8")


def write(file: Path, line: dict[str, Any]) -> None:
    """Add a line of JSON, and print it."""
    text = json.dumps(line)
    with file.open("a", encoding="utf-8") as opened:
        opened.write(f"{text}\n")
    print(text, flush=True)


def run(out: Path, device: torch.device, *options: str) -> float:
    """Run cells in a process of their own. Returns the seconds by the clock."""
    command = [sys.executable, "-c", PROGRAM, "run", "--device", str(device), "--tracking", "none", "--no-report", "-q"]
    started = time.monotonic()
    subprocess.run([*command, "--out", str(out), *options], check=True)
    return time.monotonic() - started


def jobs(out: Path, device: torch.device, dry: bool) -> None:
    """Time two cells one after another, and both at a time."""
    cells = ["mini/rd4ad", "--seeds", "0,1", "--set", f"epochs={1 if dry else 20}"]
    seconds = {number: run(out / f"jobs-{number}", device, *cells, "--jobs", str(number)) for number in (1, 2)}
    (out / "jobs.json").write_text(json.dumps(seconds), encoding="utf-8")


def suite(out: Path, device: torch.device, dry: bool) -> None:
    """Run the main job, and compare the mean metrics of its cells with those of the committed records."""
    run(out / "quick", device, "--all", *(("--set", "epochs=1") if dry else ()))
    committed = {record.identity: record for record in map(read_record, (ROOT / "results").rglob("*.json"))}
    rows = []
    for file in sorted((out / "quick" / "cells").glob("*/record.json")):
        record = read_record(file)
        of_cpu = committed.get(record.identity)
        rows.append({
            "cell": f"{record.method}, seed {record.seed}",
            "gpu": record.metrics["mean"],
            "cpu": of_cpu.metrics["mean"] if of_cpu else None,
            "seconds": record.cost.get("train_seconds"),
            "cpu_seconds": of_cpu.cost.get("train_seconds") if of_cpu else None,
            "peak_device_mib": record.cost.get("peak_device_mib"),
        })
    (out / "suite.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")


def table(out: Path) -> None:
    """Write all that was measured as Markdown."""
    lines = [*steps_table(out / "steps.jsonl"), *suite_table(out / "suite.json"), *jobs_table(out / "jobs.json")]
    (out / "gpu.md").write_text("\n".join([*lines, ""]), encoding="utf-8")


def steps_table(file: Path) -> list[str]:
    """Images per second, the share of a matrix product's rate, memory, and how many times as fast as plain."""
    if not file.exists():
        return ["Steps: not measured."]
    machine, *rows = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    plain = {
        key(row): row["images_per_second"]
        for row in rows
        if row["way"].startswith("plain") and "images_per_second" in row
    }
    tera, giga = machine["operations_per_second"] / 1e12, machine["bytes_per_second"] / 1e9
    lines = [
        f"{machine['device']}, torch {machine['torch']}; a product of large matrices in bfloat16 runs at {tera:.4g} TFLOP/s, "
        f"a copy at {giga:.4g} GB/s. Floor: the longer of operations at that rate and bytes at that bandwidth. "
        f"Target for training: {TARGET:g} times plain.",
        "",
        "| | px | batch | precision | | images/s | / plain | of the product's rate | floor, images/s | MiB |",
        "|:--|--:|--:|:--|:--|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        names = Case(**{name: row[name] for name in Case.__dataclass_fields__})
        start = f"| {names.method} | {names.size} | {names.batch} | {names.precision} | {names.how} |"
        if "error" in row:
            lines.append(f"{start} {row['error'].replace('|', '/')} | | | | |")
            continue
        speed, ratio = row["images_per_second"], ""
        if names.way.startswith("ours") and key(row) in plain:
            ratio = f"{speed / plain[key(row)]:.2f}"
        share = floor = ""
        if "operations" in row:
            share = f"{100 * speed * row['operations'] / machine['operations_per_second']:.1f} %"
            seconds = (
                row["operations"] / machine["operations_per_second"],
                row["bytes"] / machine["bytes_per_second"],
            )
            floor = f"{1 / max(seconds):.0f}"
        lines.append(f"{start} {speed:.1f} | {ratio} | {share} | {floor} | {row['mib']:.0f} |")
    return lines


def key(row: dict[str, Any]) -> tuple[Any, ...]:
    """What a way is compared with its plain one by."""
    return row["method"], row["size"], row["batch"], row["precision"], row["way"].endswith("inference")


def suite_table(file: Path) -> list[str]:
    """The quick suite's mean metrics on the GPU beside the committed ones of a CPU."""
    if not file.exists():
        return ["", "The quick suite: not measured."]
    rows = json.loads(file.read_text(encoding="utf-8"))
    lines = ["", "| | | I-AUROC | P-AUROC | AUPRO | training, s | MiB |", "|:--|:--|--:|--:|--:|--:|--:|"]
    for row in rows:
        for device, metrics, seconds, mib in (
            ("here", row["gpu"], row["seconds"], row["peak_device_mib"]),
            ("committed", row["cpu"], row["cpu_seconds"], None),
        ):
            values = [f"{100 * metrics[name]:.1f}" if metrics else "" for name in ("i_auroc", "p_auroc", "aupro")]
            cells = [*values, f"{seconds:.0f}" if seconds else "", f"{mib:.0f}" if mib else ""]
            lines.append(f"| {row['cell']} | {device} | {' | '.join(cells)} |")
    return lines


def jobs_table(file: Path) -> list[str]:
    """Seconds of two cells one after another and at a time."""
    if not file.exists():
        return ["", "Two cells at a time: not measured."]
    seconds = json.loads(file.read_text(encoding="utf-8"))
    told = (f"{spent:.1f} s with `--jobs {number}`" for number, spent in seconds.items())
    return ["", f"Two cells of RD4AD on *mini*, by the clock: {', '.join(told)}."]


def main() -> None:
    """Do one part."""
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=("steps", "jobs", "suite", "table", "floors"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=240.0)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--operations", type=float, default=790e12, help="a second, for floors")
    parser.add_argument("--bytes", type=float, default=4.3e12, help="a second, for floors")
    parser.add_argument("--dry-run", action="store_true")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    if asked.part in ("table", "floors"):
        table(asked.out) if asked.part == "table" else floors(asked.out, asked.operations, asked.bytes)
        return
    device = choose_device(asked.device)
    if asked.part == "steps":
        use_deterministic_algorithms()
        steps(asked.out, device, asked.seconds, asked.dry_run)
    else:
        {"jobs": jobs, "suite": suite}[asked.part](asked.out, device, asked.dry_run)


if __name__ == "__main__":
    main()
