"""Records, tables and pictures."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mddbench.errors import InputError
from mddbench.panels import Panel, load_panels, save_panels
from mddbench.records import UPPER_BOUND, as_json, parse_record, read_record, read_records, write_record
from mddbench.report.build import build_report, differences, trace
from mddbench.report.entries import Entry
from mddbench.report.formats import latex, markdown
from mddbench.report.gallery import colour_limits, draw_gallery
from mddbench.report.groups import group_by_protocol
from mddbench.report.spec import load_table
from mddbench.report.tables import numbers, protocol_notes
from mddbench.report.write import write_report
from support import ROOT, record


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


def test_the_mean_and_spread_over_seeds() -> None:
    groups = group_by_protocol([record(0, 0.5), record(1, 0.6), record(2, 0.7)])["mini"]
    frame = numbers(load_table("main"), groups)
    assert frame["n"].tolist() == [3]
    assert frame["i_auroc"].tolist() == pytest.approx([0.6])
    assert frame["i_auroc_std"].tolist() == pytest.approx([0.1])
    assert "| RD4AD | 3 | 60.0 ± 10.0 |" in markdown(load_table("main"), "t", frame, [])


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
    text = markdown(load_table("main"), "t", numbers(load_table("main"), groups), [])
    assert "**90.0**" in text
    assert "**70.0**" not in text


def test_two_trees_never_share_a_table() -> None:
    found = group_by_protocol([record(), record(protocol="b" * 12, fingerprint="e" * 64), record(dataset="mvtec")])
    assert sorted(found) == ["mini-eeeeeeee", "mini-ffffffff", "mvtec"]
    assert [group.label for groups in found.values() for group in groups] == ["RD4AD"] * 3


def test_means_that_leave_categories_out_say_so() -> None:
    groups = group_by_protocol([record()])["mini"]
    assert "RD4AD: means of AUPRO of 1 of 2 categories, not defined in the others." in protocol_notes(groups)


def test_every_row_has_files_of_its_own() -> None:
    changed = [record(seed, protocol=str(seed) * 12, settings={"overrides": {"lr": 0.1 + seed}}) for seed in (1, 2)]
    report = build_report([Entry(each, tuple) for each in (record(), *changed)], [])
    assert len([name for name in report.texts if name.name.startswith("categories") and name.suffix == ".md"]) == 3
    assert len([name for name in report.pictures if name.name.startswith("gallery-")]) == 3


def test_records_of_one_protocol_may_know_other_categories() -> None:
    other = record(1)
    other = other.model_copy(update={"metrics": {"mean": other.metrics["mean"], "gear": other.metrics["bolt"]}})
    groups = group_by_protocol([record(), other])["mini"]
    assert "| bolt | 2 | – |" in markdown(load_table("categories"), "t", numbers(load_table("categories"), groups), [])


def test_what_is_not_defined_is_a_dash_and_never_best() -> None:
    groups = group_by_protocol([record()])["mini"]
    frame = numbers(load_table("categories"), groups)
    text = markdown(load_table("categories"), "t", frame, [])
    assert "| nut_100% | 1 | 50.0 | 50.0 | 50.0 | 50.0 | 50.0 | 50.0 | – |" in text
    assert "**" not in text


def test_latex_is_escaped_and_balanced() -> None:
    groups = group_by_protocol([record()])["mini"]
    text = latex(load_table("categories"), r"100% of a_b \x{} ~^$", numbers(load_table("categories"), groups), ["note"])
    assert r"nut\_100\% & 1 &" in text
    assert r"100\% of a\_b \textbackslash{}x\{\} \textasciitilde{}\textasciicircum{}\$" in text
    for kind in ("table", "tabular"):
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
    write_report(report, tmp_path)
    (tmp_path / "mini/categories-old.md").write_text("left over")
    assert differences(report, tmp_path) == [f"{tmp_path / 'mini/categories-old.md'}: follows from no record"]
    write_report(report, tmp_path)
    assert differences(report, tmp_path) == []


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
    lines = [line.split(",") for line in trace(entries).splitlines()]
    assert lines[0] == ["table", "row", "seed", "experiment", "identity", "protocol", "run"]
    told = [(line[0], line[1], line[2], line[-1]) for line in lines[1:]]
    assert told == [
        ("mini/main", "RD4AD", "0", "run0"),
        ("mini/main", "RD4AD", "1", "run1"),
        ("mini", "ablation/fusion: product", "0", "run2"),
    ]


def ranked(*scores: float) -> tuple[str, str]:
    """The main table of some methods, in Markdown and LaTeX."""
    records = [
        record(0, score, method=f"m{n}", label=f"M{n}", protocol=f"{n:x}" * 12) for n, score in enumerate(scores)
    ]
    spec, groups = load_table("main"), group_by_protocol(records)["mini"]
    frame = numbers(spec, groups)
    return markdown(spec, "t", frame, []), latex(spec, "t", frame, [])


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
    """With a real TeX, where there is one (Debian: texlive-latex-recommended)."""
    pdflatex = shutil.which("pdflatex")
    if pdflatex is None:
        pytest.skip("pdflatex is not installed")
    tables = sorted((ROOT / "paper_tables" / "rendered" / "mini").glob("*.tex"))
    tables += sorted((ROOT / "tests" / "golden").glob("published.tex"))
    for table in tables:
        shutil.copy(table, tmp_path)
    body = "\n".join(rf"\input{{{table.name}}}" for table in tables)
    head = r"\documentclass[landscape]{article}\usepackage{booktabs,graphicx}\begin{document}\small"
    (tmp_path / "all.tex").write_text(f"{head}\n{body}\n\\end{{document}}\n", encoding="utf-8")
    command = [pdflatex, "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=200)
    assert ran.returncode == 0, ran.stdout[-2000:]
    assert (tmp_path / "all.pdf").stat().st_size > 10_000
    assert len(tables) > 10
