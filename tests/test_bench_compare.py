"""How the benchmarks of one run are compared with stored ratios."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from compare import PEER, REFERENCE, WORSE, machine_in_words, main, speeds, table, updated, warnings
from support import ROOT

MACHINE = {
    "machine": "x86_64",
    "system": "Linux",
    "python_version": "3.12.1",
    "cpu": {"brand_raw": "A processor", "count": 2},
}


def benchmark(name: str, median: float, role: str = "", group: str | None = "sorting") -> dict[str, Any]:
    return {"group": group, "name": name, "extra_info": {"role": role} if role else {}, "stats": {"median": median}}


def report(*benchmarks: dict[str, Any]) -> dict[str, Any]:
    return {"machine_info": MACHINE, "benchmarks": list(benchmarks)}


FIRST = report(benchmark("ours", 0.5), benchmark("plain", 2.0, REFERENCE), benchmark("theirs", 1.0, PEER))


def stored() -> Any:
    return updated({}, speeds(FIRST, {}), machine_in_words(FIRST))


def test_what_is_stored() -> None:
    assert stored() == {
        "sorting": {
            "machine": "A processor, 2 cores, Linux x86_64, Python 3.12.1",
            "reference": "plain",
            "benchmarks": {"ours": {"ratio": 0.25, "seconds": 0.5}, "theirs": {"ratio": 0.5, "seconds": 1.0}},
        }
    }


def test_a_slower_machine_changes_nothing() -> None:
    slower = report(
        *(
            benchmark(one["name"], 10 * one["stats"]["median"], one["extra_info"].get("role", ""))
            for one in FIRST["benchmarks"]
        )
    )
    found = speeds(slower, stored())
    assert [one.change for one in found] == [1.0, 1.0]
    assert warnings(found, slower) == []
    assert "| ours | 0.25 | 0.25 | +0 % | 5000 ms | 500 ms |" in table(found)


@pytest.mark.parametrize(("factor", "told"), [(0.1, False), (WORSE, False), (WORSE + 0.01, True)])
def test_a_ratio_is_told_when_it_is_much_worse(factor: float, told: bool) -> None:
    now = report(benchmark("ours", 0.5 * factor), benchmark("plain", 2.0, REFERENCE), benchmark("theirs", 9.0, PEER))
    lines = warnings(speeds(now, stored()), now)
    assert len(lines) == told, "and what somebody else's code takes is not"
    assert not told or lines[0].startswith("sorting: ours takes 0.315 of plain, stored is 0.25")


def test_what_has_no_stored_ratio_is_only_shown() -> None:
    now = report(benchmark("new", 1.0), benchmark("plain", 2.0, REFERENCE))
    assert "| new | 0.5 | – | – | 1000 ms | – |" in table(speeds(now, stored()))
    other = report(benchmark("ours", 50.0), benchmark("other", 2.0, REFERENCE))
    assert speeds(other, stored())[0].before is None, "a ratio to another reference is another thing"


def test_a_group_without_its_reference_is_told() -> None:
    now = report(benchmark("ours", 1.0), benchmark("theirs", 2.0, PEER), benchmark("alone", 1.0, group=None))
    assert speeds(now, stored()) == []
    assert warnings([], now) == ["sorting: no reference was measured, so there are no ratios"]


def test_an_update_keeps_what_was_not_measured() -> None:
    part = report(benchmark("ours", 0.25), benchmark("plain", 2.0, REFERENCE))
    new = updated(stored(), speeds(part, stored()), "another machine")
    assert new["sorting"]["benchmarks"] == {
        "ours": {"ratio": 0.125, "seconds": 0.25},
        "theirs": {"ratio": 0.5, "seconds": 1.0},
    }
    assert new["sorting"]["machine"] == "another machine"
    moved = report(benchmark("ours", 1.0), benchmark("other", 2.0, REFERENCE))
    assert set(updated(stored(), speeds(moved, {}), "m")["sorting"]["benchmarks"]) == {"ours"}


def test_the_command_warns_and_does_not_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    now, kept = tmp_path / "bench.json", tmp_path / "ratios.json"
    now.write_text(json.dumps(FIRST))
    assert main([str(now), str(kept), "--update"]) == 0
    assert json.loads(kept.read_text()) == stored()
    now.write_text(json.dumps(report(benchmark("ours", 1.0), benchmark("plain", 2.0, REFERENCE))))
    capsys.readouterr()
    assert main([str(now), str(kept)]) == 0
    said = capsys.readouterr()
    assert "| ours | 0.5 | 0.25 | +100 % |" in said.out
    assert said.err.startswith("warning: sorting: ours takes 0.5 of plain")
    assert json.loads(kept.read_text()) == stored(), "only --update writes"
    now.write_text("")  # which a run of tests without benchmarks leaves
    assert main([str(now), str(kept)]) == 0
    now.write_text("{")
    assert main([str(now), str(kept)]) == 2


def test_the_stored_ratios_are_of_benchmarks_that_are_there() -> None:
    tests = "\n".join(file.read_text() for file in (ROOT / "benchmarks").glob("test_*.py"))
    content = json.loads((ROOT / "benchmarks" / "ratios.json").read_text())
    assert len(content) >= 4
    for group in content.values():
        assert group["machine"]
        for name in (group["reference"], *group["benchmarks"]):
            assert f"def {name.partition('[')[0]}(" in tests
        assert all(one["ratio"] > 0 and one["seconds"] > 0 for one in group["benchmarks"].values())
