"""The client of a tracking store, whatever it raises."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from mddbench.errors import TrackingError
from mddbench.interruption import held
from mddbench.runs.addresses import SQLITE


class Guarded:
    """A client whose failures are all TrackingErrors of one line, whatever MLflow, a database or a server raise."""

    def __init__(self, client: Any, uri: str, answered: Callable[[], object]) -> None:
        self._client, self._uri, self._answered = client, uri, answered
        self._hold = held if uri.startswith(SQLITE) else nullcontext  # not for a server, which may take long

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._client, name)

        @functools.wraps(function)
        def guarded(*arguments: Any, **named_arguments: Any) -> Any:
            try:
                with self._hold():
                    return function(*arguments, **named_arguments)
            except Exception as fault:  # noqa: BLE001 - MLflow, a database or a server may raise anything
                lines = [line for line in str(fault).splitlines() if line.strip()] or [type(fault).__name__]
                raise TrackingError(f"tracking store {self._uri}: {name} failed ({lines[0].strip()[:200]})") from None
            finally:
                self._answered()

        return guarded
