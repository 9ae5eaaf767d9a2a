"""The log of a run: what was said, when, and by which command."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mddbench.cli.logfile import LOG, logged
from mddbench.progress import LineReporter, SilentReporter
from support import mddbench

LINE = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d{4} "


def test_it_holds_what_is_said_also_in_quiet_mode(tree: Path, tmp_path: Path) -> None:
    """Two runs add to it; a command that is refused leaves nothing."""
    out = tmp_path / "out"
    arguments = ["run", "folder/padim", "--data-root", tree, "--out", out, "--tracking", "none", "--no-report", "-q"]
    assert mddbench(*arguments, "--set", "epoch=1").returncode == 2
    assert not out.exists()
    assert mddbench(*arguments).returncode == 0
    first = (out / LOG).read_text(encoding="utf-8").splitlines()
    assert all(re.match(LINE, line) for line in first)
    assert re.sub(LINE, "", first[0]).startswith("mddbench run folder/padim --data-root ")
    assert any("padim/folder/seed0" in line for line in first[1:])
    assert mddbench(*arguments).returncode == 0
    both = (out / LOG).read_text(encoding="utf-8").splitlines()
    assert both[: len(first)] == first
    assert "skipped" in both[-1]


def test_a_log_that_cannot_be_written_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / LOG).mkdir()
    progress = logged(SilentReporter(), tmp_path)
    progress.say("one")
    progress.say("two")
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert "the log is not written (Is a directory)" in told[0]


def test_a_reporter_says_the_same_as_without(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    progress = logged(LineReporter(), tmp_path)
    progress.say("a line")
    with progress.task("work", 1) as task:
        task.advance(1)
    assert capsys.readouterr().err.splitlines()[0] == "a line"
    assert "a line" in (tmp_path / LOG).read_text(encoding="utf-8")
    assert "work" not in (tmp_path / LOG).read_text(encoding="utf-8")
