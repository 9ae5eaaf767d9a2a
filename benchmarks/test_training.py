"""Training steps and inference beside plain scripts of the same networks, each in a process of its own, by turns.

Run: tox -e bench
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import pytest

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]
ROUNDS = 3


def measured(experiment: str, way: str) -> dict[str, Any]:
    script = Path(__file__).with_name("steps.py")
    ran = subprocess.run(
        [sys.executable, str(script), experiment, way], capture_output=True, text=True, check=True, timeout=600
    )
    return dict(json.loads(ran.stdout))


@pytest.mark.parametrize(("experiment", "least"), [("mini/rd4ad", 1.7), ("mini/mddnet", 1.5), ("mini/uniad", 1.7)])
def test_a_training_step_beside_a_plain_one(experiment: str, least: float, capsys: pytest.CaptureFixture[str]) -> None:
    """As fast as it should be, and the same losses: last bits differ, which grow from epoch to epoch, and so does what UniAD's
    dropout draws. tests/methods/test_plain.py compares both exactly.
    """
    rounds = [(measured(experiment, "plain"), measured(experiment, "ours")) for _ in range(ROUNDS)]
    ratio = median(plain["seconds"] / ours["seconds"] for plain, ours in rounds)
    plain, ours = rounds[0]
    with capsys.disabled():
        print(f"\n{experiment}: {ratio:.2f} times as fast as plain ({1000 * ours['seconds']:.0f} ms a step)")
    for epoch, (one, other) in enumerate(zip(ours["losses"], plain["losses"], strict=True)):
        assert one == pytest.approx(other, rel=0.01 * 2.0**epoch)
    assert ratio > least


@pytest.mark.parametrize(("experiment", "least"), [("mini/rd4ad", 2.0), ("mini/mddnet", 1.7), ("mini/uniad", 1.7)])
def test_inference_beside_plain_inference(experiment: str, least: float, capsys: pytest.CaptureFixture[str]) -> None:
    """The same scores, and as fast as it should be."""
    rounds = [(measured(experiment, "plain-inference"), measured(experiment, "ours-inference")) for _ in range(ROUNDS)]
    ratio = median(plain["seconds"] / ours["seconds"] for plain, ours in rounds)
    plain, ours = rounds[0]
    with capsys.disabled():
        print(
            f"\n{experiment}: inference {ratio:.2f} times as fast as plain ({1000 * ours['seconds']:.2f} ms an image)"
        )
    assert ours["scores"] == pytest.approx(plain["scores"], rel=1e-3)
    assert ratio > least
