"""One line for a command line that cannot be understood, with what was probably meant."""

from __future__ import annotations

import sys

import typer
from pydantic import BaseModel

UsageError: type[Exception] = typer.BadParameter.__bases__[0]
"""The error of an unknown option, a missing argument or a value of another type, whichever library Typer takes it from."""


def usage_line(fault: Exception) -> str:
    """Say in one line what is wrong with a command line.

    A command that was given nothing has shown its help. The process then ends here.

    Args:
        fault: A UsageError.

    Returns:
        The command, what is wrong, and what to do.
    """
    message, context = str(getattr(fault, "format_message", fault.__str__)()), getattr(fault, "ctx", None)
    if not message.strip() or "\n" in message:
        print(message, end="", file=sys.stderr)
        sys.exit(2)
    command = context.command_path if context is not None else "mddbench"
    option = getattr(fault, "option_name", None)
    setting = _setting_of(str(option)) if option else None
    if setting:
        return f"{option}: no option of `{command}`; a setting is changed by --set {setting}=VALUE"
    return f"{' '.join(message.split()).rstrip('.')}; `{command} --help` shows all"


def _setting_of(option: str) -> str | None:
    """Return the dotted setting of an experiment that an unknown option names; None if there is none.

    >>> [_setting_of(option) for option in ("--epochs", "--batch-size", "--lr", "--nothing")]
    ['epochs', 'batch_size', 'optimizer.lr', None]
    """
    from mddbench.experiments.schema import Experiment

    wanted = option.lstrip("-").replace("-", "_")
    settings = dict.fromkeys(Experiment.model_fields)
    for group, field in Experiment.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            settings.update(dict.fromkeys(f"{group}.{name}" for name in field.annotation.model_fields))
    return next((setting for setting in settings if setting.rpartition(".")[2] == wanted), None)
