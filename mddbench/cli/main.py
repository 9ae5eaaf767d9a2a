"""The command `mddbench`. Each command imports the modules that it needs when it runs, so that `--help` is fast."""

from __future__ import annotations

import sys
from typing import NoReturn

import typer

from mddbench import __version__
from mddbench.cli import data, inspect, rescore, results, run, tune, verdicts
from mddbench.cli.ending import ReportedExit, leave_quietly
from mddbench.errors import InputError, TrackingError

INTERRUPTED = 130
app = typer.Typer(
    help="Multi-class unsupervised anomaly detection: train, evaluate and compare methods under one protocol.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run", epilog=run.EXAMPLES)(run.run)
app.command("tune", epilog=tune.EXAMPLES)(tune.tune)
app.command("list")(inspect.list_names)
app.command("check")(inspect.check)
app.add_typer(data.app, name="data")
app.command("report")(results.report)
app.command("verify")(verdicts.verify)
app.command("regress")(verdicts.regress)
app.command("rescore")(rescore.rescore)
app.command("export")(results.export)
app.command("import")(results.import_records)


def _version(is_given: bool) -> None:
    if is_given:
        print(f"mddbench {__version__}")
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
        app()
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # Click takes it for a failure
            raise end.__context__ from None
        if end.code == INTERRUPTED and not isinstance(end, ReportedExit):  # Typer turns an interruption into this
            print("mddbench: interrupted", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        raise


def _fail(message: str) -> NoReturn:
    print(f"mddbench: {message}", file=sys.stderr)
    sys.exit(2)
