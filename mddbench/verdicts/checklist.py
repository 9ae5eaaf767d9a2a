"""What checklists of conferences ask of a paper, as far as records can answer it.

Source: the items of the NeurIPS paper checklist (2025). Their questions are shortened to a heading here.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path

from pydantic import Field

from mddbench.report.tables.markdown import escaped, markdown
from mddbench.report.tables.table import Cell, Column, Row, Table
from mddbench.runs.card import Setting
from mddbench.runs.events import read_events
from mddbench.runs.records import Record
from mddbench.settings import Strict, packaged, read_yaml, validated

YOURS = ("Claims", "Limitations", "Theory, assumptions and proofs", "Code of ethics", "Broader impacts", "Safeguards",
         "New assets", "Crowdsourcing and human subjects", "Approval by an institutional board", "Use of LLMs")  # fmt: skip
"""Items that no record answers."""
UNFINISHED = ("failed", "interrupted")
"""Events that end an attempt without a record."""


class Asset(Strict):
    """A dataset or a file of weights that somebody else has made."""

    name: str = Field(description="Its name.")
    licence: str | None = Field(description="Its licence; null if it was not found at the source.")
    citation: str = Field(description="What its authors ask to be cited.")


class Assets(Strict):
    """The content of assets.yaml."""

    datasets: dict[str, Asset] = Field(description="Name of a dataset -> what is known of it.")
    weights: dict[str, Asset] = Field(description="timm's name of an encoder -> what is known of its weights.")


def known_assets() -> Assets:
    """Return the licences and citations of datasets and weights."""
    file = packaged("verdicts") / "assets.yaml"
    return validated(Assets, read_yaml(file), "assets.yaml")


def checklist(records: Sequence[Record], cells: Iterable[Path] = ()) -> str:
    """Answer the items of a checklist.

    Args:
        records: The records of a paper's results, at least one.
        cells: Folders of cells, whose events say which attempts failed or were interrupted.

    Returns:
        Markdown, ready to paste.
    """
    parts = [
        ("Reproducibility of results", _reproducibility(records)),
        ("Open access to data and code", _access(records)),
        ("Experimental settings", _settings(records)),
        ("Statistical significance", _significance(records)),
        ("Compute resources", _compute(records, cells)),
        ("Licences of existing assets", _licences(records)),
        ("For you to answer", [f"- {item}" for item in YOURS]),
    ]
    return "\n".join(line for heading, lines in parts for line in (f"## {heading}", "", *lines, ""))


def _reproducibility(records: Sequence[Record]) -> Iterator[str]:
    sources = sorted({str(record.environment.get("source")) for record in records})
    versions = sorted({str(record.environment.get("mddbench")) for record in records})
    yield (
        f"{len(records)} cells by mddbench {', '.join(versions)}; digest of the code: {', '.join(sources)}. The same seed "
        "gives the same numbers, to the last bit on one kind of processor with the same number of threads."
    )
    settings = [record.card.setting for record in records]
    development = [setting for setting in settings if isinstance(setting, Setting) and setting.development]
    yield ""
    yield (
        f"Settings of {len(development)} of {len(records)} cells were chosen on the images that judge them (development "
        "data). No epoch is chosen on test images: each result is that of the last one."
    )
    yield ""
    rows = []
    for name, own in _by_experiment(records).items():
        seeds = ", ".join(str(seed) for seed in sorted(record.seed for record in own))
        rows.append([name, seeds, own[0].fingerprint[:16], own[0].protocol[:16]])
    yield _table("What was run", ["experiment", "seeds", "fingerprint of the images", "protocol"], rows)


def _access(records: Sequence[Record]) -> Iterator[str]:
    assets = known_assets().datasets
    for dataset in sorted({record.dataset for record in records}):
        known = assets.get(dataset)
        where = f"{known.name}: {known.citation}" if known else "images of your own: say where they can be had"
        yield f"- {escaped(dataset)}: {where}"
    yield "- The code is mddbench's, with the settings below. `mddbench bundle` puts records, packages and hashes in a folder."


def _settings(records: Sequence[Record]) -> Iterator[str]:
    rows = []
    for name, own in _by_experiment(records).items():
        settings = own[0].settings
        wanted = ("image_size", "batch_size", "epochs", "precision")
        optimizer = settings.get("optimizer") or {}
        encoder = settings.get("encoder") or {}
        rows.append([
            name,
            *(str(settings.get(key)) for key in wanted),
            " ".join(str(optimizer.get(key)) for key in ("name", "lr", "weight_decay")),
            f"{encoder.get('name')} ({str(own[0].card.encoder_sha256)[:16]})",
        ])
    headings = [
        "experiment",
        "image size",
        "batch",
        "epochs",
        "precision",
        "optimiser, rate, decay",
        "encoder (SHA-256)",
    ]
    yield _table("Settings", headings, rows)
    yield ""
    yield "`mddbench show EXPERIMENT` has all settings with their meanings; each record has them, too."


def _significance(records: Sequence[Record]) -> Iterator[str]:
    seeds = Counter(len(own) for own in _by_experiment(records).values())
    counts = ", ".join(f"{rows} with {number}" for number, rows in sorted(seeds.items()))
    resampled = sum(bool(record.confidence) for record in records)
    yield (
        f"Tables show the mean and the sample standard deviation over seeds (rows: {counts} seeds). A seed decides the "
        "initial weights, the order of the images and what a method draws; the images are the same. "
        f"{resampled} of {len(records)} records have 95 % bootstrap intervals over test images."
    )


def _compute(records: Sequence[Record], cells: Iterable[Path]) -> Iterator[str]:
    hours: dict[str, float] = defaultdict(float)
    untimed = 0
    for record in records:
        seconds = record.cost.get("train_seconds")
        machine = str(record.environment.get("device"))
        machine = str(record.environment.get("processor")) if machine == "cpu" else machine
        hours[machine] += (seconds or 0.0) / 3600
        untimed += seconds is None
    for machine, spent in sorted(hours.items()):
        yield f"- {escaped(machine)}: {spent:.2f} hours of training"
    if untimed:
        yield f"- {untimed} records have no time: they shared their device, or weights were not trained"
    folders = list(cells)
    attempts = [seconds for folder in folders for seconds in _unfinished(folder)]
    yield (
        f"- {len(attempts)} attempts failed or were interrupted, after {sum(attempts) / 3600:.2f} hours in all"
        if folders
        else "- attempts that failed are not in records; give the output folder of the runs by --out to count them"
    )


def _unfinished(folder: Path) -> Iterator[float]:
    """Yield the seconds of each attempt of a cell that failed or was interrupted."""
    started: datetime | None = None
    for event in read_events(folder):
        if event.kind == "started":
            started = event.when
        elif event.kind in UNFINISHED and started is not None:
            yield (event.when - started).total_seconds()
            started = None


def _licences(records: Sequence[Record]) -> Iterator[str]:
    assets = known_assets()
    datasets = {record.dataset: assets.datasets.get(record.dataset) for record in records}
    encoders = {str((record.settings.get("encoder") or {}).get("name")) for record in records} - {"none", "None"}
    weights = {name: assets.weights.get(name) for name in encoders}
    rows = []
    for name, asset in (*sorted(datasets.items()), *sorted(weights.items())):
        licence = (asset.licence or "not found at the source: ask the authors") if asset else "not known here"
        rows.append([name, licence, asset.citation if asset else ""])
    yield _table("Data and weights", ["asset", "licence", "to cite"], rows)


def _table(title: str, headings: list[str], rows: list[list[str]]) -> str:
    """Write a table of texts as Markdown. The first text of a row is its label."""
    columns = tuple(Column(heading, heading, "text") for heading in headings[1:])
    lines = tuple(Row(label, tuple(Cell(text) for text in texts)) for label, *texts in rows)
    return markdown(Table(title, headings[0], columns, lines)).rstrip()


def _by_experiment(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Return the records of each row, under the name of its experiment; rows of one experiment get numbers."""
    rows: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        rows[record.protocol].append(record)
    named: dict[str, list[Record]] = {}
    for own in sorted(rows.values(), key=lambda own: (own[0].experiment, own[0].protocol)):
        name, number = own[0].experiment, 1
        while name in named:
            number += 1
            name = f"{own[0].experiment} ({number})"
        named[name] = own
    return named
