"""Tables from records: numbers first (a frame), then their text in Markdown, LaTeX and CSV."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pandas as pd

from mddbench.metrics.names import LABELS, MAD, SEVEN
from mddbench.records import UPPER_BOUND, Record
from mddbench.report.spec import TableSpec

CARD_ROWS = (
    "epochs",
    "batch_size",
    "image_size",
    "encoder",
    "precision",
    "test_labels",
    "image_score",
    "selection",
    "metrics",
)
MEAN = "mean"
MARK = ", test labels given (upper bound)"


@dataclass(frozen=True)
class Group:
    """The seeds of one protocol: a row of a table. label: the method, and what tells it apart where that is needed."""

    label: str
    records: tuple[Record, ...]

    @property
    def first(self) -> Record:
        return self.records[0]


def group_by_protocol(records: Iterable[Record]) -> dict[str, list[Group]]:
    """Dataset -> groups, in the order of labels; records of one protocol share a group, and nothing else does.

    Two trees read as one dataset (their fingerprints differ) are two datasets here: 'folder-0123abcd'. Two protocols of one
    method are told apart by their experiment, then by what `--set` changed, then by the protocol's hash.
    """
    protocols: dict[tuple[str, str], list[Record]] = {}
    records = list(records)
    trees = {(record.dataset, record.fingerprint) for record in records}
    shared = {dataset for dataset, _ in trees if sum(other == dataset for other, _ in trees) > 1}
    for record in records:
        place = f"{record.dataset}-{record.fingerprint[:8]}" if record.dataset in shared else record.dataset
        protocols.setdefault((place, record.protocol), []).append(record)
    by_dataset: dict[str, list[list[Record]]] = {}
    for (dataset, _), members in sorted(protocols.items()):
        by_dataset.setdefault(dataset, []).append(sorted(members, key=lambda record: record.seed))
    return {dataset: _labelled(groups) for dataset, groups in by_dataset.items()}


def _labelled(groups: list[list[Record]]) -> list[Group]:
    ways: tuple[Callable[[Record], str], ...] = (
        _name,
        lambda record: f"{_name(record)} ({record.experiment})",
        lambda record: f"{_name(record)} ({record.experiment}{_overrides(record)})",
        lambda record: f"{_name(record)} ({record.experiment}{_overrides(record)}, {record.protocol[:8]})",
    )
    labelled = []
    for members in groups:
        way = next(w for w in ways if sum(w(other[0]) == w(members[0]) for other in groups) == 1)
        labelled.append(Group(way(members[0]), tuple(members)))
    return sorted(labelled, key=lambda group: group.label)


def _name(record: Record) -> str:
    """The method, marked where it was told what nobody tells it at test."""
    return f"{record.label}{MARK}" if is_upper_bound(record) else record.label


def is_upper_bound(record: Record) -> bool:
    """Whether the method was told what nobody tells it at test."""
    return bool(record.card.get("test_labels") == UPPER_BOUND)


def _overrides(record: Record) -> str:
    changed = record.settings.get("overrides") or {}
    return "".join(f", {key}={value}" for key, value in changed.items())


def numbers(spec: TableSpec, groups: list[Group]) -> pd.DataFrame:
    """One row a method or variant (of 'mean') or a category (of one group): columns 'row', 'n', and KEY, KEY_std in [0, 1].

    The standard deviation is that of a sample over the seeds; NaN for a single one.
    """
    if spec.rows != "category":
        places = [(group.label, group, MEAN) for group in groups]
    else:
        places = [(place, group, place) for group in groups for place in (*group.first.categories, MEAN)]
    rows = []
    for label, group, place in places:
        row: dict[str, object] = {"row": label, "n": len(group.records)}
        for key in spec.columns:
            values = pd.Series([record.value(place, key) for record in group.records], dtype=float)
            row[key], row[f"{key}_std"] = values.mean(skipna=False), values.std(skipna=False)
        rows.append(row)
    frame: pd.DataFrame = pd.DataFrame(rows)
    frame.attrs[UPPER_BOUND] = [is_upper_bound(group.first) for _, group, _ in places]
    return frame


def markdown(spec: TableSpec, title: str, frame: pd.DataFrame, notes: list[str]) -> str:
    """A Markdown table in percent, best of each column bold, with its notes below."""
    lines = [
        f"### {title}",
        "",
        f"| {spec.rows.capitalize()} | n | {' | '.join(LABELS[key] for key in spec.columns)} |",
        f"|:--|--:|{'--:|' * len(spec.columns)}",
    ]
    cells = _cells(spec, frame, " ± ", lambda text: f"**{text}**")
    lines += [f"| {row.replace('|', chr(92) + '|')} | {n} | {' | '.join(values)} |" for row, n, values in cells]
    return "\n".join([*lines, "", *(f"{note}  " for note in notes)]).rstrip() + "\n"


def latex(spec: TableSpec, title: str, frame: pd.DataFrame, notes: list[str]) -> str:
    """A LaTeX table with booktabs rules, best of each column bold."""
    cells = _cells(spec, frame, r"\,$\pm$\,", lambda text: rf"\textbf{{{text}}}")
    body = [f"{_escaped(row)} & {n} & {' & '.join(values)} \\\\" for row, n, values in cells]
    if spec.rows == "category":
        body.insert(-1, r"\midrule")
    return "\n".join(
        [
            *(f"% {note}" for note in notes),
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_escaped(title)}}}",
            rf"\begin{{tabular}}{{lr{'r' * len(spec.columns)}}}",
            r"\toprule",
            f"{spec.rows.capitalize()} & $n$ & {' & '.join(LABELS[key] for key in spec.columns)} \\\\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def csv(frame: pd.DataFrame) -> str:
    """All digits: values and standard deviations in [0, 1]; an empty field where there is none."""
    return str(frame.to_csv(index=False, lineterminator="\n"))


def protocol_notes(groups: list[Group]) -> list[str]:
    """The protocol under a table: what all rows share on one line, then what differs, row by row."""
    cards = [group.first.card for group in groups]
    shared = [key for key in CARD_ROWS if len({str(card.get(key)) for card in cards}) == 1]
    notes = ["Protocol: " + "; ".join(f"{key.replace('_', ' ')} {cards[0].get(key)}" for key in shared) + "."]
    for group, card in zip(groups, cards, strict=True):
        own = "; ".join(f"{key.replace('_', ' ')} {card.get(key)}" for key in CARD_ROWS if key not in shared)
        seeds = ", ".join(str(record.seed) for record in group.records)
        notes.append(f"{group.label}: {own + '; ' if own else ''}seeds {seeds}; data {group.first.fingerprint[:12]}.")
    notes += [note for group in groups for note in (_undefined(group), _approximate(group)) if note]
    notes.append(f"Percent. ± is the standard deviation over n seeds; {chr(0x2013)} is not defined or not measured.")
    return notes


def _undefined(group: Group) -> str:
    """Which metrics' means leave categories out, and how many."""
    record = group.first
    labels: dict[int, list[str]] = {}
    for key in SEVEN:
        missing = sum(math.isnan(record.value(category, key)) for category in record.categories)
        if missing:
            labels.setdefault(missing, []).append(LABELS[key])
    total = len(record.categories)
    parts = [f"{', '.join(names)} of {total - missing} of {total} categories" for missing, names in labels.items()]
    return f"{group.label}: means of {'; '.join(parts)}, not defined in the others." if parts else ""


def _approximate(group: Group) -> str:
    """How far approximate metrics can be from the exact ones at most."""
    pairs = [(key, pair) for record in group.records for place in record.bounds.values() for key, pair in place.items()]
    widths = {
        key: max((pair[1] - pair[0] for name, pair in pairs if pair and name == key), default=0.0) for key in SEVEN
    }
    parts = [f"{LABELS[key]} {100 * width:.3f}" for key, width in widths.items() if width > 0]
    return f"{group.label}: certified intervals of the values, widest in percent: {', '.join(parts)}." if parts else ""


def confidence_table(dataset: str, groups: list[Group]) -> str | None:
    """A Markdown table of the bootstrap intervals of means, one row a run; None if no run has any."""
    columns = (*SEVEN, MAD.key)
    rows = []
    for group in groups:
        for record in group.records:
            intervals = record.confidence.get(MEAN, {})
            cells = [_interval(record.value(MEAN, key), intervals.get(key)) for key in columns]
            rows += [f"| {group.label} | {record.seed} | {' | '.join(cells)} |"] if intervals else []
    if not rows:
        return None
    head = f"| Method | seed | {' | '.join(LABELS[key] for key in columns)} |"
    note = "Percent, with the 95 % interval of a bootstrap over the test images of each category (docs/metrics.md)."
    title = f"### {dataset}: means over categories with confidence intervals"
    return "\n".join([title, "", head, f"|:--|--:|{'--:|' * len(columns)}", *rows, "", note, ""])


def _interval(value: float, ends: tuple[float, float] | None) -> str:
    shown = _percent(value, math.nan, "")
    return shown if ends is None else f"{shown} [{100 * ends[0]:.1f}, {100 * ends[1]:.1f}]"


def _cells(
    spec: TableSpec, frame: pd.DataFrame, plus_minus: str, bold: Callable[[str], str]
) -> list[tuple[str, int, list[str]]]:
    """Each row's label, n and cells. Best is marked among methods or variants, and only where there are two; never an upper
    bound.
    """
    bound = frame.attrs.get(UPPER_BOUND, [False] * len(frame))
    rivals = frame[[not each for each in bound]]
    compare = spec.rows != "category" and len(rivals) > 1
    best = {key: rivals[key].round(3).max() if compare else math.inf for key in spec.columns}
    rows = []
    for (_, row), beyond in zip(frame.iterrows(), bound, strict=True):
        texts = []
        for key in spec.columns:
            text = _percent(float(row[key]), float(row[f"{key}_std"]), plus_minus)
            texts.append(bold(text) if not beyond and round(float(row[key]), 3) == best[key] else text)
        rows.append((str(row["row"]), int(row["n"]), texts))
    return rows


def _percent(value: float, deviation: float, plus_minus: str) -> str:
    """One decimal of a percent, as the field prints them."""
    if math.isnan(value):
        return "–"
    spread = "" if math.isnan(deviation) else f"{plus_minus}{100 * deviation:.1f}"
    return f"{100 * value:.1f}{spread}"


def _escaped(text: str) -> str:
    """Text that LaTeX prints as it is."""
    special = {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
        "–": "--",
    }
    return "".join(special.get(sign, f"\\{sign}" if sign in "&%#_${}" else sign) for sign in text)
