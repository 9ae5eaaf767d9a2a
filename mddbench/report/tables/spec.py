"""Table specs: what stands in a table, as YAML in `paper_tables/`."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Literal

from mddbench.errors import InputError
from mddbench.metrics.names import LABELS
from mddbench.report.tables.costs import COSTS
from mddbench.runs.records import Record
from mddbench.settings import Strict, read_yaml, validated


class TableSpec(Strict):
    """title: may hold {dataset}, {setting}, {method} and {ablation}; rows: what a row is; columns: metric keys; optional:
    those that are shown only where a record has them; costs: keys of costs, shown behind them; published: which published rows
    stand below the measured ones; a table of all of them is left out where there is none.
    """

    title: str
    rows: Literal["method", "category", "variant"]
    columns: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    costs: tuple[str, ...] = ()
    published: Literal["none", "same epochs", "all"] = "none"

    def shown_for(self, records: Iterable[Record]) -> TableSpec:
        """The spec with those of the optional columns that some record has."""
        keys = {key for record in records for key in record.metrics["mean"]}
        columns = (*self.columns, *(key for key in self.optional if key in keys))
        return self.model_copy(update={"columns": columns, "optional": ()})


def table_names() -> list[str]:
    """All table specs."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def load_table(name: str) -> TableSpec:
    """A spec by name. Raises InputError if it does not fit."""
    where = f"paper_tables/{name}.yaml"
    spec = validated(TableSpec, read_yaml(_folder() / f"{name}.yaml"), where)
    unknown = [key for key in (*spec.columns, *spec.optional) if key not in LABELS]
    odd = [key for key in spec.costs if key not in COSTS]
    try:
        spec.title.format(dataset="", setting="", method="", ablation="")
    except (KeyError, IndexError, ValueError) as fault:
        raise InputError(
            f"{where}: title: {fault} is none of {{dataset}}, {{setting}}, {{method}} and {{ablation}}"
        ) from None
    if unknown:
        raise InputError(f"{where}: unknown metric '{unknown[0]}'; known: {', '.join(LABELS)}")
    if odd:
        raise InputError(f"{where}: unknown cost '{odd[0]}'; known: {', '.join(COSTS)}")
    if not spec.columns and not spec.costs:
        raise InputError(f"{where}: expected columns, costs or both")
    return spec


def _folder() -> Path:
    return Path(str(files("mddbench.paper_tables")))
