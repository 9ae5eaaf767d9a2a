"""What a method does that starts from pre-trained weights beside the encoder's."""

from __future__ import annotations

from pathlib import Path


class StartingWeights:
    """Reads the weights that a training starts from. By default there are none."""

    @classmethod
    def demand_weights(cls, weights: Path | None) -> None:
        """Check that the files that `start_from` reads are there. This is called before a model is built.

        A subclass raises InputError if a file that it needs is not there.

        Args:
            weights: What --weights-dir names; None if it was not given.
        """

    def start_from(self, weights: Path | None) -> None:
        """Load the weights. This is called once, before anything is trained.

        A subclass raises InputError if they do not fit, and names what it loaded by its hash in `network`.

        Args:
            weights: What --weights-dir names; None if it was not given.
        """
