"""The exceptions with which a run, a cell or the tracking store fails."""


class InputError(Exception):
    """Something that the user gave cannot be used.

    The message is one line. It says where the problem is, what was found, what was expected and what to do.
    """


class CellError(Exception):
    """One cell of a grid failed while it ran, for example because its loss was not finite.

    The other cells continue.
    """


class TrackingError(Exception):
    """The tracking store did not accept, or did not return, what was requested.

    The message is one line. The records in output folders are not lost.
    """


class UnpreparedError(InputError):
    """A part of a plan lacks what was to be prepared: decoded images, weights, or the data that were planned."""
