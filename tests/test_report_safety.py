"""A report removes and overwrites nothing but its own files, and one bad record or picture takes nobody else's away."""

from __future__ import annotations

import csv
import io
import json
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mddbench.errors import InputError
from mddbench.report.build import build_report, trace
from mddbench.report.manifest import MANIFEST, Manifest
from mddbench.report.rows.entries import Entry
from mddbench.report.tables.csv import csv_text
from mddbench.report.tables.markdown import escaped
from mddbench.report.write import write_report, write_texts
from mddbench.runs.records import Record, as_json, parse_record, read_record, write_record
from support import ROOT, Done, record

Command = Callable[..., Done]


def entries(*records: Record) -> list[Entry]:
    return [Entry(one, tuple) for one in records]


def two(**changes: Any) -> list[Entry]:
    other = record(label="Other", method="other", protocol="b" * 12, **changes)
    return entries(record(), other)


# Whose files


@pytest.mark.parametrize("name", ["main.tex", "mini/main.tex", "thesis/cost.csv", "mini/training.png", "index.html"])
@pytest.mark.parametrize("tables", [True, False], ids=["tables", "all"])
def test_a_folder_of_others_files_is_refused(name: str, tables: bool, tmp_path: Path) -> None:
    """Before anything is written; whatever they are called."""
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("three years of work")
    write = write_texts if tables else write_report
    with pytest.raises(InputError, match=r"files or folders that no report wrote, .*; move it, render elsewhere"):
        write(build_report(two(), []), tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / name]
    assert (tmp_path / name).read_text() == "three years of work"


def test_what_somebody_put_beside_a_report_stays(tmp_path: Path) -> None:
    write_report(build_report(two(), []), tmp_path)
    mine = [
        tmp_path / "mini/my-main.tex",
        tmp_path / "notes.md",
        tmp_path / "other/main.tex",
        tmp_path / "mini/main.png",
    ]
    for file in mine:
        file.parent.mkdir(exist_ok=True)
        file.write_text("mine")
    elsewhere = record(dataset="folder", experiment="folder/rd4ad")
    write_report(build_report(entries(elsewhere), []), tmp_path)
    assert [file.read_text() for file in mine] == ["mine"] * 4
    assert (tmp_path / "folder/main.md").exists()
    assert not (tmp_path / "mini/main.md").exists(), "of an earlier report, which wrote it"


@pytest.mark.parametrize("name", ["mini/main.md", "mini/training.png", "mini/training.pdf", "index.html"])
def test_a_file_that_was_changed_is_not_overwritten(name: str, tmp_path: Path) -> None:
    write_report(build_report(two(), []), tmp_path)
    write_report(build_report(two(), []), tmp_path)  # its own
    (tmp_path / name).write_bytes(b"improved by hand")
    with pytest.raises(InputError, match=f"{name}: changed since a report wrote it; move it, .*--replace"):
        write_report(build_report(two(), []), tmp_path)
    assert (tmp_path / name).read_bytes() == b"improved by hand"
    write_report(build_report(two(), []), tmp_path, replace=True)
    assert (tmp_path / name).read_bytes() != b"improved by hand"
    write_report(build_report(two(), []), tmp_path)


def test_a_report_of_tables_does_not_take_others_pictures_for_its_own(tmp_path: Path) -> None:
    write_report(build_report(two(), []), tmp_path)
    (tmp_path / "mini/training.pdf").write_bytes(b"improved by hand")
    write_texts(build_report(two(), []), tmp_path)
    with pytest.raises(InputError, match=r"training\.pdf: changed since a report wrote it"):
        write_report(build_report(two(), []), tmp_path)


def test_a_table_that_was_changed_after_an_interrupted_report_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mddbench.report.write.draw_all", stop)
        with pytest.raises(KeyboardInterrupt):
            write_report(build_report(two(), []), tmp_path)
    (tmp_path / "mini/main.tex").write_text("improved by hand")
    with pytest.raises(InputError, match=r"main\.tex: changed since a report wrote it"):
        write_report(build_report(two(), []), tmp_path)


def test_a_run_is_refused_before_it_trains(command: Command, tmp_path: Path) -> None:
    (tmp_path / "out/report").mkdir(parents=True)
    (tmp_path / "out/report/main.tex").write_text("mine")
    ran = command("run", "mini/rd4ad", "--out", tmp_path / "out", "--tracking", "none")
    assert (ran.status, len(ran.err.splitlines())) == (2, 1)
    assert "no report wrote, 'main.tex' for one; move it" in ran.err


def test_a_report_beside_its_records_is_no_record(command: Command, tmp_path: Path) -> None:
    write_record(record(), tmp_path / "records/good.json")
    arguments = ["report", "--records", tmp_path / "records", "--to", tmp_path / "records/report", "--tables"]
    for _ in range(2):
        ran = command(*arguments)
        assert ran.status == 0
        assert "left out" not in ran.err
    assert command("regress", tmp_path / "records", tmp_path / "records").status == 0


def test_weights_that_others_trained_do_not_take_a_cells_file(
    command: Command, tmp_path: Path, fresh_store: Callable[[str], Path]
) -> None:
    out = fresh_store("out")
    other = record(
        identity="e" * 16, protocol="e" * 16, card={"setting": "one model", "learned_weights": "from a file"}
    )
    write_record(other, tmp_path / "records/other.json")
    assert command("import", tmp_path / "records", "--out", out).status == 0
    (tmp_path / "results/mini").mkdir(parents=True)
    assert command("export", tmp_path / "results", "--out", out).status == 0
    assert [file.name for file in (tmp_path / "results/mini").iterdir()] == ["rd4ad-seed0-eeeeeeee.json"]
    (tmp_path / "results/mini/rd4ad-seed0-eeeeeeee.json").write_text('{"notes": "mine"}')
    assert command("export", tmp_path / "results", "--out", out).status == 2
    assert "mine" in (tmp_path / "results/mini/rd4ad-seed0-eeeeeeee.json").read_text()


def test_a_changed_file_that_is_out_of_date_stays(tmp_path: Path) -> None:
    write_texts(build_report(two(), []), tmp_path)
    (tmp_path / "mini/main.tex").write_text("improved by hand")
    write_texts(build_report(entries(record(dataset="folder")), []), tmp_path)
    assert sorted(path.name for path in (tmp_path / "mini").iterdir()) == ["main.tex"]


def test_a_file_in_the_place_of_a_new_one_is_refused(tmp_path: Path) -> None:
    write_texts(build_report(entries(record()), []), tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/main.tex").write_text("mine")
    with pytest.raises(InputError, match=r"folder/main\.tex: not written by a report"):
        write_texts(build_report(entries(record(dataset="folder")), []), tmp_path)
    assert (tmp_path / "folder/main.tex").read_text() == "mine"
    assert (tmp_path / "mini/main.tex").exists()


def test_a_report_that_was_interrupted_can_be_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mddbench.report.write.draw_all", stop)
        with pytest.raises(KeyboardInterrupt):
            write_report(build_report(two(), []), tmp_path)
    assert (tmp_path / "mini/main.md").exists()
    write_report(build_report(two(), []), tmp_path)
    assert (tmp_path / "index.html").exists()


def test_hidden_files_are_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".gitkeep").touch()
    write_texts(build_report(two(), []), tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"version": 1, "files": {"../main.tex": []}}',
        '{"version": 1, "files": {"/etc/passwd": []}}',
        '{"version": 1, "files": {"a/../../b": []}}',
        '{"version": 1, "files": {"a": 5}}',
        '{"version": 1, "files": ["a"]}',
        '{"version": 2, "files": {}}',
    ],
)
def test_a_list_of_files_from_anywhere_leads_nowhere(content: str, tmp_path: Path) -> None:
    (tmp_path / "main.tex").write_text("mine")
    folder = tmp_path / "report"
    folder.mkdir()
    (folder / MANIFEST).write_text(content)
    with pytest.raises(InputError, match=r"report-files\.json: not the list of files that a report keeps"):
        write_texts(build_report(two(), []), folder)
    assert (tmp_path / "main.tex").read_text() == "mine"


def test_the_list_names_what_is_there(tmp_path: Path) -> None:
    write_report(build_report(two(), []), tmp_path)
    there = {path for path in tmp_path.rglob("*") if path.is_file() and not path.name.startswith(".")}
    assert Manifest(tmp_path).files == there - {tmp_path / MANIFEST}


def test_the_command_refuses_and_replaces(command: Command, tmp_path: Path) -> None:
    write_record(record(), tmp_path / "records/one.json")
    (tmp_path / "paper").mkdir()
    (tmp_path / "paper/main.tex").write_text("mine")
    arguments = ["report", "--records", tmp_path / "records", "--to", tmp_path / "paper", "--tables"]
    refused = command(*arguments)
    assert (refused.status, len(refused.err.splitlines())) == (2, 1)
    assert "--replace" in refused.err
    assert command(*arguments, "--replace").status == 0
    assert (tmp_path / "paper/main.tex").read_text() == "mine"
    assert command(*arguments).status == 0


# One bad record


def changed(**changes: Any) -> str:
    content = json.loads(as_json(record(seed=1)))
    for key, value in changes.items():
        content[key] = {**content[key], **value} if isinstance(value, dict) else value
    return json.dumps(content)


BAD = {
    "an absurd cost": changed(cost={"train_seconds": 1e308}),
    "a negative cost": changed(cost={"train_seconds": -1.0}),
    "a long label": changed(label="x" * 300),
    "an empty label": changed(label=""),
    "a long dataset": changed(dataset="x" * 300),
    "a long category": changed(metrics={"c" * 300: record().metrics["bolt"]}),
    "an absurd loss": changed(history=[{**record().history[0].model_dump(), "loss": 1e300}]),
    "an absurd epoch": changed(history=[{**record().history[0].model_dump(), "epoch": 10**30}]),
    "an absurd term": changed(history=[{**record().history[0].model_dump(), "terms": {"a": 1e308}}]),
    "a deep card": changed(card={"deep": json.loads("[" * 50 + "]" * 50)}),
    "an endless card": changed(card={"long": "x" * 10**6}),
    "an absurd setting": changed(settings={"lr": 1e308}),
    "an absurd seed": changed(seed=10**30),
    "cut short": changed()[:400],
    "no text": "\ud800",
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_record_is_left_out_and_told(name: str, command: Command, tmp_path: Path) -> None:
    write_record(record(), tmp_path / "records/good.json")
    (tmp_path / "records/bad.json").write_bytes(BAD[name].encode("utf-8", "surrogatepass"))
    ran = command("report", "--records", tmp_path / "records", "--to", tmp_path / "report")
    assert ran.status == 0, ran.err
    assert "| RD4AD | 1 |" in ran.out
    told = [line for line in ran.err.splitlines() if "left out" in line]
    assert len(told) == 1
    assert f"{tmp_path / 'records/bad.json'}: " in told[0]
    assert (tmp_path / "report/index.html").exists()


def test_a_bad_record_is_not_imported_and_others_are(
    command: Command, tmp_path: Path, fresh_store: Callable[[str], Path]
) -> None:
    out = fresh_store("out")
    write_record(record(), tmp_path / "records/good.json")
    (tmp_path / "records/bad.json").write_text(BAD["an absurd cost"])
    ran = command("import", tmp_path / "records", "--out", out)
    assert ran.status == 1
    assert "1 imported" in ran.err
    assert "mddbench: left out: " in ran.err
    assert command("report", "--out", out, "--tables").status == 0


def test_without_a_good_record_there_is_no_report(command: Command, tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    (tmp_path / "records/bad.json").write_text(BAD["a long label"])
    ran = command("report", "--records", tmp_path / "records", "--to", tmp_path / "report")
    assert ran.status == 2
    assert "no record there can be used" in ran.err.splitlines()[-1]


def test_a_gate_takes_no_bad_record(command: Command, tmp_path: Path) -> None:
    write_record(record(), tmp_path / "good/good.json")
    write_record(record(), tmp_path / "bad/good.json")
    (tmp_path / "bad/bad.json").write_text(BAD["an absurd cost"])
    assert command("regress", tmp_path / "bad", tmp_path / "good").status == 2


def test_a_broken_gallery_costs_its_runs_pictures_only(
    command: Command, tmp_path: Path, fresh_store: Callable[[str], Path], tree: Path
) -> None:
    out = fresh_store("out")
    arguments = ["run", "folder/rd4ad", "--data-root", tree, "--out", out, "--no-report", "--set", "epochs=1"]
    assert command(*arguments, "--set", "image_size=64", "--seeds", "0,1").status == 0
    kept = sorted(out.glob("mlruns/**/panels.npz"))
    for file in kept:
        file.write_bytes(file.read_bytes()[:100])
    ran = command("report", "--out", out)
    assert ran.status == 0, ran.err
    assert "| RD4AD | 2 |" in ran.out
    (told,) = [
        line for line in ran.err.splitlines() if "pictures left out" in line
    ]  # of the run that the pictures are of
    assert any(f"run {file.parent.parent.name}: pictures left out" in told for file in kept)
    for record_file in out.glob("cells/*/panels.npz"):
        record_file.write_bytes(b"broken")
    beside = command("report", "--records", out, "--to", tmp_path / "report")
    assert beside.status == 0, beside.err
    assert "panels.npz: cannot be read as panels" in beside.err
    assert (tmp_path / "report/index.html").exists()


ODD = [
    None,
    True,
    0,
    -1,
    10**18,
    -1e38,
    3e38,
    1e-300,
    "",
    "x" * 9000,
    "\x1b[31m",
    "a\nb",
    "<b>",
    "=1",
    [],
    {},
    [[]],
    {"a": {}},
]


@pytest.mark.renders
def test_no_record_that_is_taken_takes_a_report_away(tmp_path: Path) -> None:
    """Any value in any place of what is free: a record is refused in one line, or rendered with the others."""
    draw, taken = random.Random(0), 0
    committed = (ROOT / "results/mini/mddnet-seed0.json").read_text(encoding="utf-8")
    for number in range(160):
        content = json.loads(committed)
        content |= {"label": "Odd", "identity": "1" * 16, "protocol": "2" * 16}
        for _ in range(draw.randint(1, 3)):
            place = content[draw.choice(["card", "card", "settings", "environment", "cost"])]
            key = draw.choice(list(place))
            while isinstance(place[key], dict) and place[key] and draw.random() < 0.7:
                place = place[key]
                key = draw.choice(list(place))
            place[key] = draw.choice(ODD)
        try:
            odd = parse_record(json.dumps(content), "here")
        except InputError:
            continue
        taken += 1
        report = build_report([*entries(read_record(ROOT / "results/mini/rd4ad-seed0.json")), Entry(odd, tuple)], [])
        assert "RD4AD" in "".join(report.texts.values())
        trace(report)
        if number % 40 == 0:
            write_report(report, tmp_path / str(number))
    assert taken > 40


# Texts


@pytest.mark.parametrize("label", ["=HYPERLINK(1)", "+1", "-1", "@SUM(A1)", " =1+1", "\t=1"])
def test_no_text_is_a_formula(label: str, tmp_path: Path) -> None:
    other = record(label=label, method="other", protocol="b" * 12)
    report = build_report(entries(record(), other), [])
    texts = [text for name, text in report.texts.items() if name.suffix == ".csv"]
    assert len(texts) > 3
    cells = [cell for text in (*texts, trace(report)) for row in csv.reader(io.StringIO(text)) for cell in row]
    assert any(label.strip() in cell for cell in cells)
    for cell in cells:
        if cell.lstrip().startswith(("=", "+", "-", "@")):
            float(cell)  # a number may be negative


def test_numbers_stay_numbers() -> None:
    assert csv_text(-0.5) == -0.5
    assert csv_text("-0.5") == "'-0.5"
    assert csv_text("RD4AD") == "RD4AD"


@pytest.mark.parametrize(
    "text",
    [
        "<img src=x onerror=alert(1)>",
        "<script>",
        "[a](javascript:b)",
        "![a](http://b/c.png)",
        "&lt;b&gt;",
        "a|b",
        "a\\|b",
    ],
)
def test_markdown_holds_no_html_and_no_link(text: str) -> None:
    other = record(label=text, method="other", protocol="b" * 12, card={"setting": f"one model, {text}", "epochs": 3})
    report = build_report(entries(record(card=other.card), other), [])
    for name, written in report.texts.items():
        if name.suffix == ".md":
            assert "<img" not in written
            assert "<script" not in written
            assert "](" not in written
            assert "&lt;b&gt;" not in written
            rows = [line for line in written.splitlines() if line.startswith("|")]
            counts = {line.replace(r"\\", "").replace(r"\|", "").count("|") for line in rows}
            assert len(counts) <= 1
    assert escaped("RD4AD > 127 & more") == "RD4AD > 127 & more"


@pytest.mark.renders
def test_names_beyond_any_font_are_told_apart_in_pictures(tmp_path: Path) -> None:
    """And nothing warns, which would be an error here."""
    values = record().metrics["bolt"]
    names = ("螺丝", "螺母", "schüssel", "חור", "😀", "\U000e0001")
    odd = record(
        metrics={"mean": record().metrics["mean"], **dict.fromkeys(names, values)}, dataset="数据", label="方法"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, pictures = write_report(build_report(entries(odd), []), tmp_path)
    assert len(pictures) >= 3


@pytest.mark.renders
def test_a_sign_without_a_font_is_its_number(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from mddbench.report.figures import fonts
    from mddbench.report.figures.canvas import canvas, save

    monkeypatch.setattr(fonts, "_is_known", lambda sign: sign.isascii() or sign == "ü")
    figure, axes = canvas((3, 3))
    axes[0].set_yticks([0, 1], ["螺", "für"])
    axes[0].set_title("螺丝")
    save(figure, tmp_path / "a.png", vector=False)
    assert axes[0].get_title() == "\\u87ba\\u4e1d"
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["\\u87ba", "für"]
