"""Training, single passes and inference beside plain scripts of the same networks, each in a process of its own, by turns.

Run: tox -e bench
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

import pytest

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]
ROUNDS = 3
ROOM = 1.25
"""What memory may be of the plain script's: no more, but the same script's resident set varies by a quarter."""
TRAINING = [
    ("rd4ad", 1.7, ()),
    ("mddnet", 1.5, ()),
    ("uniad", 1.3, ()),
    ("simplenet", 1.5, ()),
    ("rdpp", 1.5, ()),
    ("recontrast", 1.4, ()),
    ("destseg", 1.0, ()),
    ("destseg", 1.0, ("--set", "settings.denoising_share=0.99")),
    ("draem", 1.0, ()),
    ("patchcore", 1.0, ("--images", "192")),
    ("padim", 1.0, ("--images", "192")),
    ("dinomaly", 1.0, ()),
    ("inpformer", 1.0, ()),
    ("vitad", 1.0, ()),
]
"""Method, least ratio, and options: DeSTSeg's head and its student; for a single pass as many images as *mini* has."""
INFERENCE = [
    ("rd4ad", 2.0, 1.4),
    ("mddnet", 1.7, 1.4),
    ("uniad", 1.7, 1.4),
    ("simplenet", 1.0, ROOM),
    ("rdpp", 1.0, ROOM),
    ("recontrast", 1.0, ROOM),
    ("destseg", 1.0, ROOM),
    ("draem", 1.0, 1.6),
    ("patchcore", 1.0, ROOM),
    ("padim", 1.0, ROOM),
    ("dinomaly", 1.0, ROOM),
    ("inpformer", 1.0, ROOM),
    ("vitad", 1.0, ROOM),
]
"""Method, least ratio, and greatest share of the plain script's memory."""
Round = tuple[dict[str, Any], dict[str, Any]]


def measured(method: str, way: str, options: Sequence[str]) -> dict[str, Any]:
    script = Path(__file__).with_name("steps.py")
    ran = subprocess.run(
        [sys.executable, str(script), f"mini/{method}", way, *options],
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    return dict(json.loads(ran.stdout))


def compared(method: str, suffix: str, options: Sequence[str] = ()) -> tuple[float, float, Round, str]:
    """How many times as fast as plain, the share of plain's memory, what plain and ours found, and a line to print."""
    ways = (f"plain{suffix}", f"ours{suffix}")
    rounds = [tuple(measured(method, way, options) for way in ways) for _ in range(ROUNDS)]
    ratio = median(plain["seconds"] / ours["seconds"] for plain, ours in rounds)
    share = median(ours["mib"] / plain["mib"] for plain, ours in rounds)
    plain, ours = rounds[0]
    told = f"{method} {' '.join(options)}: {ratio:.2f} times as fast as plain ({1000 * ours['seconds']:.2f} ms"
    memory = f"{ours['mib']:.0f} MiB, {share:.2f} of plain's"
    return ratio, share, (plain, ours), f"\n{told}, {memory})"


@pytest.mark.parametrize(("method", "least", "options"), TRAINING)
def test_a_training_step_beside_a_plain_one(
    method: str, least: float, options: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """As fast as it should be, and the same losses: last bits differ, which grow from epoch to epoch, most in DeSTSeg's
    student, and so does what UniAD's dropout draws. tests/methods/test_plain.py compares both exactly. A single pass is
    timed by the image.
    """
    ratio, share, (plain, ours), told = compared(method, "", options)
    with capsys.disabled():
        print(told)
    for epoch, (one, other) in enumerate(zip(ours["losses"], plain["losses"], strict=True)):
        assert one == pytest.approx(other, rel=(0.03 if options else 0.02) * 2.0**epoch)
    assert ratio > least
    assert share < ROOM


@pytest.mark.parametrize(("method", "least", "room"), INFERENCE)
def test_inference_beside_plain_inference(
    method: str, least: float, room: float, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same scores, and as fast as it should be. PatchCore's banks differ: last bits decide which patch is the farthest."""
    ratio, share, (plain, ours), told = compared(method, "-inference")
    with capsys.disabled():
        print(told)
    if method == "patchcore":
        assert fmean(ours["scores"]) == pytest.approx(fmean(plain["scores"]), rel=0.02)
    else:
        assert ours["scores"] == pytest.approx(plain["scores"], rel=1e-3)
    assert ratio > least
    assert share < room
