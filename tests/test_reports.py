"""Records, tables and pictures."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from csv import DictReader
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mddbench.cli.entries import entries_from_folder
from mddbench.errors import InputError
from mddbench.experiments.ablation import all_ablations
from mddbench.report.build import build_report, differences, trace
from mddbench.report.figures.heat_maps import draw_gallery
from mddbench.report.figures.tiles import colour_limits
from mddbench.report.fill import fill_differences, filled
from mddbench.report.rows.entries import Entry
from mddbench.report.rows.groups import Group, group_by_protocol
from mddbench.report.rows.published import FIELDS, parse_efficiency
from mddbench.report.tables.latex import latex
from mddbench.report.tables.markdown import markdown
from mddbench.report.tables.results import Results, remarks
from mddbench.report.tables.spec import load_table
from mddbench.report.tables.table import Table
from mddbench.report.write import page_of, rendered_by, write_report
from mddbench.runs.card import UPPER_BOUND
from mddbench.runs.panels import Panel, load_panels, save_panels
from mddbench.runs.records import as_json, parse_record, read_record, read_records, write_record
from support import ROOT, needed, record

pytestmark = pytest.mark.renders


def test_a_record_survives_a_file(tmp_path: Path) -> None:
    write_record(record(), tmp_path / "a" / "r.json")
    assert read_record(tmp_path / "a" / "r.json") == record()
    assert math.isnan(record().value("nut_100%", "aupro"))
    assert "NaN" not in (tmp_path / "a" / "r.json").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw.pop("seed"), "'seed' is missing"),
        (lambda raw: raw.update(extra=1), "unknown key 'extra'"),
        (lambda raw: raw.update(dataset="../../etc"), "'dataset' is '../../etc'"),
        (lambda raw: raw.update(status="failed"), "'status' is 'failed'"),
        (lambda raw: raw["metrics"]["bolt"].update(i_auroc=97.5), "'metrics.bolt.i_auroc' is 97.5"),
        (lambda raw: raw["metrics"]["bolt"].pop("aupro"), "metrics of 'bolt' should be"),
        (lambda raw: raw["metrics"].pop("mean"), "expected metrics of 'mean'"),
        (lambda raw: raw.update(metrics=3), "'metrics' is 3"),
        (lambda raw: raw.update(identity="a' OR 1"), "'identity' is"),
        (lambda raw: raw.update(history=[{}]), "'history.0.epoch' is missing"),
        (lambda raw: raw["cost"].update(train_seconds=math.nan), "NaN is not JSON"),
    ],
)
def test_a_record_from_outside_is_checked(change: Any, message: str) -> None:
    raw = json.loads(as_json(record()))
    change(raw)
    with pytest.raises(InputError) as fault:
        parse_record(json.dumps(raw), "somebody.json")
    assert str(fault.value).startswith("somebody.json: ")
    assert message in str(fault.value)
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "[" * 100_000])
def test_what_is_no_record_at_all(text: str) -> None:
    with pytest.raises(InputError, match=r"x\.json"):
        parse_record(text, "x.json")


def test_a_folder_without_records(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no records there"):
        read_records(tmp_path)


def table(name: str, groups: list[Group], title: str = "t") -> Table:
    return Results(load_table(name), title, tuple(groups)).table()


def test_the_mean_and_spread_over_seeds() -> None:
    groups = group_by_protocol([record(0, 0.5), record(1, 0.6), record(2, 0.7)])["mini"]
    shown = table("main", groups)
    seeds, i_auroc, *_ = shown.rows[0].cells
    assert seeds.value == 3
    assert shown.columns[1].key == "i_auroc"
    assert i_auroc.value == pytest.approx(0.6)
    assert i_auroc.deviation == pytest.approx(0.1)
    assert "| RD4AD | 3 | 60.0 ± 10.0 |" in markdown(shown)


def test_an_upper_bound_is_marked() -> None:
    told = record(0, 0.9, protocol="b" * 12, card={"setting": "one model", "test_labels": UPPER_BOUND})
    groups = group_by_protocol([record(0), told])["mini"]
    assert [group.label for group in groups] == ["RD4AD", "RD4AD, test labels given (upper bound)"]


def test_protocols_never_share_a_row() -> None:
    other = record(1, 0.9, protocol="b" * 12, settings={"overrides": {"epochs": 9}})
    twin = record(1, 0.7, protocol="c" * 12, settings={"overrides": {"epochs": 9}})
    groups = group_by_protocol([record(0), other, twin])["mini"]
    assert [group.label for group in groups] == [
        "RD4AD (mini/rd4ad)",
        "RD4AD (mini/rd4ad, epochs=9, bbbbbbbb)",
        "RD4AD (mini/rd4ad, epochs=9, cccccccc)",
    ]
    text = markdown(table("main", groups))
    assert "**90.0**" in text
    assert "**70.0**" not in text


def test_two_trees_never_share_a_table() -> None:
    found = group_by_protocol([record(), record(protocol="b" * 12, fingerprint="e" * 64), record(dataset="mvtec")])
    assert sorted(found) == ["mini-eeeeeeee", "mini-ffffffff", "mvtec"]
    assert [group.label for groups in found.values() for group in groups] == ["RD4AD"] * 3


def test_means_that_leave_categories_out_say_so() -> None:
    groups = group_by_protocol([record()])["mini"]
    assert "RD4AD: means of AUPRO of 1 of 2 categories, not defined in the others." in remarks(groups)


def test_every_row_has_files_of_its_own() -> None:
    changed = [record(seed, protocol=str(seed) * 12, settings={"overrides": {"lr": 0.1 + seed}}) for seed in (1, 2)]
    report = build_report([Entry(each, tuple) for each in (record(), *changed)], [])
    assert len([name for name in report.texts if name.name.startswith("categories") and name.suffix == ".md"]) == 3
    assert len([name for name in report.pictures if name.name.startswith("gallery-")]) == 3


def test_records_of_one_protocol_may_know_other_categories() -> None:
    other = record(1)
    other = other.model_copy(update={"metrics": {"mean": other.metrics["mean"], "gear": other.metrics["bolt"]}})
    groups = group_by_protocol([record(), other])["mini"]
    assert "| bolt | 2 | – |" in markdown(table("categories", groups))


def test_categories_stand_by_methods_with_the_best_of_each_metric() -> None:
    other = record(0, 0.6, protocol="b" * 12, label="Ours|x", method="ours")
    other.metrics["bolt"]["p_auroc"] = 0.4
    texts = build_report([Entry(each, tuple) for each in (record(0, 0.5), record(1, 0.5), other)], []).texts
    rows = [line for line in texts[Path("mini/by-category.md")].splitlines() if line.startswith("| ")]
    assert rows == [
        r"| Category | Ours\|x | RD4AD |",
        "| bolt | **60.0** / 40.0 / **60.0** | 50.0 / **50.0** / 50.0 |",
        "| nut_100% | **60.0** / **60.0** / – | 50.0 / 50.0 / – |",
        "| mean | **60.0** / **60.0** / **60.0** | 50.0 / 50.0 / 50.0 |",
    ]
    assert (
        r"bolt & \textbf{60.0} / 40.0 / \textbf{60.0} & 50.0 / \textbf{50.0} / 50.0 \\"
        in texts[Path("mini/by-category.tex")]
    )
    lines = list(DictReader(texts[Path("mini/by-category.csv")].splitlines()))
    assert lines[0]["RD4AD p_auroc"] == "0.5"
    assert lines[0]["RD4AD p_auroc_std"] == "0.0"
    assert lines[1]["RD4AD aupro"] == ""
    assert lines[2]["row"] == "mean"
    alone = build_report([Entry(record(), tuple)], []).texts
    assert Path("mini/by-category.md") not in alone, "one method alone has its own table of categories"


def test_tables_stand_in_order_and_details_last(tmp_path: Path) -> None:
    other = record(0, 0.6, protocol="b" * 12, label="B")
    report = build_report([Entry(record(), panels), Entry(other, panels)], [])
    write_report(report, tmp_path, command="mddbench report --x")
    shown = page_of(report, tmp_path, rendered_by("mddbench report --x"))
    blocks = shown.sections[0].blocks
    names = [block.anchor.removeprefix("section-0-") for block in blocks]
    assert names[:4] == ["main", "by-category", "differences", "cost"]
    assert [block.folded for block in blocks] == sorted(block.folded for block in blocks)
    assert {name for name, block in zip(names, blocks, strict=True) if block.folded} >= {"categories-b", "training"}
    by_category = blocks[1]
    assert by_category.figure is not None
    assert by_category.figure.title == "Each category"
    assert any("Rendered " in line and "`mddbench report --x`, mddbench " in line for line in shown.subtitle)


def test_the_time_of_a_rendering_can_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    assert rendered_by("x").startswith("Rendered 1970-01-01 00:00 UTC by `x`, mddbench ")


def test_what_is_not_defined_is_a_dash_and_never_best() -> None:
    groups = group_by_protocol([record()])["mini"]
    text = markdown(table("categories", groups))
    assert "| nut_100% | 1 | 50.0 | 50.0 | 50.0 | 50.0 | 50.0 | 50.0 | – |" in text
    assert "**" not in text


def test_latex_is_escaped_and_balanced() -> None:
    groups = group_by_protocol([record()])["mini"]
    text = latex(table("categories", groups, r"100% of a_b \x{} ~^$"))
    assert r"nut\_100\% & 1 &" in text
    assert r"100\% of a\_b \textbackslash{}x\{\} \textasciitilde{}\textasciicircum{}\$" in text
    for kind in ("table*", "tabular"):
        assert text.count(rf"\begin{{{kind}}}") == text.count(rf"\end{{{kind}}}") == 1
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {line.count("&") - line.count(r"\&") for line in rows} == {8}


def panels() -> tuple[Panel, ...]:
    generator = np.random.default_rng(0)
    return tuple(
        Panel(
            category=category,
            role=role,
            defect="good" if role == "normal" else "dent",
            name="000.png",
            score=0.5,
            image=generator.integers(0, 256, (32, 32, 3), dtype=np.uint8),
            mask=np.eye(32, dtype=bool) & (role != "normal"),
            map=generator.random((32, 32)).astype(np.float16) * scale,
        )
        for category, scale in (("bolt", 1.0), ("nut $_$", 3.0))
        for role in ("best", "worst", "normal")
        if (category, role) != ("nut $_$", "worst")
    )


def test_panels_survive_a_file(tmp_path: Path) -> None:
    save_panels(panels(), tmp_path / "p.npz")
    for old, new in zip(panels(), load_panels(tmp_path / "p.npz"), strict=True):
        assert (old.category, old.role, old.defect, old.name, old.score) == (
            new.category,
            new.role,
            new.defect,
            new.name,
            new.score,
        )
        for part in ("image", "mask", "map"):
            np.testing.assert_array_equal(getattr(old, part), getattr(new, part))


def test_the_gallery_has_one_colour_scale(tmp_path: Path) -> None:
    low, high = colour_limits(panels())
    assert low < 0.2
    assert 2.5 < high <= 3.0
    draw_gallery(panels(), "title", tmp_path / "g.png")
    with Image.open(tmp_path / "g.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.shape[1] > 1000
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 500


def test_a_report_is_written_and_checked(tmp_path: Path) -> None:
    report = build_report([Entry(record(), panels), Entry(record(1, 0.6), tuple)], [])
    tables, pictures = write_report(report, tmp_path)
    names = {file.relative_to(tmp_path).as_posix() for file in (*tables, *pictures)}
    assert {
        "mini/main.md",
        "mini/main.tex",
        "mini/main.csv",
        "mini/categories-rd4ad.md",
        "mini/gallery-rd4ad.png",
    } <= names
    assert differences(report, tmp_path) == []
    (tmp_path / "mini/main.md").write_text((tmp_path / "mini/main.md").read_text().replace("55.0", "99.0"))
    assert any("99.0" in line for line in differences(report, tmp_path))
    write_report(report, tmp_path, replace=True)
    assert differences(report, tmp_path) == []
    fewer = build_report([Entry(record(dataset="other"), tuple)], [])
    stale = [line for line in differences(fewer, tmp_path) if line.endswith("follows from no record")]
    assert f"{tmp_path / 'mini/main.md'}: follows from no record" in stale
    (tmp_path / "mini/categories-old.md").write_text("somebody's own")
    write_report(fewer, tmp_path)
    assert differences(fewer, tmp_path) == []
    assert (tmp_path / "mini/categories-old.md").exists()


def test_a_broken_panel_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "panels.npz").write_bytes(b"PK not a zip")
    with pytest.raises(InputError, match=r"panels\.npz: cannot be read as panels"):
        load_panels(tmp_path / "panels.npz")


def test_a_report_without_panels_has_no_gallery(tmp_path: Path) -> None:
    _, pictures = write_report(build_report([Entry(record(), tuple)], []), tmp_path)
    assert {file.name for file in pictures} == {"per-category.png", "cost-quality.png", "training.png"}


def test_every_row_can_be_traced_to_its_runs() -> None:
    records = [record(seed) for seed in (0, 1)]
    variant = record(0, protocol="b" * 12, experiment="ablation/fusion: product")
    entries = [Entry(each, tuple, f"run{number}") for number, each in enumerate((*records, variant))]
    lines = [line.split(",") for line in trace(build_report(entries, [])).splitlines()]
    assert lines[0] == ["table", "row", "seed", "experiment", "identity", "protocol", "run"]
    told = [(line[0], line[1], line[2], line[-1]) for line in lines[1:]]
    assert told == [("mini/main", "RD4AD", "0", "run0"), ("mini/main", "RD4AD", "1", "run1"), ("", "", "0", "run2")]


def test_rows_of_ablations_are_traced_by_their_tables() -> None:
    entries = entries_from_folder(ROOT / "results")
    lines = list(DictReader(trace(build_report(entries, all_ablations(ROOT / "results", [], print))).splitlines()))
    rows = {line["row"] for line in lines if line["table"] == "mini/ablation-fusion"}
    assert rows == {"teacher against restoration", "restoration against identity", "sum of both", "product of both"}
    assert {line["identity"] for line in lines} == {entry.record.identity for entry in entries}
    assert all(line["run"].split("/")[0] in ("mini", "real", "real2") for line in lines)


def test_a_later_report_shows_no_picture_of_an_earlier_one(tmp_path: Path) -> None:
    write_report(build_report([Entry(record(), panels)], []), tmp_path)
    assert (tmp_path / "mini/gallery-rd4ad.pdf").exists()
    _, pictures = write_report(build_report([Entry(record(), tuple)], []), tmp_path)
    assert not list((tmp_path / "mini").glob("gallery-*"))
    assert not any(file.name.startswith("gallery-") for file in pictures)


def test_names_that_look_alike_have_files_of_their_own() -> None:
    records = [record(0, protocol="a" * 12, label="RD"), record(0, protocol="b" * 12, label="RD++", method="rdpp")]
    report = build_report([Entry(one, tuple) for one in records], [])
    assert len([name for name in report.texts if name.match("mini/categories-rd*.md")]) == 2


def test_marked_tables_are_filled_and_checked(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text("before\n<!-- table: mini -->\nold\n<!-- end -->\nafter\n")
    text = filled(page, {"mini": "| new |\n"})
    assert text == "before\n<!-- table: mini -->\n| new |\n<!-- end -->\nafter\n"
    assert "-old" in fill_differences(page, {"mini": "| new |"})
    page.write_text(text)
    assert fill_differences(page, {"mini": "| new |"}) == []
    with pytest.raises(InputError, match="no table 'mini'; the records give visa"):
        filled(page, {"visa": ""})
    page.write_text("nothing")
    with pytest.raises(InputError, match="no marked table there"):
        filled(page, {"mini": ""})


def test_a_folded_table_has_no_costs_and_hides_its_notes() -> None:
    report = build_report([Entry(record(cost={"parameters_total": 4e6}), tuple)], [])
    plain, folded = report.marked["mini"], report.marked["mini, folded"]
    assert plain == report.main["mini"]
    assert "Params [M]" in plain
    assert "Params [M]" not in folded
    head, _, rest = folded.partition("<details><summary>Protocol and notes</summary>\n\n")
    assert head.count("|") > 10
    assert "Percent." not in head
    assert "Protocol: " in rest
    assert rest.endswith("\n\n</details>\n")


def test_a_record_cannot_write_into_latex_or_markdown() -> None:
    card = {"setting": "one model", "encoder": "x\n\\input{/etc/passwd}"}
    report = build_report([Entry(record(label="A\nB", card=card), tuple)], [])
    for name in ("main.tex", "main.md"):
        text = report.texts[Path("mini") / name]
        assert not any(line.startswith(("\\input", "B")) for line in text.splitlines())
    guarded = build_report([Entry(record(label="[x]"), tuple)], []).texts[Path("mini/main.tex")]
    assert "{}[x] & 1" in guarded


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("btad,CFA,100,abc,5,1,log", "line 2: parameters_million: expected a number above 0, found 'abc'"),
        ("btad,CFA,100,-5,5,1,log", "expected a number above 0, found '-5'"),
        ("btad,CFA,100,5,5,1,", "no source for btad, CFA, 100"),
        ("btad,CFA,100,5,5,1,log\nbtad,CFA,100,5,5,1,log", "line 3: a second row of btad, CFA, 100"),
    ],
)
def test_published_costs_are_checked(line: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "efficiency.csv"
    file.write_text(f"{','.join(FIELDS)}\n{line}\n")
    with pytest.raises(InputError, match=message):
        parse_efficiency(file)


def ranked(*scores: float) -> tuple[str, str]:
    """The main table of some methods, in Markdown and LaTeX."""
    records = [
        record(0, score, method=f"m{n}", label=f"M{n}", protocol=f"{n:x}" * 12) for n, score in enumerate(scores)
    ]
    shown = table("main", group_by_protocol(records)["mini"])
    return markdown(shown), latex(shown)


def test_the_best_is_bold_and_of_three_the_second_is_underlined() -> None:
    text, tex = ranked(0.7, 0.9, 0.8)
    assert "| M1 | 1 | **90.0** |" in text
    assert "| M2 | 1 | <u>80.0</u> |" in text
    assert "| M0 | 1 | 70.0 |" in text
    assert r"M1 & 1 & \textbf{90.0} &" in tex
    assert r"M2 & 1 & \underline{80.0} &" in tex
    assert "<u>" not in ranked(0.7, 0.9)[0]
    assert "**" not in ranked(0.7)[0]


def test_what_is_printed_alike_is_marked_alike() -> None:
    text, _ = ranked(0.90004, 0.90001, 0.8, 0.8)
    assert text.count("**90.0**") == 2 * 8
    assert text.count("<u>80.0</u>") == 2 * 8


def test_the_committed_tables_compile(tmp_path: Path) -> None:
    """With a real TeX, where there is one, on a page of the usual size."""
    (pdflatex,) = needed("pdflatex", package="texlive-latex-recommended")
    tables = sorted((ROOT / "paper_tables" / "rendered" / "mini").glob("*.tex"))
    tables += sorted((ROOT / "tests" / "golden").glob("*.tex"))
    for table in tables:
        shutil.copy(table, tmp_path)
    body = "\n".join(rf"\input{{{table.name}}}" for table in tables)
    head = r"\documentclass{article}\usepackage{booktabs,graphicx}\begin{document}"
    (tmp_path / "all.tex").write_text(f"{head}\n{body}\n\\end{{document}}\n", encoding="utf-8")
    command = [pdflatex, "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=200)
    assert ran.returncode == 0, ran.stdout[-2000:]
    assert "Overfull" not in ran.stdout, "a table is wider than the line"
    assert "Float too large" not in ran.stdout, "a table is longer than a page"
    assert (tmp_path / "all.pdf").stat().st_size > 10_000
    assert len(tables) > 10
