"""The options by which `run` and `plan` choose cells and how they are trained, defined once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from mddbench.cli.options import (
    CELLS,
    EVALUATION,
    MACHINE,
    OUT,
    OUTPUT,
    CacheDir,
    DataRoot,
    Device,
    FeatureCache,
    Out,
    Plugins,
    Quiet,
    TexturesFolder,
    WeightsDir,
    add_plugins,
    cache_below,
    parse_seeds,
)
from mddbench.cli.running import device_of
from mddbench.errors import InputError

if TYPE_CHECKING:
    import torch

    from mddbench.execution.cells import Cell
    from mddbench.execution.frozen import FrozenPlan
    from mddbench.execution.options import RunOptions
    from mddbench.progress import Reporter

Names = Annotated[
    list[str] | None,
    typer.Argument(help="Experiments as DATASET/METHOD, ablations, or YAML files.", show_default=False),
]
Bootstrap = Annotated[
    int,
    typer.Option(
        min=0,
        max=100_000,
        help="Number of bootstrap samples for confidence intervals, such as 1000.",
        rich_help_panel=EVALUATION,
    ),
]
HeldOut = Annotated[
    bool,
    typer.Option(
        "--held-out",
        help="Evaluate on held-out normal training images with drawn defects, to choose settings.",
        rich_help_panel=EVALUATION,
    ),
]
Development = Annotated[
    bool,
    typer.Option(
        "--development",
        help="Settings are chosen on these test images, so tables say 'development data'.",
        rich_help_panel=EVALUATION,
    ),
]
TestCurve = Annotated[
    int,
    typer.Option(
        min=0,
        help="Evaluate on the test split every N epochs, for the selection gap. A diagnostic only.",
        rich_help_panel=EVALUATION,
    ),
]
KeepMaps = Annotated[
    bool,
    typer.Option(
        "--keep-maps",
        help="Keep all anomaly maps in half precision for `rescore`, also of finished cells.",
        rich_help_panel=EVALUATION,
    ),
]
AllImages = Annotated[
    bool,
    typer.Option(
        "--all-images",
        help="Keep every test image with its map: the report's page shows all by score.",
        rich_help_panel=EVALUATION,
    ),
]
Name = Annotated[
    str | None,
    typer.Option(help="What reports call your own images.", show_default="their folder's name", rich_help_panel=OUTPUT),
]
Compile = Annotated[
    bool,
    typer.Option(
        "--compile",
        help="Compile the training steps if a training is long enough to gain from it.",
        rich_help_panel=MACHINE,
    ),
]
CudaGraphs = Annotated[
    bool,
    typer.Option(
        "--cuda-graphs",
        help="Record the kernels of training steps as CUDA graphs, on a GPU.",
        rich_help_panel=MACHINE,
    ),
]
CheckpointEvery = Annotated[
    int,
    typer.Option(
        min=0,
        help="Write a checkpoint every N training steps, too, not only at the end of epochs.",
        rich_help_panel=MACHINE,
    ),
]
Latency = Annotated[
    bool,
    typer.Option(
        "--latency",
        help="Measure the latency of single images, and the throughput of batches.",
        rich_help_panel=EVALUATION,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Change a setting, such as optimizer.lr=0.001; may be repeated.",
        rich_help_panel=CELLS,
    ),
]
All = Annotated[
    bool,
    typer.Option(
        "--all",
        help="All experiments of the suite.",
        rich_help_panel=CELLS,
    ),
]
SuiteName = Annotated[
    str | None,
    typer.Option(
        help="Which suite --all stands for.",
        show_default="quick",
        rich_help_panel=CELLS,
    ),
]
Seeds = Annotated[
    str | None,
    typer.Option(
        help="Seeds in place of the experiments' own, such as 0,1,2.",
        rich_help_panel=CELLS,
    ),
]


@dataclass(frozen=True)
class ChosenCells:
    """What the command line says of cells. Each field is an option, whose help says what it means."""

    names: Names = None
    everything: All = False
    suite: SuiteName = None
    data_root: DataRoot = None
    out: Out = OUT
    seeds: Seeds = None
    set_: Overrides = None
    device: Device = "auto"
    weights_dir: WeightsDir = None
    cache_dir: CacheDir = None
    bootstrap: Bootstrap = 0
    held_out: HeldOut = False
    development: Development = False
    textures: TexturesFolder = None
    test_curve: TestCurve = 0
    keep_maps: KeepMaps = False
    all_images: AllImages = False
    name: Name = None
    feature_cache: FeatureCache = 2.0
    plugins: Plugins = None
    compile_: Compile = False
    cuda_graphs: CudaGraphs = False
    checkpoint_every: CheckpointEvery = 0
    latency: Latency = False
    quiet: Quiet = False

    def add_plugins(self) -> None:
        """Add the plug-in folders. This must happen before any name is looked up."""
        add_plugins(self.plugins)

    @property
    def suite_name(self) -> str:
        """Name of the suite, or 'named' for experiments that the user named. InputError if neither or both are given."""
        if self.everything == bool(self.names):
            raise InputError(
                "run: name experiments (as in mini/rd4ad) or give --all, and not both; see `mddbench list`"
            )
        if self.names and self.suite:
            raise InputError(f"run: --suite {self.suite} goes with --all; name experiments, or run a suite")
        return (self.suite or "quick") if self.everything else "named"

    def cells(self) -> list[Cell]:
        """Plan the cells."""
        from mddbench.data.dataset import load_source
        from mddbench.execution.plan import plan
        from mddbench.experiments.schema import parse_override

        overrides = dict(map(parse_override, self.set_ or []))
        cells = plan(self.names or [], self.suite_name, parse_seeds(self.seeds), overrides)
        if self.name is not None:
            others = [cell.experiment.name for cell in cells if not load_source(cell.experiment.dataset).own]
            if others or not self.name.strip():
                raise InputError(f"--name '{self.name}': expected a name for your own images, with folder/... alone")
        return cells

    def options(self, device: torch.device, force: bool = False, from_checkpoint: Path | None = None) -> RunOptions:
        """Return the options of a run.

        Args:
            device: Device of the models.
            force: True to run finished cells again.
            from_checkpoint: File or folder with weights of the method's authors; None to train.

        Returns:
            The options.
        """
        from mddbench.execution.options import RunOptions

        return RunOptions(
            out=self.out,
            cache=cache_below(self.cache_dir, self.out),
            device=device,
            data_root=self.data_root,
            weights_dir=self.weights_dir,
            force=force,
            resamples=self.bootstrap,
            held_out=self.held_out,
            development=self.development,
            textures=self.textures,
            test_curve=self.test_curve,
            keep_maps=self.keep_maps,
            name=self.name,
            all_images=self.all_images,
            feature_room=self.feature_cache,
            compiling=self.compile_,
            cuda_graphs=self.cuda_graphs,
            from_checkpoint=from_checkpoint,
            checkpoint_every=self.checkpoint_every,
            latency=self.latency,
        )

    def frozen(self, cells: list[Cell], progress: Reporter) -> FrozenPlan:
        """Check the cells, prepare all that they need, and freeze them. The user's own ablations are kept beside them.

        Args:
            cells: The cells.
            progress: Shows the progress.

        Returns:
            The plan.
        """
        from mddbench.execution.frozen import freeze

        options = self.options(_checking_device(self.device, progress))
        plan, _ = freeze(cells, options, self.device, self.suite_name, self.plugins or [], progress)
        keep_own_ablations(self.names, self.out)
        return plan


def with_chosen_cells(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `ChosenCells`, which it gets as its first argument.

    Args:
        command: The command, with further options as its other parameters.

    Returns:
        The command as Typer takes it.
    """
    kind, hints = inspect.Parameter.KEYWORD_ONLY, get_type_hints(ChosenCells, include_extras=True)
    shared = [
        inspect.Parameter(each.name, kind, default=each.default, annotation=hints[each.name])
        for each in fields(ChosenCells)
    ]
    own_hints = get_type_hints(command, include_extras=True, localns={"ChosenCells": ChosenCells})
    own = [
        each.replace(kind=kind, annotation=own_hints[each.name])
        for each in list(inspect.signature(command).parameters.values())[1:]
    ]

    @functools.wraps(command)
    def wrapped(**values: Any) -> None:
        chosen = ChosenCells(**{each.name: values.pop(each.name) for each in shared})
        command(chosen, **values)

    signature = inspect.Signature([*shared, *own], return_annotation=None)
    vars(wrapped).pop("__wrapped__")
    wrapped.__annotations__ = {each.name: each.annotation for each in signature.parameters.values()}
    vars(wrapped)["__signature__"] = signature
    return wrapped


def write_plan_of(chosen: ChosenCells, cells: list[Cell], progress: Reporter) -> Path:
    """Freeze cells and write the plan into their output folder.

    Args:
        chosen: The options.
        cells: The cells.
        progress: Shows the progress.

    Returns:
        The file.
    """
    from mddbench.execution.frozen import write_plan

    return write_plan(chosen.frozen(cells, progress), chosen.out)


def keep_own_ablations(names: list[str] | None, out: Path) -> None:
    """Copy a user's own ablation files beside their cells, so that the report finds them.

    Args:
        names: The experiments and ablations that the user named; None if there are none.
        out: Output folder.
    """
    from mddbench.experiments.ablation import is_ablation, is_path, keep_ablations

    keep_ablations([name for name in names or [] if is_path(name) and is_ablation(name)], out)


def _checking_device(name: str, progress: Reporter) -> torch.device:
    """Return the device on which a plan is checked: the one named, or the CPU if this machine does not have it."""
    try:
        return device_of(name)
    except InputError:
        progress.say(
            f"there is no {name} here, so the cells are checked on the CPU; each part checks its memory itself"
        )
        return device_of("cpu")
