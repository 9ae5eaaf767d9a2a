"""The command `mddbench`. Each command imports what it needs when it runs, so that help answers at once."""

from __future__ import annotations

import sys

import typer

from mddbench import __version__
from mddbench.cli import data, inspect, rescore, results, run, verdicts
from mddbench.errors import InputError

INTERRUPTED = 130
app = typer.Typer(
    help="Multi-class unsupervised anomaly detection: train, evaluate and compare methods under one protocol.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run")(run.run)
app.command("list")(inspect.list_names)
app.command("check")(inspect.check)
app.add_typer(data.app, name="data")
app.command("report")(results.report)
app.command("verify")(verdicts.verify)
app.command("regress")(verdicts.regress)
app.command("rescore")(rescore.rescore)
app.command("export")(results.export)
app.command("import")(results.import_records)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"mddbench {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", help="Print the version.", callback=_version, is_eager=True),
) -> None:
    pass


def main() -> None:
    """Run the command. Exit status: 0 fine, 1 a check or a cell failed, 2 something given cannot be used, 130 interrupted."""
    try:
        app()
    except InputError as fault:
        print(f"mddbench: {' '.join(str(fault).split())}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    except OSError as fault:
        place = f"{fault.filename}: " if fault.filename else ""
        print(f"mddbench: {place}{fault.strerror or fault}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as ended:
        if ended.code == INTERRUPTED:  # Typer turns an interruption into this
            print("mddbench: interrupted; the same command goes on where it stopped", file=sys.stderr)
        raise
