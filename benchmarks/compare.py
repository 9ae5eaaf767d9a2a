"""Compares the speeds of one run with stored ones, by ratios within a group: another machine is faster, ratios move little.

Run: python benchmarks/compare.py bench.json benchmarks/ratios.json [--update]

A group is what pytest-benchmark calls one; a ratio is the median of a benchmark over that of the group's reference, which
says so in its `extra_info["role"]`. A ratio that is much worse is a warning, for a person to look at; nothing here fails.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REFERENCE, PEER = "reference", "peer"
"""Roles of other code: what a group is measured by, and what is measured too, but is not ours to mend."""
WORSE = 1.25
"""A ratio that has grown by more is told."""

Stored = dict[str, dict[str, Any]]
"""group -> machine, reference, and of each other benchmark its ratio and its median in seconds."""


@dataclass(frozen=True)
class Speed:
    """A benchmark beside its group's reference. seconds: its median; before: the stored ratio and median, if there are any."""

    group: str
    name: str
    reference: str
    seconds: float
    ratio: float
    peer: bool
    before: tuple[float, float] | None = None

    @property
    def change(self) -> float | None:
        """How many times the stored ratio the ratio is; above 1 is worse."""
        return self.ratio / self.before[0] if self.before else None

    @property
    def is_worse(self) -> bool:
        return not self.peer and self.change is not None and self.change > WORSE


def speeds(report: dict[str, Any], stored: Stored) -> list[Speed]:
    """All benchmarks but references, of the groups that have one. A stored ratio to another reference does not count."""
    found: list[Speed] = []
    for group, members in grouped(report).items():
        references = [one for one in members if role(one) == REFERENCE]
        if not references:
            continue
        reference, known = references[0], stored.get(group, {})
        benchmarks = known.get("benchmarks", {}) if known.get("reference") == reference["name"] else {}
        for one in members:
            if one is not reference:
                old = benchmarks.get(one["name"])
                seconds = one["stats"]["median"]
                found.append(
                    Speed(
                        group,
                        one["name"],
                        reference["name"],
                        seconds,
                        seconds / reference["stats"]["median"],
                        role(one) == PEER,
                        (old["ratio"], old["seconds"]) if old else None,
                    )
                )
    return found


def grouped(report: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Group -> its benchmarks, as pytest-benchmark writes them."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for one in report.get("benchmarks", []):
        groups.setdefault(one["group"] or one["name"], []).append(one)
    return groups


def role(benchmark: dict[str, Any]) -> str:
    return str(benchmark.get("extra_info", {}).get("role", ""))


def table(found: list[Speed]) -> str:
    """Markdown; medians are there to be looked at and decide nothing."""
    lines = [
        "| benchmark | ratio now | ratio stored | change | median now | median stored |",
        "|:--|--:|--:|--:|--:|--:|",
    ]
    for group in dict.fromkeys(one.group for one in found):
        members = [one for one in found if one.group == group]
        lines.append(f"| **{group}**, by {members[0].reference} | | | | | |")
        for one in members:
            ratio, seconds = (f"{one.before[0]:.4g}", _time(one.before[1])) if one.before else ("–", "–")
            change = f"{100 * (one.change - 1):+.0f} %" if one.change else "–"
            lines.append(f"| {one.name} | {one.ratio:.4g} | {ratio} | {change} | {_time(one.seconds)} | {seconds} |")
    return "\n".join(lines)


def warnings(found: list[Speed], report: dict[str, Any]) -> list[str]:
    """A line for each ratio that is much worse, and for each group of several that lacks a reference."""
    lines = [
        f"{one.group}: {one.name} takes {one.ratio:.4g} of {one.reference}, stored is {one.before[0]:.4g}; "
        "look whether the change is wanted, or measure again on a quiet machine"
        for one in found
        if one.is_worse and one.before
    ]
    lacking = {group for group, members in grouped(report).items() if len(members) > 1} - {one.group for one in found}
    return lines + [f"{group}: no reference was measured, so there are no ratios" for group in sorted(lacking)]


def updated(stored: Stored, found: list[Speed], machine: str) -> Stored:
    """Stored ratios with this run's in the place of the old; what this run did not measure by the same reference stays."""
    new = {group: {**content, "benchmarks": dict(content["benchmarks"])} for group, content in stored.items()}
    for one in found:
        if new.get(one.group, {}).get("reference") != one.reference:
            new[one.group] = {"reference": one.reference, "benchmarks": {}}
        new[one.group]["machine"] = machine
        values = {"ratio": float(f"{one.ratio:.4g}"), "seconds": float(f"{one.seconds:.4g}")}
        new[one.group]["benchmarks"][one.name] = values
    return new


def machine_in_words(report: dict[str, Any]) -> str:
    """The processor, its cores, the system and Python's version."""
    info = report["machine_info"]
    cpu = info.get("cpu", {})
    name, cores = cpu.get("brand_raw") or info.get("processor") or info["machine"], cpu.get("count", "?")
    return f"{name}, {cores} cores, {info['system']} {info['machine']}, Python {info['python_version']}"


def _time(seconds: float) -> str:
    return f"{1000 * seconds:.4g} ms"


def _read(file: Path) -> dict[str, Any]:
    """A JSON object; an empty one if the file is not there, or empty as pytest-benchmark leaves it without benchmarks."""
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    return dict(json.loads(text)) if text.strip() else {}


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0 whatever the ratios are; 2 if a file cannot be read."""
    parser = argparse.ArgumentParser(description="Compare a run of the benchmarks with stored ratios.")
    parser.add_argument("report", type=Path, help="what pytest --benchmark-json wrote")
    parser.add_argument("stored", type=Path, help="the stored ratios")
    parser.add_argument("--update", action="store_true", help="store this run's ratios")
    chosen = parser.parse_args(arguments)
    try:
        report, stored = _read(chosen.report), _read(chosen.stored)
    except ValueError as fault:
        print(f"compare: {chosen.report} or {chosen.stored} is not JSON ({fault})", file=sys.stderr)
        return 2
    found = speeds(report, stored)
    if not found:
        print(f"compare: {chosen.report} holds no benchmark with a reference beside it", file=sys.stderr)
        return 0
    print(table(found))
    for line in warnings(found, report):
        print(f"warning: {line}", file=sys.stderr)
    if chosen.update:
        text = json.dumps(
            updated(stored, found, machine_in_words(report)), indent=1, sort_keys=True, ensure_ascii=False
        )
        chosen.stored.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
