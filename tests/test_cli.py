"""The command, run as its users run it: in processes of its own."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mddbench.errors import InputError
from mddbench.runs.leases import leased
from mddbench.runs.records import Record, read_record, write_record
from mddbench.runs.store import MlflowStore
from support import YAML, mddbench

Make = Callable[[str], Path]


def own(folder: Path, name: str, **changes: str) -> Path:
    """An experiment file with some lines changed."""
    text = YAML
    for key, line in changes.items():
        text = "\n".join(line if old.startswith(f"{key}:") else old for old in text.splitlines())
    file = folder / f"{name}.yaml"
    file.write_text(text)
    return file


def only_record(out: Path) -> Record:
    (file,) = out.glob("cells/*/record.json")
    return read_record(file)


def runs(out: Path) -> list[Any]:
    return MlflowStore(f"sqlite:///{out / 'mlflow.db'}", None).search("tags.`mddbench.kind` = 'cell'")


@pytest.mark.renders
def test_a_run_from_beginning_to_end(tree: Path, tmp_path: Path, fresh_store: Make) -> None:
    out, file = fresh_store("out"), own(tmp_path, "own")
    ran = mddbench("run", file, "--data-root", tree, "--out", out)
    assert ran.returncode == 0, ran.stderr
    assert "| RD4AD | 1 |" in ran.stdout
    for said in ("training: 9/9 epoch 3/3 loss", "images/s", "report/tree/main.md", "report/index.html", "mlflow ui"):
        assert said in ran.stderr
    for name in ("main.md", "main.tex", "main.csv", "categories-rd4ad.md", "gallery-rd4ad.png"):
        assert (out / "report" / "tree" / name).stat().st_size > 0
    record = only_record(out)
    assert record.categories == ["bolt", "nut"]
    assert record.card.selection == "last epoch"
    assert [log.epoch for log in record.history] == [1, 2, 3]

    (run,) = runs(out)
    client = MlflowStore(f"sqlite:///{out / 'mlflow.db'}", None).client
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "rd4ad/folder/seed0"
    assert run.data.params["optimizer.lr"] == "0.005"
    assert run.data.metrics["mean/i_auroc"] == pytest.approx(record.value("mean", "i_auroc"))
    assert not [key for key in run.data.metrics if key.startswith("bolt")]
    assert len(client.get_metric_history(run.info.run_id, "train/loss")) == 3
    assert run.inputs.dataset_inputs[0].dataset.digest == record.fingerprint[:32]
    assert "mlflow.parentRunId" not in run.data.tags
    assert {entry.path for entry in client.list_artifacts(run.info.run_id)} == {
        "record.json",
        "card.json",
        "categories.json",
        "panels.npz",
        "scores.npz",
        "gallery.png",
    }

    again = mddbench("run", file, "--data-root", tree, "--out", out, "--no-report")
    assert again.returncode == 0
    assert "skipped, finished before" in again.stderr
    assert "training:" not in again.stderr
    assert len(runs(out)) == 1


def test_seeds_and_repeats(tree: Path, tmp_path: Path) -> None:
    file, records = own(tmp_path, "own"), []
    for out in (tmp_path / "a", tmp_path / "b"):
        ran = mddbench(
            "run",
            file,
            "--data-root",
            tree,
            "--out",
            out,
            "--tracking",
            "none",
            "--seeds",
            "3,4",
            "--quiet",
        )
        assert ran.returncode == 0, ran.stderr
        records.append({r.seed: r for r in map(read_record, out.glob("cells/*/record.json"))})
    assert "| RD4AD | 2 |" in ran.stdout
    assert "±" in ran.stdout
    first, second = records
    for seed in (3, 4):
        assert first[seed].deterministic() == second[seed].deterministic()
    assert first[3].model_sha256 != first[4].model_sha256
    assert first[3].metrics != first[4].metrics
    assert first[3].protocol == first[4].protocol


def test_an_interrupted_run_says_that_it_goes_on(tree: Path, tmp_path: Path) -> None:
    file, out = own(tmp_path, "own", epochs="epochs: 4000"), tmp_path / "out"
    command = [
        str(Path(sys.executable).with_name("mddbench")),
        "run",
        str(file),
        "--data-root",
        str(tree),
        "--out",
        str(out),
    ]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    process = subprocess.Popen([*command, "--tracking", "none"], stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, before)
    with process:
        deadline = time.monotonic() + 120
        while not list(out.glob("cells/*/checkpoint.pt")) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.splitlines()[-1] == "mddbench: interrupted; the same command goes on where it stopped"
    assert "Traceback" not in said


def test_a_killed_run_resumes_to_the_same_record(tree: Path, tmp_path: Path, fresh_store: Make) -> None:
    file = own(tmp_path, "own", epochs="epochs: 40")
    undisturbed, killed = tmp_path / "undisturbed", fresh_store("killed")
    arguments = ["run", file, "--data-root", tree, "--quiet", "--no-report"]
    assert mddbench(*arguments, "--out", undisturbed, "--tracking", "none").returncode == 0

    command = [str(Path(sys.executable).with_name("mddbench")), *map(str, arguments), "--out", str(killed)]
    with subprocess.Popen(command) as process:
        deadline = time.monotonic() + 120
        while not list(killed.glob("cells/*/checkpoint.pt")) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not list(killed.glob("cells/*/record.json")), "killed too late to show anything"
    assert list(killed.glob("cells/*/checkpoint.pt"))

    ran = mddbench("run", file, "--data-root", tree, "--out", killed, "--no-report")
    assert ran.returncode == 0, ran.stderr
    assert "resuming after epoch" in ran.stderr
    assert only_record(killed).deterministic() == only_record(undisturbed).deterministic()
    (run,) = runs(killed)
    assert run.info.status == "FINISHED"
    history = MlflowStore(f"sqlite:///{killed / 'mlflow.db'}", None).client.get_metric_history(
        run.info.run_id, "train/loss"
    )
    assert sorted(point.step for point in history) == list(range(1, 41))


def test_a_failed_cell_does_not_stop_the_others(tree: Path, tmp_path: Path, fresh_store: Make) -> None:
    out = fresh_store("out")
    bad = own(tmp_path, "bad", optimizer="optimizer: {name: sgd, lr: 100, weight_decay: 10}")
    good = own(tmp_path, "good", epochs="epochs: 1")
    ran = mddbench("run", bad, good, "--data-root", tree, "--out", out, "--json", "--quiet", "--no-report")
    assert ran.returncode == 1
    outcomes = json.loads(ran.stdout)
    assert [outcome["status"] for outcome in outcomes] == ["failed", "finished"]
    assert "loss is nan" in outcomes[0]["message"] or "loss is inf" in outcomes[0]["message"]
    assert outcomes[0]["record"] is None
    assert read_record(Path(outcomes[1]["record"])).experiment == "good"
    assert f"rd4ad/folder/seed0 failed: {outcomes[0]['message']}" in ran.stderr
    assert "1 of 2 cells failed" in ran.stderr
    assert sorted(run.info.status for run in runs(out)) == ["FAILED", "FINISHED"]


def test_cells_are_told_whatever_becomes_of_the_report(tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "report").write_text("a file, where the report's folder should be")
    bad = own(tmp_path, "bad", optimizer="optimizer: {name: sgd, lr: 100, weight_decay: 10}")
    good = own(tmp_path, "good", epochs="epochs: 1")
    ran = mddbench("run", bad, good, "--data-root", tree, "--out", out, "--json", "--quiet", "--tracking", "none")
    assert ran.returncode == 2
    assert [outcome["status"] for outcome in json.loads(ran.stdout)] == ["failed", "finished"]
    assert "1 of 2 cells failed" in ran.stderr
    assert f"mddbench: {out / 'report'}" in ran.stderr.splitlines()[-1]


def test_records_go_out_and_come_back(tree: Path, tmp_path: Path) -> None:
    file, first, second = own(tmp_path, "own", epochs="epochs: 1"), tmp_path / "first", tmp_path / "second"
    ran = mddbench("run", file, "--data-root", tree, "--out", first, "--tracking", "none", "--quiet", "--no-report")
    assert ran.returncode == 0, ran.stderr
    imported = mddbench("import", first, "--out", second)
    assert imported.returncode == 0, imported.stderr
    assert "1 imported, 0 already there" in imported.stderr
    assert "0 imported, 1 already there" in mddbench("import", first / "cells", "--out", second).stderr
    exported = mddbench("export", tmp_path / "results", "--out", second)
    assert exported.stdout.strip() == str(tmp_path / "results" / "folder" / "rd4ad-seed0.json")
    assert read_record(Path(exported.stdout.strip())) == only_record(first)

    only = only_record(first)
    variant = only.model_copy(update={"experiment": "ablation/x: y", "identity": "f" * 16, "protocol": "e" * 16})
    write_record(variant, tmp_path / "variants" / "one.json")
    assert mddbench("import", tmp_path / "variants", "--out", tmp_path / "third").returncode == 0
    exported = mddbench("export", tmp_path / "more", "--out", tmp_path / "third")
    assert exported.stdout.strip().endswith("rd4ad-seed0-eeeeeeee.json"), "the plain name is not a variant's"

    report = mddbench("report", "--records", tmp_path / "results", "--to", tmp_path / "rendered", "--tables")
    assert report.stdout == mddbench("report", "--out", second, "--tables").stdout
    check = ["report", "--records", tmp_path / "results", "--to", tmp_path / "rendered", "--check"]
    assert mddbench(*check).returncode == 0
    table = tmp_path / "rendered" / "tree" / "main.md"
    table.write_text(table.read_text().replace("RD4AD", "Ours"))
    stale = mddbench(*check)
    assert stale.returncode == 1
    assert "-| Ours | 1" in stale.stdout


def test_force_runs_a_finished_cell_again(tree: Path, tmp_path: Path) -> None:
    file, out = own(tmp_path, "own", epochs="epochs: 1"), tmp_path / "out"
    arguments = [
        "run",
        file,
        "--data-root",
        tree,
        "--out",
        out,
        "--tracking",
        "none",
        "--json",
        "--quiet",
        "--no-report",
    ]
    assert json.loads(mddbench(*arguments).stdout)[0]["status"] == "finished"
    first = only_record(out)
    assert json.loads(mddbench(*arguments).stdout)[0]["status"] == "skipped"
    assert json.loads(mddbench(*arguments, "--force").stdout)[0]["status"] == "finished"
    assert only_record(out).deterministic() == first.deterministic()
    shutil.rmtree(tree / "nut")
    assert json.loads(mddbench(*arguments).stdout)[0]["status"] == "finished", "other data is another cell"
    assert len(list(out.glob("cells/*/record.json"))) == 2


def test_holding_out_reads_no_test_image(tree: Path, tmp_path: Path) -> None:
    file, out = own(tmp_path, "own", epochs="epochs: 1"), tmp_path / "out"
    arguments = ["run", file, "--data-root", tree, "--out", out, "--tracking", "none", "--quiet", "--no-report"]
    assert mddbench(*arguments, "--held-out").returncode == 0
    record = only_record(out)
    assert record.card.shown("setting") == "one model for 2 categories, held out"
    assert record.history[0].images == 8
    assert mddbench(*arguments).returncode == 0
    fingerprints = {r.fingerprint for r in map(read_record, out.glob("cells/*/record.json"))}
    assert len(fingerprints) == 2


@pytest.mark.renders
def test_an_ablation_of_ones_own(tree: Path, tmp_path: Path) -> None:
    base, out = own(tmp_path, "base", epochs="epochs: 1"), tmp_path / "out"
    file = tmp_path / "widths.yaml"
    file.write_text(f"title: Width\nbase: {base}\nvary:\n  settings.bottleneck_width: [64, 128]\n")
    arguments = ["run", file, "--data-root", tree, "--out", out]
    ran = mddbench(*arguments, "--tracking", "none", "--quiet")
    assert ran.returncode == 0, ran.stderr
    assert "### Width: RD4AD on tree, one model for 2 categories" in ran.stdout
    assert (out / "report/tree/ablation-widths.png").stat().st_size > 10_000
    names = sorted(read_record(each).experiment for each in out.glob("cells/*/record.json"))
    assert names == ["ablation/widths: 64", "base"]  # 128 is what the base has
    drawn = mddbench("report", "--records", out, "--to", tmp_path / "again", "--ablation", file, "--tables")
    assert drawn.returncode == 0, drawn.stderr
    tables = [folder / "tree/ablation-widths.md" for folder in (out / "report", tmp_path / "again")]
    assert tables[0].read_text() == tables[1].read_text()
    later = mddbench("run", base, "--data-root", tree, "--out", out, "--tracking", "none", "--seeds", "1", "--quiet")
    assert later.returncode == 0, later.stderr
    assert "### Width" in later.stdout
    assert tables[0].exists(), "a report of a later run has it still"
    clash = mddbench(*arguments, "--set", "settings.bottleneck_width=32")
    assert clash.returncode == 2
    assert "varies settings.bottleneck_width; leave one of them out" in clash.stderr


def test_cells_that_differ_in_evaluation_only_share_one_training(tree: Path, tmp_path: Path) -> None:
    file, out = own(tmp_path, "own", method="method: mddnet", epochs="epochs: 1"), tmp_path / "out"
    arguments = ["run", file, "--data-root", tree, "--out", out, "--tracking", "none", "--no-report"]
    assert "training:" in mddbench(*arguments).stderr
    (out / "cells/aaa").mkdir()
    (out / "cells/aaa/model.safetensors").write_bytes(b"no model")  # is passed over
    other = mddbench(*arguments, "--set", "settings.scoring.signals=[decoders]")
    assert other.returncode == 0, other.stderr
    assert "mddnet/folder/seed0: trained before, as folder-mddnet-seed0-" in other.stderr
    assert "training:" not in other.stderr
    first, second = (read_record(each) for each in sorted(out.glob("cells/*/record.json")))
    assert first.model_sha256 == second.model_sha256
    sharing = [one for one in (first, second) if "trained_as" in one.environment]
    assert len(sharing) == 1
    assert first.cost["train_seconds"] == second.cost["train_seconds"]
    assert first.metrics != second.metrics
    assert first.history == second.history
    for again in (
        ["--set", "settings.memory.items=4"],
        ["--seeds", "1"],
        ["--set", "settings.scoring.sigma=2", "--force"],
    ):
        assert "training:" in mddbench(*arguments, *again).stderr
    alone = tmp_path / "alone"
    fresh = [*arguments[:5], alone, *arguments[6:], "--set", "settings.scoring.signals=[decoders]", "--quiet"]
    assert mddbench(*fresh).returncode == 0
    (shared,) = (one for one in (first, second) if one.identity == only_record(alone).identity)
    assert only_record(alone).deterministic() == shared.deterministic()


def test_intervals_and_the_engine_reach_records_and_report(tree: Path, tmp_path: Path) -> None:
    file, out = own(tmp_path, "own", epochs="epochs: 1"), tmp_path / "out"
    arguments = ["run", file, "--data-root", tree, "--out", out, "--tracking", "none", "--quiet"]
    assert mddbench(*arguments).returncode == 0
    assert only_record(out).confidence == {}
    assert only_record(out).card.metrics == "exact-1"
    again = mddbench(*arguments[:-1], "--bootstrap", "100")
    assert "finished before, without confidence intervals; --force runs it again" in again.stderr
    assert not (out / "report" / "tree" / "confidence.md").exists()
    assert mddbench(*arguments, "--bootstrap", "100", "--force").returncode == 0
    record = only_record(out)
    low, high = record.confidence["mean"]["aupro"] or (1.0, 0.0)
    assert low < high
    table = (out / "report" / "tree" / "confidence.md").read_text()
    assert f"[{100 * low:.1f}, {100 * high:.1f}]" in table
    assert mddbench(*arguments, "--set", "metrics=histogram").returncode == 0
    coarse = next(r for r in map(read_record, out.glob("cells/*/record.json")) if r.card.metrics == "histogram-2")
    assert coarse.identity != record.identity
    assert coarse.metrics["mean"]["i_ap"] == record.metrics["mean"]["i_ap"]
    assert coarse.bounds["bolt"]["aupro"] is not None
    # Metrics of two engines do not share a table.
    tables = [file.read_text() for file in sorted((out / "report").glob("tree*/main.md"))]
    assert ["certified intervals of the values" in text for text in tables] == [False, True]
    wrong = mddbench(*arguments, "--set", "metrics=fast")
    assert wrong.returncode == 2
    assert "'metrics' is 'fast'" in wrong.stderr


def test_the_plan_needs_neither_data_nor_weights(tmp_path: Path) -> None:
    ran = mddbench("run", "--all", "--dry-run", "--out", tmp_path / "out", "--json")
    assert ran.returncode == 0, ran.stderr
    rows = json.loads(ran.stdout)
    assert [row["experiment"] for row in rows] == ["mini/rd4ad", "mini/mddnet", "mini/uniad"]
    assert all(row["train_images"] == 192 and row["hours"] > 0 for row in rows)
    assert not (tmp_path / "out").exists()
    text = mddbench("run", "mini/rd4ad", "--dry-run", "--seeds", "0,1", "--out", tmp_path / "out").stdout
    assert "2 cells, about" in text
    assert "one after the other" in text


def test_listing_and_checking() -> None:
    names = json.loads(mddbench("list", "--json").stdout)
    assert {"rd4ad"} <= set(names["methods"])
    assert {"mvtec", "folder", "mini"} <= set(names["datasets"])
    lines = mddbench("list", "suites").stdout.splitlines()
    assert [line.split()[0] for line in lines] == sorted(names["suites"])
    assert all("  " in line for line in lines)  # each has a line about it
    everything = mddbench("list").stdout
    for kind, members in names.items():
        assert f"{kind}:\n" in everything
        assert {line.split()[0] for line in everything.splitlines()} >= set(members)
    assert re.search(r"\n  patchcore +PatchCore: the distance of a patch's features", everything)
    assert re.search(r"btad/patchcore +as mvtec/patchcore\n", everything)
    checked = mddbench("check")
    assert checked.returncode == 0
    assert "0 at fault" in checked.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "name experiments (as in mini/rd4ad) or give --all"),
        (["run", "--all", "mini/rd4ad"], "and not both"),
        (["run", "mini/rd4da"], "did you mean 'mini/rd4ad'?"),
        (["run", "mini"], "'mini', which is a dataset; name a method of it, such as mini/"),
        (["run", "rd4ad"], "'rd4ad', which is a method; name a dataset, too, such as folder/rd4ad"),
        (["run", "quick"], "'quick', which is a suite; run it by --all --suite quick"),
        (["run", "mini/rd4ad", "epochs=1"], "unknown experiment 'epochs=1'; a setting is changed by --set epochs=1"),
        (
            ["run", "mini/rd4ad", "--epochs", "1"],
            "--epochs: no option of `mddbench run`; a setting is changed by --set",
        ),
        (["run", "mini/rd4ad", "--lr", "1"], "a setting is changed by --set optimizer.lr=VALUE"),
        (["run", "mini/rd4ad", "--al"], "No such option: --al"),
        (["run", "mini/rd4ad", "--jobs", "x"], "Invalid value for '--jobs'"),
        (["rum"], "No such command 'rum'"),
        (["cell"], "Missing argument"),
        (["run", "mini/rd4ad", "--device", "gpu"], "--device gpu: not usable here (expected auto, cpu, cuda, cuda:1"),
        (["run", "mvtec/rd4ad", "--tracking", "none"], "mvtec: its images are not part of mddbench"),
        (["run", "mini/rd4ad", "--seeds", "0,x"], "--seeds 0,x: expected different whole numbers"),
        (["run", "mini/rd4ad", "--seeds", "1,1"], "--seeds 1,1: expected different whole numbers"),
        (["run", "mini/rd4ad", "--set", "epoch=2"], "unknown key 'epoch' (did you mean 'epochs'?)"),
        (["run", "mini/rd4ad", "--set", "settings.sigm=2"], "settings: unknown key 'sigm' (did you mean 'sigma'?)"),
        (["run", "mini/rd4ad", "--device", "cuda:77"], "--device cuda:77: not usable here"),
        (["run", "mini/rd4ad", "--suite", "paper"], "--suite paper goes with --all"),
        (["run", "mini/rd4ad", "--tracking", "none", "--out", "/dev/null/x"], "/dev/null/x/cache"),
        (["run", "mini/rd4ad", "--tracking", "wandb"], "--tracking wandb: expected mlflow or none"),
        (["run", "mini/rd4ad", "--device", "meta"], "--device meta: not usable here"),
        (["run", "mini/rd4ad", "--set", "name=other"], "'name' is filled in on loading"),
        (["run", "mini/rd4ad", "--set", "image_size=100"], "image_size 100 does not fit; use a multiple of 32"),
        (["run", "mini/rd4ad", "--set", "encoder.levels=[1, 2]"], "expected an encoder with three levels"),
        (["run", "mini/rd4ad", "--set", "settings.bottleneck_width=1"], "bottleneck_width 1 leaves no channel"),
        (["run", "mini/rd4ad", "--set", "gradient_clip=.inf"], "'gradient_clip' is"),
        (["run", "nothing.yaml"], "nothing.yaml: cannot be read (No such file or directory)"),
        (["list", "method"], "did you mean 'methods'?"),
        (["data", "check", "mvtek"], "unknown dataset 'mvtek' (did you mean 'mvtec'?)"),
        (["report", "--out", "nowhere"], "no such store"),
        (["report", "--records", "nowhere"], "nowhere: no records there"),
        (["import", "nowhere"], "nowhere: no records there"),
    ],
)
def test_usage_errors_are_one_line_and_status_two(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from mddbench.cli.main import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["mddbench", *arguments, *(["--quiet"] if arguments[0] == "run" else [])])
    with pytest.raises(SystemExit) as ended:
        main()
    lines = capsys.readouterr().err.strip().splitlines()
    assert ended.value.code == 2
    assert len(lines) == 1
    assert message in lines[0]


def test_a_command_without_arguments_shows_its_help() -> None:
    for words in ((), ("data",)):
        ran = mddbench(*words)
        assert ran.returncode == 2
        assert "Commands" in ran.stdout + ran.stderr or "Train and evaluate" in ran.stdout + ran.stderr


def test_help_has_its_options_in_groups() -> None:
    """Each command and each option of `run` is in one of them; what most options of a group share is its heading."""
    text = mddbench("--help", COLUMNS="120").stdout
    for heading, name in (("Train and evaluate", "run"), ("Use a model", "predict"), ("Results", "report")):
        assert re.search(rf"{heading} ─.*?│ {name} ", text, re.DOTALL), heading
    text = mddbench("run", "--help", COLUMNS="120").stdout
    headings = re.findall(r"╭─ ([A-Z][a-z ]+) ─", text)
    assert sorted(headings) == sorted([
        "Arguments", "Options", "Which cells", "Data and weights", "Evaluation", "Machine and speed", "Output",
    ])  # fmt: skip
    assert re.findall(r"│ (--\S+)", text.partition("─ Options ─")[2].partition("╰")[0]) == ["--cluster", "--help"]


def test_a_store_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("this is not a database, and long enough to be seen as none" * 50)
    with pytest.raises(InputError, match="cannot be opened"):
        MlflowStore(f"sqlite:///{tmp_path / 'mlflow.db'}", None)
    (tmp_path / "mlruns").mkdir()
    with pytest.raises(InputError, match="cannot be opened"):
        MlflowStore(str(tmp_path / "mlruns"), None)


def test_two_starts_at_once_make_one_store(tmp_path: Path) -> None:
    code = (
        f"from mddbench.runs.store import *; MlflowStore('sqlite:///{tmp_path / 'new' / 'mlflow.db'}', None).search('')"
    )
    both = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert [path.name for path in (tmp_path / "new").iterdir() if path.suffix == ".db"] == ["mlflow.db"]


def test_names_that_mlflow_does_not_take(tree: Path, tmp_path: Path, fresh_store: Make) -> None:
    (tree / "nut").rename(tree / "nut (big) $50% | Ä")
    out, file = fresh_store("out"), own(tmp_path, "own", epochs="epochs: 1")
    ran = mddbench("run", file, "--data-root", tree, "--out", out)
    assert ran.returncode == 0, ran.stderr
    (run,) = runs(out)
    table = json.loads((Path(run.info.artifact_uri.removeprefix("file://")) / "categories.json").read_text())
    assert [row[0] for row in table["data"]] == ["bolt", "nut (big) $50% | Ä"]
    assert table["data"][1][1] == only_record(out).value("nut (big) $50% | Ä", "i_auroc")
    assert (out / "report" / "tree" / "gallery-rd4ad.png").exists()


def test_a_cell_is_run_by_one_process_at_a_time(tree: Path, tmp_path: Path) -> None:
    file, out = own(tmp_path, "own", epochs="epochs: 1"), tmp_path / "out"
    arguments = ["run", file, "--data-root", tree, "--out", out, "--tracking", "none", "--quiet", "--no-report"]
    assert mddbench(*arguments).returncode == 0
    (folder,) = (record.parent for record in out.glob("cells/*/record.json"))
    with leased(folder):
        ran = mddbench(*arguments, "--force")
    assert ran.returncode == 1
    assert "another process is running it" in ran.stderr


def test_no_colour_and_no_bar_off_a_terminal(tmp_path: Path) -> None:
    ran = mddbench("data", "check", "mini", "--out", tmp_path / "out")
    assert ran.returncode == 0
    assert "\x1b" not in ran.stdout + ran.stderr
    assert "checking images: 448/448" in ran.stderr
