"""Ablations: what they expand to, and how their variants are found again among records."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mddbench.detector import load_method, method_settings
from mddbench.errors import InputError
from mddbench.execution.plan import plan
from mddbench.execution.protocol import resolved_settings
from mddbench.experiments.ablation import (
    Ablation,
    ablation_names,
    all_ablations,
    expand,
    is_ablation,
    keep_ablations,
    load_ablation,
)
from mddbench.experiments.catalogue import load_suite
from mddbench.report.build import build_report, differences
from mddbench.report.rows.entries import Entry
from mddbench.report.rows.groups import group_by_protocol
from mddbench.report.rows.studies import studies
from mddbench.report.tables.markdown import markdown
from mddbench.report.tables.results import Results
from mddbench.report.tables.spec import load_table
from mddbench.report.write import write_report
from mddbench.runs.card import UPPER_BOUND
from mddbench.runs.records import EpochLog, Record
from mddbench.settings import packaged
from support import record

ITEMS = """\
title: Prototypes
base: mini/mddnet
seeds: [0, 1]
vary:
  settings.memory.items: [8, 32, 128]
"""
NAMED = """\
title: Parts
base: mini/mddnet
vary:
  without: {settings.memory_at: none, epochs: 2}
  with: {settings.memory_at: restoration, epochs: 40}
"""


def own(tmp_path: Path, text: str = ITEMS, name: str = "own.yaml") -> str:
    file = tmp_path / name
    file.write_text(text)
    return str(file)


def test_one_setting_with_numbers_is_an_axis(tmp_path: Path) -> None:
    found = load_ablation(own(tmp_path))
    assert (found.name, found.axis, found.settings) == (
        "ablation/own",
        "settings.memory.items",
        ("settings.memory.items",),
    )
    assert found.variants["128"] == {"settings.memory.items": 128}
    assert load_ablation(own(tmp_path, NAMED)).axis is None
    words = ITEMS.replace("[8, 32, 128]", "[[a], [a, b]]")
    assert list(load_ablation(own(tmp_path, words)).variants) == ["a", "a, b"]


def test_an_axis_has_its_label_or_else_the_setting_s_name(tmp_path: Path) -> None:
    assert load_ablation(own(tmp_path)).axis_name == "memory.items"
    found = load_ablation(own(tmp_path, f"{ITEMS}axis_label: prototypes of a category\n"))
    assert (found.axis, found.axis_name) == ("settings.memory.items", "prototypes of a category")
    assert load_ablation("ablation/prototypes").axis_name == "prototypes per category"
    assert load_ablation(own(tmp_path, NAMED)).axis_name == ""


@pytest.mark.parametrize(
    ("text", "old", "new", "message"),
    [
        (ITEMS, "[8, 32, 128]", "[8]", "vary holds one variant; expected at least two"),
        (ITEMS, "[8, 32, 128]", "[8, 8]", "gives a value twice"),
        (NAMED, "vary:", "axis_label: parts\nvary:", "axis_label names an axis, but vary is not one setting with"),
        (ITEMS, "vary:", "axis_label: [a]\nvary:", "axis_label"),
        (ITEMS, "vary:", "axis_label: ''\nvary:", "axis_label"),
        (ITEMS, "vary:", "very:", "unknown key 'very' (did you mean 'vary'?)"),
        (ITEMS, "mini/mddnet", "ablation/components", "is an ablation; expected an experiment"),
        (NAMED, ", epochs: 2", "", "should give the same settings; 'epochs' is not in all of them"),
        (NAMED, "{settings.memory_at: none, epochs: 2}", "none", "vary.without is 'none': expected settings"),
        (NAMED, "none, epochs: 2", "restoration, epochs: 40", "two variants have the same settings"),
        (
            ITEMS.replace(".items", ""),
            "[8, 32, 128]",
            "[{items: 8}, {items: 9}]",
            "vary.settings.memory is a group of settings",
        ),
    ],
)
def test_a_faulty_ablation_is_one_line(tmp_path: Path, text: str, old: str, new: str, message: str) -> None:
    with pytest.raises(InputError) as fault:
        load_ablation(own(tmp_path, text.replace(old, new)))
    assert message in str(fault.value)
    assert "own.yaml" in str(fault.value)


def test_an_unknown_ablation_has_a_suggestion() -> None:
    with pytest.raises(InputError, match=r"did you mean 'ablation/components'\?"):
        load_ablation("ablation/component")


def test_an_override_of_what_is_varied_is_refused(tmp_path: Path) -> None:
    for key in ("settings.memory.items", "settings.memory", "settings", "settings.memory.items.x"):
        with pytest.raises(InputError, match=r"varies settings\.memory\.items; leave one of them out"):
            expand(load_ablation(own(tmp_path)), {key: 4})


def test_a_variant_that_does_not_fit_names_itself(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ablation/own: 'without' does not fit its base: .*'epochs' is 'two'"):
        expand(load_ablation(own(tmp_path, NAMED.replace("epochs: 2", "epochs: two"))), {})


def test_a_name_of_the_package_is_taken(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is the name of an ablation that comes with mddbench; rename the file"):
        load_ablation(own(tmp_path, name="components.yaml"))


def test_kept_ablations_are_found_again_and_a_broken_one_is_said(tmp_path: Path) -> None:
    keep_ablations([own(tmp_path)], tmp_path / "out")
    said: list[str] = []
    assert "ablation/own" in {each.name for each in all_ablations(tmp_path / "out", [], said.append)}
    assert said == []
    (tmp_path / "out/ablations/bad.yaml").write_text("title: 3\nvary: {}\n")
    names = [each.name for each in all_ablations(tmp_path / "out", [tmp_path / "own.yaml"], said.append)]
    assert names.count("ablation/own") == 1
    assert len(names) == 1 + len(ablation_names())
    assert "left out of the report" in said[0]


def test_a_plan_holds_each_cell_once_and_the_base_under_its_own_name(tmp_path: Path) -> None:
    file = own(tmp_path)
    assert is_ablation(file)
    cells = plan([file, "mini/mddnet", file], "named", None, {"epochs": 3})
    assert [(cell.experiment.name, cell.seed) for cell in cells] == [
        ("ablation/own: 8", 0),
        ("ablation/own: 8", 1),
        ("mini/mddnet", 0),  # 32 items is what the base has
        ("mini/mddnet", 1),
        ("ablation/own: 128", 0),
        ("ablation/own: 128", 1),
    ]
    assert cells[0].name == "mddnet/mini/seed0 (ablation/own: 8)"
    assert cells[2].name == "mddnet/mini/seed0"
    assert {cell.experiment.epochs for cell in cells} == {3}
    assert cells[0].experiment.settings == {"memory": {"items": 8}}
    assert [cell.seed for cell in plan([file], "named", (5,), {})] == [5, 5, 5]


OF_THE_DATA = ("ablation/categories_per_model", "ablation/contamination")
"""Ablations without their base: that is judged on other images, or is a variant under another setting."""


def test_every_ablation_of_the_package_holds_its_base() -> None:
    for name in sorted({*ablation_names()} - {*OF_THE_DATA}):
        cells = plan([name], "named", None, {})
        assert any(cell.experiment.name == load_ablation(name).base for cell in cells), name


def variant(items: int, seed: int, score: float, **changes: Any) -> Record:
    settings = {"epochs": 40, "settings": {"memory": {"items": items, "blend": 0.3}, "memory_at": "restoration"}}
    base = items == 32
    content = {
        "method": "mddnet",
        "label": "MDD-Net",
        "protocol": f"{items:012x}",
        "identity": f"{seed:04x}{items:012x}",
        "experiment": "mini/mddnet" if base else f"ablation/own: {items}",
        "settings": {**settings, "overrides": {} if base else {"settings.memory.items": items}},
    }
    return record(seed, score, **{**content, **changes})


@pytest.fixture
def items(tmp_path: Path) -> Ablation:
    return load_ablation(own(tmp_path))


def test_variants_are_found_by_their_settings_alone(items: Ablation) -> None:
    records = [variant(128, 0, 0.7), variant(8, 0, 0.5), variant(8, 1, 0.6), variant(32, 0, 0.8), variant(64, 0, 0.9)]
    longer = {"epochs": 80, "settings": {"memory": {"items": 8, "blend": 0.3}, "memory_at": "restoration"}}
    records += [variant(8, 0, 0.1, settings=longer, protocol="e" * 12), record(0, 0.2)]
    (study,) = studies([items], group_by_protocol(records))
    assert [group.label for group in study.groups] == ["8", "32", "128"]
    assert study.values == [8, 32, 128]


def test_variants_are_compared_at_the_seeds_that_all_have(items: Ablation) -> None:
    records = [variant(8, 0, 0.5), *(variant(32, seed, 0.6) for seed in (0, 1, 2))]
    (study,) = studies([items], group_by_protocol(records))
    assert [[one.seed for one in group.records] for group in study.groups] == [[0], [0]]


def test_other_weights_or_another_version_are_another_study(items: Ablation) -> None:
    records = [variant(8, 0, 0.5), variant(32, 0, 0.6)]
    for number, key in enumerate(("encoder_sha256", "method_version", "textures", "metrics"), 1):
        card = records[0].card.model_copy(update={key: "another"})
        records += [
            variant(n, 0, 0.9, card=card, protocol=f"{number}{n:011x}", identity=f"{number}{n:015x}") for n in (8, 32)
        ]
    found = studies([items], group_by_protocol(records))
    assert len({study.name for study in found}) == 5
    assert all(len({str(group.first.card) for group in study.groups}) == 1 for study in found)


def test_two_suites_make_one_study_of_each_ablation_with_all_variants() -> None:
    records = []
    cells = [*plan([], "ablation", None, {}), *plan([], "ablation_seeds", None, {})]
    for number, cell in enumerate(cells):
        method = load_method(cell.experiment.method)
        settings = resolved_settings(cell.experiment, method_settings(method, cell.experiment.settings, "test"))
        protocol = hashlib.sha256(str(settings).encode()).hexdigest()[:16]
        names = {
            "experiment": cell.experiment.name,
            "method": cell.experiment.method,
            "label": method.label,
            "identity": f"{number:08x}",
        }
        records.append(record(cell.seed, 0.5, settings=settings, protocol=protocol, **names))
    both = [*load_suite("ablation").experiments, *load_suite("ablation_seeds").experiments]
    ablations = [load_ablation(name) for name in both]
    found = {study.name: study for study in studies(ablations, group_by_protocol(records))}
    assert {f"ablation/{name}" for name in found} == {*ablation_names()} - {*OF_THE_DATA}
    for ablation in ablations:
        study = found[ablation.name.removeprefix("ablation/")]
        assert [group.label for group in study.groups] == list(ablation.variants)
        assert len({len(group.records) for group in study.groups}) == 1


def test_an_upper_bound_keeps_its_mark_and_is_never_best(items: Ablation) -> None:
    card = record().card.model_copy(update={"test_labels": UPPER_BOUND})
    records = [variant(8, 0, 0.5), variant(32, 0, 0.6), variant(128, 0, 0.9, card=card)]
    (study,) = studies([items], group_by_protocol(records))
    assert [group.label for group in study.groups] == ["8", "32", "128, test labels given (upper bound)"]
    assert study.values == [8, 32, 128]
    spec = load_table("ablation")
    text = markdown(Results(spec, "t", tuple(study.groups)).table())
    assert "**60.0**" in text
    assert "**90.0**" not in text


def test_other_settings_are_studies_of_their_own_and_the_base_as_it_is_keeps_the_plain_name(items: Ablation) -> None:
    records = [variant(8, 0, 0.5), variant(32, 0, 0.6)]
    changes = ({"epochs": 2}, {"settings.blend": 0.1})
    for number, changed in enumerate(changes, 1):
        for one in records[:2]:
            overrides = {**one.settings["overrides"], **changed}
            settings = {**one.settings, **changed, "overrides": overrides}
            protocol = f"{number}{one.protocol[:0:-1]}"
            records.append(one.model_copy(update={"settings": settings, "protocol": protocol}))
    stray = {"epochs": 9, "settings": {"memory": {"items": 8}}}
    records += [
        variant(n, 0, 0.1, settings=stray, protocol=f"9{n:02x}".ljust(12, "0"), experiment="a/b") for n in (8, 128)
    ]
    found = studies([items], group_by_protocol(records[::-1]))
    assert [study.title for study in found] == ["Prototypes", "Prototypes, epochs=2", "Prototypes, settings.blend=0.1"]
    assert found[0].name == "own"
    assert len({study.name for study in found}) == 3
    assert all(len(study.groups) == 2 for study in found)


def test_a_plain_experiment_goes_before_a_variant_of_the_same_content(tmp_path: Path) -> None:
    file, eight = own(tmp_path), tmp_path / "eight.yaml"
    base = (packaged("experiments") / "mini/mddnet.yaml").read_text()
    eight.write_text(f"{base}settings: {{memory: {{items: 8}}}}\n")
    for names in ([file, str(eight)], [str(eight), file]):
        cells = plan(names, "named", (0,), {})
        assert sorted(cell.experiment.name for cell in cells) == ["ablation/own: 128", "eight", "mini/mddnet"]


def test_an_own_base_is_kept_beside_its_ablation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "base.yaml").write_text((packaged("experiments") / "mini/mddnet.yaml").read_text())
    own(tmp_path, ITEMS.replace("mini/mddnet", "base.yaml"))
    monkeypatch.chdir(tmp_path)
    keep_ablations(["own.yaml"], Path("out"))
    keep_ablations(["out/ablations/own.yaml"], Path("out"))  # the kept one itself, to add seeds
    monkeypatch.chdir("/")
    said: list[str] = []
    names = [each.name for each in all_ablations(tmp_path / "out", [], said.append)]
    assert "ablation/own" in names
    assert said == []


@pytest.mark.renders
def test_a_report_draws_ablations_and_keeps_variants_out_of_the_main_table(items: Ablation, tmp_path: Path) -> None:
    logs = [
        EpochLog(
            epoch=n, loss=1, terms={}, lr=1, seconds=1, images=1, diagnostics={"use_0": 0.1 * n, "use_1": 0.2, "x": n}
        )
        for n in (1, 2, 3)
    ]
    records = [
        variant(items_, seed, score + 0.04 * seed, **({"history": logs} if items_ == 32 else {}))
        for items_, score in ((8, 0.5), (32, 0.6), (128, 0.7))
        for seed in (0, 1)
    ]
    report = build_report([Entry(each, tuple) for each in records], [items])
    tables, pictures = write_report(report, tmp_path / "report")
    main = (tmp_path / "report/mini/main.md").read_text()
    assert [line.split("|")[1].strip() for line in main.splitlines() if line.startswith("| MDD")] == ["MDD-Net"]
    text = (tmp_path / "report/mini/ablation-own.md").read_text()
    assert text.startswith("### Prototypes: MDD-Net on mini, one model for 2 categories")
    assert "| 8 | 2 | 52.0 ± 2.8 |" in text
    assert "| 128 | 2 | **72.0 ± 2.8** |" in text
    frame = pd.read_csv(tmp_path / "report/mini/ablation-own.csv")
    assert frame["mad"].tolist() == pytest.approx([0.52, 0.62, 0.72])
    assert {file.name for file in pictures} >= {"ablation-own.png", "diagnostics-mdd-net.png"}
    assert all(file.with_suffix(".pdf").read_bytes().startswith(b"%PDF") for file in pictures)
    for file in pictures:
        with Image.open(file) as picture:
            assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 50
    assert {file.name for file in tables} >= {"main.md", "ablation-own.tex"}
    assert differences(report, tmp_path / "report") == []
    assert "mini own" in report.main


def test_only_variants_make_no_main_table(items: Ablation) -> None:
    report = build_report([Entry(variant(items_, 0, 0.5), tuple) for items_ in (8, 128)], [items])
    assert list(report.main) == ["mini own"]
