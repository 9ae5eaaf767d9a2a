"""Records from several machines put together: nothing depends on the order of folders, nothing is lost unseen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mddbench.experiments.ablation import all_ablations
from mddbench.metrics.names import SEVEN
from mddbench.report.build import build_report
from mddbench.report.rows.entries import Entry
from mddbench.runs.merge import FoundRecord, Merged, in_fixed_order, largest_difference, merge, merge_into
from mddbench.runs.panels import Panel, save_panels
from mddbench.runs.records import Record, read_record, write_record
from mddbench.runs.store import MlflowStore
from support import Done, record

CONFIDENCE = {"mean": dict.fromkeys(SEVEN, (0.4, 0.6))}


def made(seed: int = 0, score: float = 0.5, weights: str = "0", **changes: object) -> Record:
    return record(seed, score, model_sha256=weights * 64, **changes)


def found(place: str, one: Record, *files: str) -> FoundRecord:
    return FoundRecord(one, place, frozenset(files))


RECORDS = st.builds(
    made,
    seed=st.integers(0, 2),
    score=st.sampled_from([0.5, 0.5 + 2**-53, 0.75]),
    weights=st.sampled_from("01"),
    confidence=st.sampled_from([{}, CONFIDENCE]),
    cost=st.builds(dict, train_seconds=st.floats(1, 2)),
)
FOUND = st.lists(st.tuples(st.sampled_from("abc"), RECORDS, st.booleans()), max_size=8).map(
    lambda drawn: [
        found(f"{folder}/{index}.json", one, *(["panels.npz"] if panels else []))
        for index, (folder, one, panels) in enumerate(drawn)
    ]
)


def contradictions(merged: Merged) -> list[tuple[str, frozenset[tuple[str, float]]]]:
    """Of each cell in conflict its versions: weights and score."""
    versions: dict[str, set[tuple[str, float]]] = {}
    for conflict in merged.conflicts:
        for one in (conflict.kept.record, conflict.rejected.record):
            versions.setdefault(one.identity, set()).add((one.model_sha256, one.value("mean", "mad")))
    return sorted((identity, frozenset(each)) for identity, each in versions.items())


@given(FOUND, st.randoms())
def test_what_is_in_conflict_does_not_depend_on_the_order(all_found: list[FoundRecord], random: object) -> None:
    shuffled = list(all_found)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one, two = merge(all_found), merge(shuffled)
    assert contradictions(one) == contradictions(two)
    assert len(one.conflicts) == len(two.conflicts)
    assert merge(in_fixed_order(all_found)) == merge(in_fixed_order(shuffled))


@given(FOUND)
def test_merging_is_idempotent(all_found: list[FoundRecord]) -> None:
    once = merge(all_found)
    assert merge(once.kept) == Merged(once.kept, ())
    assert merge([*all_found, *all_found]) == once
    assert merge([*once.kept, *all_found]).kept == once.kept


@given(FOUND)
def test_every_number_is_kept_or_told(all_found: list[FoundRecord]) -> None:
    merged = merge(all_found)
    left = [*merged.kept, *(conflict.rejected for conflict in merged.conflicts)]
    for one in all_found:
        assert any(
            one.record.identity == other.record.identity
            and one.record.metrics == other.record.metrics
            and one.record.model_sha256 == other.record.model_sha256
            for other in left
        )


@given(FOUND, FOUND, st.booleans())
def test_a_second_import_brings_nothing(stored: list[FoundRecord], incoming: list[FoundRecord], replace: bool) -> None:
    known = merge(stored).kept
    first = merge_into(known, incoming, replace)
    after = {one.record.identity: one for one in (*known, *first.kept)}
    again = merge_into(list(after.values()), incoming, replace)
    assert again.kept == ()


def test_a_conflict_says_how_large_it_is() -> None:
    two = made(0, 0.5)
    two.metrics["bolt"]["p_ap"] = 0.5 + 2**-53
    two.metrics["nut_100%"]["i_ap"] = 0.5 + 2**-52
    (conflict,) = merge([found("a.json", made()), found("b.json", two)]).conflicts
    assert str(conflict) == (
        "rd4ad/mini/seed0 (mini/rd4ad, 0000aaaa): a.json and b.json differ most in nut_100%/i_ap: "
        "0.5 and 0.5000000000000002, 2.2e-16 apart"
    )
    two.metrics["nut_100%"]["aupro"] = 0.25
    assert "in nut_100%/aupro: not defined and 0.25" in str(conflict)
    assert largest_difference(two, two) is None


def test_weights_alone_are_a_conflict_and_costs_are_none() -> None:
    (conflict,) = merge([found("a", made()), found("b", made(weights="1"))]).conflicts
    assert str(conflict).endswith("a and b have equal metrics, from different weights")
    other = made(cost={"train_seconds": 9.0}, environment={"torch": "3"})
    assert merge([found("a", made()), found("b", other)]) == Merged((found("a", made()),), ())


def test_of_equal_numbers_the_record_that_has_more_is_kept() -> None:
    plain, more = found("a", made()), found("b", made(confidence=CONFIDENCE), "panels.npz")
    variant = found("c", made(experiment="ablation/memory: none"))
    for order in ([plain, more, variant], [variant, plain, more], [more, variant, plain]):
        assert merge(order) == Merged((more,), ())
    assert merge_into([plain], [more]).kept == (more,)
    assert merge_into([more], [plain]).kept == ()
    elsewhere = found("d", made(), "gallery.png")
    assert merge_into([more], [elsewhere]).kept == (), "neither has all that the other has"


def test_replacing_keeps_the_last() -> None:
    first, second, third = (found(place, made(0, score)) for place, score in (("a", 0.1), ("b", 0.2), ("c", 0.3)))
    assert merge_into([first], [second, third]).kept == ()
    taken = merge_into([first], [second, third], replace=True)
    assert taken.kept == (third,)
    assert {str(each.rejected.source) for each in taken.conflicts} == {"a", "b"}


Command = Callable[..., Done]
Make = Callable[[str], Path]


def tables(folder: Path) -> dict[str, str]:
    texts = (file for file in folder.rglob("*") if file.suffix in (".md", ".tex", ".csv"))
    return {str(file.relative_to(folder)): file.read_text() for file in texts}


def test_two_exports_give_the_tables_of_one_store_that_ran_all(tmp_path: Path, command: Command) -> None:
    rd4ad = [record(seed, 0.5 + seed / 8) for seed in range(3)]
    uniad = [record(seed, 0.6, method="uniad", label="UniAD", protocol="b" * 12) for seed in range(3)]
    for number, one in enumerate([*rd4ad, *uniad]):
        write_record(one, tmp_path / "ab"[number % 2] / "mini" / f"{one.method}-seed{one.seed}.json")
    write_record(rd4ad[1].model_copy(update={"cost": {"train_seconds": 9.0}}), tmp_path / "a" / "mini" / "again.json")
    whole = build_report([Entry(one, tuple) for one in (*rd4ad, *uniad)], all_ablations(tmp_path, (), print))
    written = []
    for order in ("ab", "ba"):
        folders = [part for name in order for part in ("--records", tmp_path / name)]
        done = command("report", *folders, "--to", tmp_path / order)
        assert done.status == 0, done.err
        written.append(tables(tmp_path / order))
    assert written[0] == written[1]
    different = {name for name, text in whole.texts.items() if written[0][str(name)] != text}
    assert {name.stem for name in different} <= {"main", "cost"}, "the other cost of one seed"
    (tmp_path / "a" / "mini" / "again.json").unlink()
    done = command("report", "--records", tmp_path / "a", "--records", tmp_path / "b", "--to", tmp_path / "ab")
    assert done.status == 0, done.err
    assert tables(tmp_path / "ab") == {str(name): text for name, text in whole.texts.items()}


def test_a_report_of_contradicting_folders_is_refused(tmp_path: Path, command: Command) -> None:
    for name, score in (("a", 0.5), ("b", 0.5 + 2**-53)):
        write_record(record(0, score), tmp_path / name / "one.json")
    done = command("report", "--records", tmp_path / "b", "--records", tmp_path / "a", "--to", tmp_path / "report")
    assert done.status == 2
    assert len(done.err.splitlines()) == 1
    assert "1.1e-16 apart" in done.err
    assert not (tmp_path / "report").exists()


def test_ablations_of_two_folders_may_not_share_a_name(tmp_path: Path, command: Command) -> None:
    for name, widths in (("a", "[64, 128]"), ("b", "[32, 64]")):
        write_record(record(), tmp_path / name / "cells" / "one" / "record.json")
        own = tmp_path / name / "ablations" / "width.yaml"
        own.parent.mkdir()
        own.write_text(f"title: Width\nbase: mini/rd4ad\nvary:\n  settings.bottleneck_width: {widths}\n")
    done = command("report", "--records", tmp_path / "a", "--records", tmp_path / "b", "--to", tmp_path / "report")
    assert done.status == 2
    assert "its ablation 'ablation/width' is not the one of the folders before" in done.err


def test_import_of_several_folders_tells_conflicts(tmp_path: Path, fresh_store: Make, command: Command) -> None:
    out = fresh_store("out")
    write_record(record(0, 0.5), tmp_path / "a" / "one.json")
    write_record(record(1, 0.5), tmp_path / "a" / "two.json")
    write_record(record(0, 0.625), tmp_path / "b" / "one.json")
    write_record(record(2, 0.5), tmp_path / "b" / "three.json")
    done = command("import", tmp_path / "a", tmp_path / "b", "--out", out)
    assert done.status == 1
    assert done.out.split() == [f"rd4ad/mini/seed{seed}" for seed in range(3)]
    (told,) = [line for line in done.err.splitlines() if line.startswith("conflict: ")]
    assert f"{tmp_path / 'a' / 'one.json'} and {tmp_path / 'b' / 'one.json'} differ most in" in told
    assert "0.5 and 0.625, 0.12 apart" in told
    assert told.endswith(f"kept {tmp_path / 'a' / 'one.json'}")
    assert "3 imported, 0 already there" in done.err
    assert stored(out) == {0: 0.5, 1: 0.5, 2: 0.5}

    again = command("import", tmp_path / "b", "--out", out)
    assert again.status == 1
    assert f"of sqlite:///{out / 'mlflow.db'} and {tmp_path / 'b' / 'one.json'} differ most in" in again.err
    assert "0 imported, 2 already there" in again.err
    replaced = command("import", tmp_path / "b", "--out", out, "--replace")
    assert replaced.status == 0, replaced.err
    assert "conflict: " in replaced.err
    assert "1 imported, 1 already there" in replaced.err
    assert stored(out) == {0: 0.625, 1: 0.5, 2: 0.5}
    exported = command("export", tmp_path / "exported", "--out", out)
    assert sorted(read_record(Path(file)).value("mean", "mad") for file in exported.out.split()) == [0.5, 0.5, 0.625]


def test_panels_go_with_the_record_of_a_cell(tmp_path: Path, fresh_store: Make, command: Command) -> None:
    out, cell = fresh_store("out"), tmp_path / "elsewhere" / "cells" / "one"
    write_record(record(), tmp_path / "export" / "one.json")
    assert "1 imported" in command("import", tmp_path / "export", "--out", out).err
    write_record(record(), cell / "record.json")
    picture = np.zeros((8, 8, 3), dtype=np.uint8)
    panel = Panel("bolt", "best", "dent", "000.png", 0.5, picture, picture[..., 0] > 0, np.ones((8, 8), np.float16))
    save_panels((panel,), cell / "panels.npz")
    (cell / "model.safetensors").write_bytes(b"stays where it is")
    done = command("import", tmp_path / "elsewhere", "--out", out)
    assert done.status == 0
    assert "1 imported, 0 already there" in done.err, "what was imported without panels is completed"
    assert "0 imported, 1 already there" in command("import", tmp_path / "elsewhere", "--out", out).err
    store = MlflowStore(f"sqlite:///{out / 'mlflow.db'}", None)
    ((run, _),) = store.records()
    assert store.files(run) == {"record.json", "panels.npz", "card.json", "categories.json"}
    assert [each.name for each in store.panels(run)] == ["000.png"]
    both = command(
        "report", "--records", tmp_path / "export", "--records", tmp_path / "elsewhere", "--to", tmp_path / "r"
    )
    assert both.status == 0, both.err
    assert (tmp_path / "r" / "mini" / "gallery-rd4ad.png").exists()


def test_what_replaces_a_record_counts_whatever_the_clocks_say(
    tmp_path: Path, fresh_store: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mddbench.runs.facts import facts_of
    from mddbench.runs.tracking import MlflowTracker

    out = fresh_store("out")
    store = MlflowStore(f"sqlite:///{out / 'mlflow.db'}", out / "mlruns")
    tracker = MlflowTracker(store, "imported", "test")
    for score, clock in ((0.5, 2_000_000_000.0), (0.625, 1_000_000_000.0)):
        monkeypatch.setattr("mddbench.runs.tracking.time.time", lambda clock=clock: clock)
        tracker.start(facts_of(record(0)), None).finish(record(0, score), [])
    assert stored(out) == {0: 0.625}


def stored(out: Path) -> dict[int, float]:
    found_there = MlflowStore(f"sqlite:///{out / 'mlflow.db'}", None).records()
    return {one.seed: one.value("mean", "mad") for _, one in found_there}
