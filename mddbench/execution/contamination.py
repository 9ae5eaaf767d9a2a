"""Defective images among the training images, as a line has them where nobody has looked at every image."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain, zip_longest

import numpy as np

from mddbench.data.dataset import Dataset, Split
from mddbench.data.rows import Joined
from mddbench.data.samples import Sample
from mddbench.errors import InputError
from mddbench.experiments.schema import Experiment
from mddbench.seeding import derived_seed

ASIDE = 0.5
"""Share of the defective test images of each kind that is set aside, at every contamination."""


def contaminated(dataset: Dataset, experiment: Experiment, seed: int) -> Dataset:
    """Add defective test images to the training images of each category, as an experiment says.

    Half of the defective test images of each kind (rounded down) leave the test split, whatever the share is. So all
    shares, also 0, are judged on the same images. Of those set aside, as many are added as make the wanted share of the
    training images, the same number of each kind as far as there are enough. No normal image is lost.

    Args:
        dataset: The opened dataset, without the images that are held out for thresholds.
        experiment: The experiment.
        seed: Seed of the cell. Which images are set aside follows from it, and so does the order in which they are
            added: what is added at a share is also added at a higher one.

    Returns:
        The dataset with these images in `train` in place of `test`; unchanged without contamination.

    Raises:
        InputError: If a category has no defective image to add.
    """
    share = experiment.contamination
    if share is None:
        return dataset
    kept, order, sources, rows = np.ones(len(dataset.test), dtype=np.bool_), list[Sample](), list[int](), list[int]()
    added = 0
    for category in dataset.categories:
        own = [index for index, sample in enumerate(dataset.train.samples) if sample.category == category]
        aside = _set_aside(dataset.test, category, seed)
        kept[aside] = False
        wanted = round(share * len(own) / (1.0 - share))
        if wanted and not aside:
            raise InputError(
                f"{experiment.name}: contamination: {share:g} needs {wanted} defective images of '{category}'; found no "
                "kind of defect with two test images or more, of which half could be taken; leave out contamination"
            )
        taken = aside[:wanted]
        order += [dataset.train.samples[index] for index in own]
        order += [replace(dataset.test.samples[index], split="train") for index in taken]
        sources += [0] * len(own) + [1] * len(taken)
        rows += own + taken
        added += len(taken)
    reached = added / len(order)
    return replace(
        dataset,
        train=_joined(dataset, order, sources, rows),
        test=dataset.test.pick(kept),
        contamination=f"{100 * share:g} % of the training images wanted, {100 * reached:.1f} % reached; half of the "
        "defective test images set aside",
    )


def _set_aside(test: Split, category: str, seed: int) -> list[int]:
    """Draw the test images of a category that are set aside, in the order in which they are added: kind by kind."""
    kinds: dict[str, list[int]] = {}
    for index, sample in enumerate(test.samples):
        if sample.category == category and sample.anomalous:
            kinds.setdefault(sample.defect, []).append(index)
    drawn = []
    for kind, members in sorted(kinds.items()):
        generator = np.random.default_rng(derived_seed(seed, "contamination", category, kind))
        drawn.append([int(index) for index in generator.permutation(members)[: int(ASIDE * len(members))]])
    return [index for index in chain.from_iterable(zip_longest(*drawn)) if index is not None]


def _joined(dataset: Dataset, samples: list[Sample], sources: list[int], rows: list[int]) -> Split:
    """Return the training split of these samples. Nothing is copied before it is used."""
    images = Joined((dataset.train.images, dataset.test.images), np.array(sources), np.array(rows))
    masks = Joined((dataset.train.masks, dataset.test.masks), np.array(sources), np.array(rows))
    return Split(tuple(samples), images.as_array(), masks.as_array())
