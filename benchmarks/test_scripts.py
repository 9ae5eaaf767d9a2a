"""The scripts that docs/performance.md quotes, on few steps: that they run, and print what the page says."""

from __future__ import annotations

import subprocess
import sys

import pytest

from support import ROOT

pytestmark = [pytest.mark.bench, pytest.mark.timeout(600)]


def printed(script: str, *arguments: str) -> str:
    ran = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / script), *arguments, "--device", "cpu"],
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.parametrize("experiment", ["mini/rd4ad", "mini/mddnet", "mini/uniad"])
def test_the_profile_of_a_step_and_of_inference(experiment: str) -> None:
    text = printed("profile_step.py", experiment, "--steps", "1", "--operators", "3")
    for line in ("| step |", "| evaluation, all |", "teacher asked: ", "teacher remembered: ", "maps and scores: "):
        assert line in text
    assert text.count("GFLOP") >= 5
    assert len([line for line in text.splitlines() if line.endswith(" %") and ": " in line]) == 3


def test_variants_of_a_step() -> None:
    """All but the compiled ones, which need a compiler and a minute."""
    ways = ["as", "unfused", "fused", "folded", "bfloat16", "contiguous", "freed", "thread"]
    text = printed("step_variants.py", "mini/rd4ad", "--ways", *ways, "--steps", "1", "--rounds", "1")
    rows = [line.split("|")[2].strip() for line in text.splitlines()[2:]]
    assert len(rows) == len(ways)
    assert all(row.isdigit() for row in rows)
