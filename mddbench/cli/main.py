"""The command `mddbench`. Each command imports the modules that it needs when it runs, so that `--help` is fast."""

from __future__ import annotations

import sys
from typing import NoReturn

import typer

from mddbench.cli import (
    archive,
    bundle,
    cells,
    checklist,
    cluster,
    data,
    inspect,
    leaderboard,
    new,
    predict,
    rescore,
    results,
    run,
    shift,
    tune,
    verdicts,
)
from mddbench.cli.ending import leave_quietly
from mddbench.cli.hints import UsageError, usage_line
from mddbench.errors import InputError, TrackingError
from mddbench.version import VERSION

INTERRUPTED = 130
RUN, CLUSTER, USE = "Train and evaluate", "Run a plan part by part, on a cluster or anywhere", "Use a model"
LOOK, RESULTS = "Look up and extend", "Results"
"""Headings of the commands in `--help`."""
app = typer.Typer(
    help="Multi-class unsupervised anomaly detection: train, evaluate and compare methods under one protocol.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run", epilog=run.EXAMPLES, rich_help_panel=RUN)(run.run)
app.command("tune", epilog=tune.EXAMPLES, rich_help_panel=RUN)(tune.tune)
app.command("rescore", rich_help_panel=RUN)(rescore.rescore)
app.command("shift", epilog=shift.EXAMPLES, rich_help_panel=RUN)(shift.shift)
app.command("plan", epilog=cells.PLAN_EXAMPLES, rich_help_panel=CLUSTER)(cells.plan)
app.command("prepare", epilog=cells.PREPARE_EXAMPLES, rich_help_panel=CLUSTER)(cells.prepare)
app.command("cell", epilog=cells.CELL_EXAMPLES, rich_help_panel=CLUSTER)(cells.cell)
app.command("submit", epilog=cluster.SUBMIT_EXAMPLES, rich_help_panel=CLUSTER)(cluster.submit)
app.command("status", rich_help_panel=CLUSTER)(cluster.status)
app.command("cancel", rich_help_panel=CLUSTER)(cluster.cancel)
app.command("collect", rich_help_panel=CLUSTER)(cluster.collect)
app.command("predict", epilog=predict.EXAMPLES, rich_help_panel=USE)(predict.predict)
app.command("export-model", rich_help_panel=USE)(predict.export_model)
app.command("log-model", rich_help_panel=USE)(predict.log_model)
app.command("server-archive", rich_help_panel=USE)(archive.server_archive)
app.command("list", rich_help_panel=LOOK)(inspect.list_names)
app.command("show", rich_help_panel=LOOK)(inspect.show)
app.command("check", rich_help_panel=LOOK)(inspect.check)
app.command("new", rich_help_panel=LOOK)(new.new)
app.add_typer(data.app, name="data", rich_help_panel=LOOK)
app.command("report", rich_help_panel=RESULTS)(results.report)
app.command("verify", rich_help_panel=RESULTS)(verdicts.verify)
app.command("regress", rich_help_panel=RESULTS)(verdicts.regress)
app.command("bundle", rich_help_panel=RESULTS)(bundle.bundle)
app.command("leaderboard", rich_help_panel=RESULTS)(leaderboard.leaderboard)
app.command("checklist", rich_help_panel=RESULTS)(checklist.checklist)
app.command("export", rich_help_panel=RESULTS)(results.export)
app.command("import", rich_help_panel=RESULTS)(results.import_records)


def _version(is_given: bool) -> None:
    if is_given:
        print(f"mddbench {VERSION}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", help="Print the version.", callback=_version, is_eager=True),
) -> None:
    pass


def main() -> None:
    """Run the command.

    Exit status: 0 success; 1 a check or a cell failed; 2 an input cannot be used; 128 and the number of the signal
    (mostly 130) interrupted; 141 nobody reads the output any more.
    """
    try:
        _run_app()
    except UsageError as fault:
        _fail(usage_line(fault))
    except (InputError, TrackingError) as fault:
        _fail(" ".join(str(fault).split()))
    except BrokenPipeError:
        leave_quietly()
    except OSError as fault:
        file = f"{fault.filename}: " if fault.filename else ""
        _fail(f"{file}{fault.strerror or fault}")


def _run_app() -> None:
    """Run the command. A closed pipe is a BrokenPipeError, at the latest when the output is flushed."""
    try:
        status = app(prog_name="mddbench", standalone_mode=False) or 0
        if status == INTERRUPTED:  # Typer turns an interruption into this
            print("mddbench: interrupted", file=sys.stderr)
        sys.exit(status)
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # Typer takes it for a failure
            raise end.__context__ from None
        sys.stdout.flush()
        sys.stderr.flush()
        raise


def _fail(message: str) -> NoReturn:
    print(f"mddbench: {message}", file=sys.stderr)
    sys.exit(2)
