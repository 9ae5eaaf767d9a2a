"""The ways in which a run ends badly."""


class InputError(Exception):
    """What the user gave cannot be used. The message is one line: where, what was found, what was expected, what to do."""


class CellError(Exception):
    """One cell of a grid failed while it ran (a loss that is not finite, say); the other cells go on."""


class TrackingError(Exception):
    """The tracking store did not take, or give, what it was asked. The message is one line; records in folders are not lost."""
