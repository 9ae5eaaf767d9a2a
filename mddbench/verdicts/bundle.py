"""A bundle: records of a submission in one folder, with a list of hashes, that a script can accept or refuse.

records/<dataset>/<method>-seed<N>-<identity>.json    the records, as they were written
environment.txt                                       the installed packages, one a line, as pip takes them
tables.md                                             the main tables of these records
.eval_results/<dataset>-<method>-<protocol>.yaml      means over seeds, in the form that leaderboards gather
bundle.json                                           versions, and the SHA-256 of every other file
"""

from __future__ import annotations

import hashlib
import math
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from importlib.metadata import distributions
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from mddbench.data.fingerprint import file_sha256
from mddbench.errors import InputError
from mddbench.metrics.names import MAD, MEAN, SEVEN
from mddbench.metrics.suite import mean_over_categories
from mddbench.report.build import Report
from mddbench.runs.bounds import LONGEST_TEXT
from mddbench.runs.card import CARD_FIELDS, Role, Setting
from mddbench.runs.environment import source_digest
from mddbench.runs.records import Record, as_json, read_record
from mddbench.settings import Strict, read_json, validated
from mddbench.verdicts.eval_results import eval_results
from mddbench.version import VERSION

LIST, RECORDS, ENVIRONMENT, TABLES = "bundle.json", "records", "environment.txt", "tables.md"
MOST_FILES = 100_000
MOST_DIFFERENCE = 1e-12
"""Greatest difference of a record's mean from the mean of its categories."""
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
File = Annotated[str, Field(max_length=LONGEST_TEXT)]


class BundleList(Strict):
    """The content of bundle.json."""

    version: Literal[1] = Field(description="Version of this format.")
    mddbench: Annotated[str, Field(max_length=LONGEST_TEXT)] = Field(description="Version of mddbench that made it.")
    source: Annotated[str, Field(max_length=LONGEST_TEXT)] = Field(description="Digest of the code that made it.")
    by: Annotated[str, Field(max_length=LONGEST_TEXT)] = Field("", description="Who submits it.")
    url: Annotated[str, Field(max_length=LONGEST_TEXT)] = Field("", description="Where more can be read.")
    files: Annotated[dict[File, Sha256], Field(max_length=MOST_FILES)] = Field(
        description="Each other file of the folder -> its SHA-256."
    )


def write_bundle(records: Sequence[Record], report: Report, folder: Path, by: str = "", url: str = "") -> list[Path]:
    """Write a bundle.

    Args:
        records: The records, one a cell.
        report: The report of these records, whose main tables are written.
        folder: The folder, which must not exist or be empty.
        by: Who submits it.
        url: Where more can be read.

    Returns:
        The files.

    Raises:
        InputError: If the folder holds anything, or cannot be written.
    """
    texts = {_name(record): as_json(record) for record in records}
    texts |= eval_results(records, by, url) | {TABLES: "\n".join(report.main.values()), ENVIRONMENT: _installed()}
    hashes = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in sorted(texts.items())}
    content = BundleList(version=1, mddbench=VERSION, source=source_digest(), by=by, url=url, files=hashes)
    texts[LIST] = content.model_dump_json(indent=1) + "\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise InputError(f"{folder}: expected an empty folder for the bundle; give another one")
        for name, text in texts.items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8", newline="\n")
    except OSError as fault:
        raise InputError(f"{folder}: cannot be written ({fault.strerror})") from None
    return [folder / name for name in texts]


def bundle_faults(folder: Path) -> list[str]:
    """Check a bundle from any origin.

    An InputError is raised if the folder holds no list that can be read, or if the list is not valid.

    Args:
        folder: The folder.

    Returns:
        A line for each reason to refuse it; none if it is sound.
    """
    listed = read_bundle(folder)
    faults = list(_file_faults(folder, listed))
    return faults or list(_record_faults(folder, listed))


def read_bundle(folder: Path) -> BundleList:
    """Read the list of a bundle. An InputError is raised if there is none that can be read, or if it is not valid."""
    file = folder / LIST
    return validated(BundleList, read_json(file, "the list of a bundle"), str(file))


def _name(record: Record) -> str:
    return f"{RECORDS}/{record.dataset}/{record.method}-seed{record.seed}-{record.identity[:16]}.json"


def _installed() -> str:
    """The installed packages as 'name==version', one a line, sorted."""
    packages = {f"{found.metadata['Name']}=={found.version}" for found in distributions()}
    return "".join(f"{package}\n" for package in sorted(packages, key=str.lower))


def _file_faults(folder: Path, listed: BundleList) -> Iterator[str]:
    """Compare the files of the folder with the list."""
    present = set()
    for parent, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(parent) / name
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                yield f"{path}: neither a file nor a folder; a bundle holds nothing else"
        present |= {(Path(parent) / name).relative_to(folder).as_posix() for name in names}
    for name in sorted(present - {LIST, *listed.files}):
        yield f"{folder / name}: not in {LIST}"
    for name, expected in listed.files.items():
        if name not in present:
            yield f"{folder / name}: in {LIST}, but missing"
        elif not (folder / name).is_symlink() and _hash(folder / name) != expected:
            yield f"{folder / name}: has another SHA-256 than {LIST} says"


def _hash(file: Path) -> str:
    try:
        return file_sha256(file)
    except InputError:
        return ""


def _record_faults(folder: Path, listed: BundleList) -> Iterator[str]:
    """Check the records: whether each is valid, measured under the standard setting, and fits the others."""
    cells: dict[str, str] = {}
    rows: dict[str, list[Record]] = defaultdict(list)
    files = [name for name in listed.files if name.startswith(f"{RECORDS}/")]
    if not files:
        yield f"{folder}: no record in {RECORDS}/"
    for name in files:
        try:
            record = read_record(folder / name)
        except InputError as fault:
            yield str(fault)
            continue
        yield from (f"{folder / name}: {fault}" for fault in _faults_of(record))
        if record.identity in cells:
            yield f"{folder / name}: the same cell as {cells[record.identity]}"
        cells[record.identity] = name
        rows[record.protocol].append(record)
    for records in rows.values():
        seeds = [record.seed for record in records]
        if len(set(seeds)) < len(seeds):
            yield f"{folder}: {records[0].experiment}: several records of one seed"
        if len({record.fingerprint for record in records}) > 1:
            yield f"{folder}: {records[0].experiment}: its seeds were measured on different images"


def _faults_of(record: Record) -> Iterator[str]:
    """Say what keeps a record out of a comparison with others."""
    setting = record.card.setting
    if isinstance(setting, Setting):
        if setting.held_out or setting.fabricated or setting.development:
            yield f"measured under '{setting}', which is no test on the dataset's own images"
    else:
        yield "the protocol card does not say how many models were trained, on which images"
    needed = [name for name, field in CARD_FIELDS.items() if field.role is Role.TASK]
    unknown = [CARD_FIELDS[name].label for name in needed if name in ALWAYS and getattr(record.card, name) is None]
    if unknown:
        yield f"the protocol card does not say {', '.join(unknown)}"
    means = mean_over_categories({
        category: {key: record.value(category, key) for key in SEVEN} for category in record.categories
    })
    for key in (*SEVEN, MAD.key):
        own, expected = record.value(MEAN, key), means[key]
        if math.isnan(own) != math.isnan(expected) or abs(own - expected) > MOST_DIFFERENCE:
            yield f"the mean of {key} is {own!r}, but that of its categories is {expected!r}"


ALWAYS = frozenset({
    "setting",
    "epochs",
    "image_size",
    "interpolation",
    "mask_rule",
    "selection",
    "metrics",
    "precision",
})
"""Fields of the card that every method has."""
