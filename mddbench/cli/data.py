"""`mddbench data`: looks at a dataset before it is trained on."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from mddbench.cli.options import OUT, CacheDir, DataRoot, Json, Out, Plugins, Quiet, add_plugins, cache_below

app = typer.Typer(help="Look at datasets.", no_args_is_help=True)


@app.callback()
def _data() -> None:
    pass


@app.command("check")
def check(
    dataset: Annotated[str, typer.Argument(help="As `mddbench list datasets` shows.")],
    data_root: DataRoot = None,
    out: Out = OUT,
    cache_dir: CacheDir = None,
    plugins: Plugins = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Read a dataset as a run would, every image included; list its categories and every fault (exit status 2)."""
    add_plugins(plugins)
    from mddbench.data.cache import decode_faults
    from mddbench.data.dataset import read_dataset, root_of
    from mddbench.progress import reporter

    tree = read_dataset(dataset, root_of(dataset, data_root), cache_below(cache_dir, out))
    faults = [*tree.faults, *decode_faults(tree.samples, reporter(quiet))]
    rows: list[dict[str, Any]] = []
    for category in tree.categories:
        mine = [sample for sample in tree.samples if sample.category == category]
        test = [sample for sample in mine if sample.split == "test"]
        rows.append(
            {
                "category": category,
                "train": len(mine) - len(test),
                "test_good": sum(not sample.anomalous for sample in test),
                "test_defective": sum(sample.anomalous for sample in test),
                "masks": sum(sample.mask is not None for sample in test),
                "defects": sorted({sample.defect for sample in test if sample.anomalous}),
            }
        )
    if as_json:
        print(json.dumps({"dataset": dataset, "categories": rows, "faults": faults}, indent=1))
    else:
        _print(rows)
        for fault in faults:
            print(f"{dataset}: {fault}", file=sys.stderr)
    if faults:
        raise typer.Exit(2)


def _print(rows: list[dict[str, Any]]) -> None:
    width = max([len("category"), *(len(row["category"]) for row in rows)])
    print(f"{'category':<{width}} {'train':>6} {'good':>6} {'defective':>9} {'masks':>6}  defects")
    for row in rows:
        print(
            f"{row['category']:<{width}} {row['train']:>6} {row['test_good']:>6} {row['test_defective']:>9} "
            f"{row['masks']:>6}  {', '.join(row['defects'])}"
        )
