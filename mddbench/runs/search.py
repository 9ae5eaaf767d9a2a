"""The stored result of a search for a method's settings: what was tried, what won, and on which data it was judged."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from mddbench.runs.bounds import LONGEST_TEXT, Category, Natural, small_value
from mddbench.runs.records import CostValue, Hash, Label, Name, Value
from mddbench.settings import Strict, read_json, validated

METRICS: tuple[Literal["mad", "i_auroc"], ...] = ("mad", "i_auroc")
"""The metric by which trials are compared, as a mean over the categories, then over the seeds.

Without masks the mAD is not defined, and the second one counts.
"""


MOST_TRIALS = 1000


class JudgedOn(Strict):
    """The data on which the trials were judged."""

    dataset: Name = Field(description="Name of the dataset.")
    fingerprint: Hash = Field(description="Fingerprint of its images.")
    categories: tuple[Category, ...] = Field(description="Names of its categories.")
    test_images: Natural = Field(description="Number of its test images.")
    held_out: bool = Field(description="True if they are held-out training images with drawn defects.")

    def __str__(self) -> str:
        kind = (
            "drawn defects on held-out training images" if self.held_out else "development data with their own defects"
        )
        return f"{kind}: {self.test_images} test images of {', '.join(self.categories)} ({self.fingerprint[:12]})"


class Trial(Strict):
    """One point of a search."""

    settings: Annotated[dict[str, Any], AfterValidator(small_value)] = Field(description="Dotted setting -> value.")
    identities: tuple[Hash, ...] = Field(description="The cells, one for each seed.")
    metrics: dict[Label, Value] = Field(description="Metric -> mean over categories and seeds.")
    processor: Label | None = Field(None, description="Processor of the machine; null if it is unknown.")
    train_seconds: CostValue | None = Field(description="Mean time of a training; null if it was not measured.")

    def value(self, metric: str) -> float:
        """Return the mean of a metric; minus infinity if it is not defined."""
        value = self.metrics.get(metric)
        return -math.inf if value is None else value


class SearchResult(Strict):
    """The result of the search for one method. The first trial is the experiment as it was."""

    method: Name = Field(description="Name of the method.")
    label: Label = Field(description="Name of the method in tables.")
    experiment: Annotated[str, Field(max_length=LONGEST_TEXT)] = Field(description="Name of the experiment.")
    judged_on: JudgedOn = Field(description="The data on which the trials were judged.")
    metric: Literal["mad", "i_auroc"] = Field(description="The metric by which the trials were compared.")
    epochs: Natural | Label | None = Field(description="Epochs of a trial, as its protocol card says it.")
    seeds: tuple[Natural, ...] = Field(description="Seeds of each trial.")
    trials: Annotated[tuple[Trial, ...], Field(min_length=1, max_length=MOST_TRIALS)] = Field(
        description="The trials in their order."
    )
    failed: Annotated[dict[str, str], AfterValidator(small_value)] = Field(
        default_factory=dict, description="Settings as JSON -> why that trial failed."
    )

    @property
    def recipe(self) -> Trial:
        """The trial of the experiment as it was."""
        return self.trials[0]

    @property
    def winner(self) -> Trial:
        """The best trial; of equal ones the first."""
        return max(self.trials, key=self.score)

    def score(self, trial: Trial) -> float:
        """Return the value by which a trial is compared; minus infinity if it is not defined."""
        return trial.value(self.metric)


def write_search(result: SearchResult, file: Path) -> None:
    """Write a result as JSON. It is never half written.

    Args:
        result: The result.
        file: The file.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".part")
    partial.write_text(json.dumps(result.model_dump(mode="json"), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(partial, file)


def read_search(file: Path) -> SearchResult:
    """Read a result from a file of any origin. Its content is checked.

    An InputError is raised if the file cannot be read or its content does not fit.

    Args:
        file: The file.

    Returns:
        The result.
    """
    return validated(SearchResult, read_json(file, "the result of a search"), str(file))
