"""Table specs: what stands in a table, as YAML in `paper_tables/`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from pydantic import Field

from mddbench.errors import InputError
from mddbench.metrics.names import LABELS, MEAN
from mddbench.report.rows.reported import paper_tables
from mddbench.report.tables.costs import COSTS
from mddbench.runs.records import Record
from mddbench.settings import Strict, read_yaml, validated


class TableSpec(Strict):
    """What stands in a table."""

    title: str = Field(
        description="Its title, which may hold {dataset}, {setting}, {method}, {metrics} and {ablation}."
    )
    rows: Literal["method", "category", "variant"] = Field(description="What a row is.")
    by_method: bool = Field(
        default=False, description="A column for each method, whose cells hold all metrics, in place of one table each."
    )
    columns: tuple[str, ...] = Field(default=(), description="Keys of metrics.")
    optional: tuple[str, ...] = Field(
        default=(), description="Keys of metrics and costs that are shown if a record has them."
    )
    requires: tuple[str, ...] = Field(
        default=(), description="Keys of metrics. The table is left out unless a record has one of them."
    )
    costs: tuple[str, ...] = Field(default=(), description="Keys of costs, shown behind the metrics.")
    published: Literal["none", "same epochs", "all"] = Field(
        default="none",
        description="The published rows below the measured ones. A table of all of them is left out if there is none.",
    )

    def shown_for(self, records: Iterable[Record]) -> TableSpec:
        """Choose those of the optional columns that a record has.

        Args:
            records: Records of the table.

        Returns:
            The spec, without further optional columns.
        """
        keys = {key for record in records for key in (*_metrics_of(record), *record.cost)}
        optional = [key for key in self.optional if key in keys]
        columns = (*self.columns, *(key for key in optional if key not in COSTS))
        costs = tuple(key for key in COSTS if key in (*self.costs, *optional))
        return self.model_copy(update={"columns": columns, "costs": costs, "optional": ()})

    def with_columns(self, defined: Sequence[str]) -> TableSpec:
        """Return the spec without the metrics that are not among the defined ones."""
        return self.model_copy(update={"columns": tuple(key for key in self.columns if key in defined)})

    def concerns(self, records: Iterable[Record]) -> bool:
        """Return whether a record has one of the required metrics; True if none is required.

        Args:
            records: Records of the table.
        """
        return not self.requires or any(key in _metrics_of(record) for record in records for key in self.requires)


def _metrics_of(record: Record) -> set[str]:
    """The metrics whose means a record has."""
    return {*record.metrics[MEAN], *record.further.get(MEAN, {})}


def table_names() -> list[str]:
    """Return the names of all table specs."""
    return sorted(path.stem for path in paper_tables().glob("*.yaml"))


def load_table(name: str) -> TableSpec:
    """Load a table spec.

    Args:
        name: Name of the file without its suffix.

    Returns:
        The spec.

    Raises:
        InputError: If the file does not fit.
    """
    file = f"paper_tables/{name}.yaml"
    spec = validated(TableSpec, read_yaml(paper_tables() / f"{name}.yaml"), file)
    try:
        spec.title.format(dataset="", setting="", method="", metrics="", ablation="")
    except (KeyError, IndexError, ValueError) as fault:
        raise InputError(
            f"{file}: title: {fault} is none of {{dataset}}, {{setting}}, {{method}}, {{metrics}} and {{ablation}}"
        ) from None
    checks = (("metric", spec.columns, LABELS), ("metric", spec.requires, LABELS), ("cost", spec.costs, COSTS))
    for kind, keys, known in (*checks, ("metric or cost", spec.optional, {**LABELS, **COSTS})):
        unknown = [key for key in keys if key not in known]
        if unknown:
            raise InputError(f"{file}: unknown {kind} '{unknown[0]}'; known: {', '.join(known)}")
    if not spec.columns and not spec.costs:
        raise InputError(f"{file}: expected columns, costs or both")
    return spec
