"""Tables from records: numbers first (a frame), then their text in Markdown, LaTeX and CSV."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from mddbench.metrics.names import COLUMNS, LABELS, SEVEN
from mddbench.records import UPPER_BOUND
from mddbench.report.costs import COSTS, mean_cost, shown_cost
from mddbench.report.groups import OTHER, Group, is_upper_bound
from mddbench.report.spec import TableSpec

CARD_ROWS = (
    "setting",
    "epochs",
    "iterations",
    "batch_size",
    "image_size",
    "interpolation",
    "mask_rule",
    "augmentation",
    "textures",
    "test_labels",
    "encoder",
    "encoder_levels",
    "encoder_weights",
    "encoder_sha256",
    "optimizer",
    "schedule",
    "gradient_clip",
    "precision",
    "smoothing",
    "image_score",
    "selection",
    "metrics",
    "method_version",
)
"""All of a protocol card, in the order in which a table tells it."""
MEAN = "mean"
DIFFERS = "differs"


def numbers(spec: TableSpec, groups: Sequence[Group]) -> pd.DataFrame:
    """One row a method or variant (of 'mean') or a category (of one group): columns 'row', 'n', KEY and KEY_std in [0, 1], and
    costs in the units of records.

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
        rows.append(row | {key: mean_cost(group.records, key) for key in spec.costs})
    frame: pd.DataFrame = pd.DataFrame(rows)
    frame.attrs[UPPER_BOUND] = [is_upper_bound(group.first) for _, group, _ in places]
    frame.attrs[DIFFERS] = [bool(group.differs) for _, group, _ in places]
    return frame


def markdown(spec: TableSpec, title: str, frame: pd.DataFrame, notes: list[str]) -> str:
    """A Markdown table in percent, best of each column bold and the second underlined, with its notes below."""
    lines = [
        f"### {title}",
        "",
        f"| {spec.rows.capitalize()} | n | {' | '.join(_heads(spec))} |",
        f"|:--|--:|{'--:|' * len(_heads(spec))}",
    ]
    cells = _cells(spec, frame, " ± ", ("**{}**", "<u>{}</u>"))
    lines += [f"| {row.replace('|', chr(92) + '|')} | {n} | {' | '.join(values)} |" for row, n, values in cells]
    return "\n".join([*lines, "", *(f"{note}  " for note in notes)]).rstrip() + "\n"


def latex(spec: TableSpec, title: str, frame: pd.DataFrame, notes: list[str]) -> str:
    """A LaTeX table with booktabs rules, best of each column bold and the second underlined."""
    cells = _cells(spec, frame, r"\,$\pm$\,", (r"\textbf{{{}}}", r"\underline{{{}}}"))
    body = [f"{_escaped(row)} & {n} & {' & '.join(values)} \\\\" for row, n, values in cells]
    if spec.rows == "category":
        body.insert(-1, r"\midrule")
    return "\n".join(
        [
            *(f"% {note}" for note in notes),
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_escaped(title)}}}",
            rf"\begin{{tabular}}{{lr{'r' * len(_heads(spec))}}}",
            r"\toprule",
            f"{spec.rows.capitalize()} & $n$ & {' & '.join(map(_escaped, _heads(spec)))} \\\\",
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


def protocol_notes(groups: Sequence[Group]) -> list[str]:
    """The protocol under a table: what all rows share on one line, then what differs, row by row."""
    cards = [group.first.card for group in groups]
    told = [key for key in CARD_ROWS if any(key in card for card in cards)]
    shared = [key for key in told if len({str(card.get(key, "not told")) for card in cards}) == 1]
    notes = ["Protocol: " + "; ".join(_said(key, cards[0]) for key in shared) + "."]
    for group, card in zip(groups, cards, strict=True):
        own = "; ".join(_said(key, card) for key in told if key not in shared and key in card)
        seeds = ", ".join(str(record.seed) for record in group.records)
        notes.append(f"{group.label}: {own + '; ' if own else ''}seeds {seeds}; data {group.first.fingerprint[:12]}.")
    notes += [f"{OTHER} {group.label}: another protocol ({group.differs})." for group in groups if group.differs]
    notes += [note for group in groups for note in (_undefined(group), _approximate(group)) if note]
    notes.append(f"Percent. ± is the standard deviation over n seeds; {chr(0x2013)} is not defined or not measured.")
    return notes


def _said(key: str, card: dict[str, Any]) -> str:
    """A field of a protocol card in words."""
    value = card.get(key)
    if key == "encoder_sha256" and isinstance(value, str):
        value = value[:12]
    if isinstance(value, dict):
        value = " ".join(f"{'' if name == 'name' else f'{name} '}{_plain(part)}" for name, part in value.items())
    return f"{key.replace('_', ' ')} {_plain(value)}"


def _plain(value: Any) -> str:
    return "/".join(map(str, value)) if isinstance(value, list | tuple) else str("none" if value is None else value)


def _heads(spec: TableSpec) -> list[str]:
    return [*(LABELS[key] for key in spec.columns), *(COSTS[key].label for key in spec.costs)]


def _undefined(group: Group) -> str:
    """Which metrics' means leave categories out, and how many."""
    record = group.first
    labels: dict[int, list[str]] = {}
    for key in SEVEN:
        missing = sum(math.isnan(record.value(category, key)) for category in record.categories)
        if missing:
            labels.setdefault(missing, []).append(LABELS[key])
    total = len(record.categories)
    nowhere = labels.pop(total, [])
    parts = [f"{', '.join(names)} of {total - missing} of {total} categories" for missing, names in labels.items()]
    said = [f"means of {'; '.join(parts)}, not defined in the others"] if parts else []
    said += [f"{', '.join(nowhere)} not defined in any category"] if nowhere else []
    return f"{group.label}: {'; '.join(said)}." if said else ""


def _approximate(group: Group) -> str:
    """How far approximate metrics can be from the exact ones at most."""
    pairs = [(key, pair) for record in group.records for place in record.bounds.values() for key, pair in place.items()]
    widths = {
        key: max((pair[1] - pair[0] for name, pair in pairs if pair and name == key), default=0.0) for key in SEVEN
    }
    parts = [f"{LABELS[key]} {100 * width:.3f}" for key, width in widths.items() if width > 0]
    return f"{group.label}: certified intervals of the values, widest in percent: {', '.join(parts)}." if parts else ""


def confidence_table(dataset: str, groups: Sequence[Group]) -> str | None:
    """A Markdown table of the bootstrap intervals of means, one row a run; None if no run has any."""
    rows = []
    for group in groups:
        for record in group.records:
            intervals = record.confidence.get(MEAN, {})
            cells = [_interval(record.value(MEAN, key), intervals.get(key)) for key in COLUMNS]
            rows += (
                [f"| {group.shown.replace('|', chr(92) + '|')} | {record.seed} | {' | '.join(cells)} |"]
                if intervals
                else []
            )
    if not rows:
        return None
    head = f"| Method | seed | {' | '.join(LABELS[key] for key in COLUMNS)} |"
    note = "Percent, with the 95 % interval of a bootstrap over the test images of each category (docs/metrics.md)."
    title = f"### {dataset}: means over categories with confidence intervals"
    return "\n".join([title, "", head, f"|:--|--:|{'--:|' * len(COLUMNS)}", *rows, "", note, ""])


def _interval(value: float, ends: tuple[float, float] | None) -> str:
    shown = _percent(value, math.nan, "")
    return shown if ends is None else f"{shown} [{100 * ends[0]:.1f}, {100 * ends[1]:.1f}]"


def _cells(
    spec: TableSpec, frame: pd.DataFrame, plus_minus: str, marks: tuple[str, str]
) -> list[tuple[str, int, list[str]]]:
    """Each row's label, n and cells. marks: of the best and of the second, which are marked among methods or variants, the best
    only where there are two and the second where there are three; never an upper bound, nor what is under another protocol.
    """
    none = [False] * len(frame)
    differs = frame.attrs.get(DIFFERS, none)
    bound = [any(pair) for pair in zip(frame.attrs.get(UPPER_BOUND, none), differs, strict=True)]
    rivals = frame[[not each for each in bound]]
    ranked = {key: _first_two(rivals[key]) if spec.rows != "category" else [] for key in spec.columns}
    rows = []
    for (_, row), beyond, other in zip(frame.iterrows(), bound, differs, strict=True):
        texts = []
        for key in spec.columns:
            text = _percent(float(row[key]), float(row[f"{key}_std"]), plus_minus)
            marked = {value: mark.format(text) for value, mark in zip(ranked[key], marks, strict=False)}
            texts.append(text if beyond else marked.get(round(float(row[key]), 3), text))
        texts += [shown_cost(float(row[key]), key) for key in spec.costs]
        rows.append((f"{row['row']}{f' {OTHER}' if other else ''}", int(row["n"]), texts))
    return rows


def _first_two(values: pd.Series) -> list[float]:
    """The best value, and the second best if there are three, as they are printed; nothing if there is one value only."""
    distinct = sorted({round(float(value), 3) for value in values if not math.isnan(value)}, reverse=True)
    return distinct[: 2 if len(values) > 2 else 1] if len(values) > 1 else []


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
        OTHER: r"$\dagger$",
    }
    return "".join(special.get(sign, f"\\{sign}" if sign in "&%#_${}" else sign) for sign in text)
