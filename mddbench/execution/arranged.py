"""Which images of a dataset a cell trains on, sets thresholds on and is judged on."""

from __future__ import annotations

from mddbench.data.dataset import Dataset
from mddbench.execution.calibration import calibrated
from mddbench.execution.contamination import contaminated
from mddbench.experiments.schema import Experiment


def arranged(dataset: Dataset, experiment: Experiment, seed: int) -> Dataset:
    """Divide the images of a dataset as an experiment says.

    Normal images are held out for thresholds first. Then defective ones are added to the training images that are left.
    An InputError is raised if the dataset has too few images for that.

    Args:
        dataset: The opened dataset.
        experiment: The experiment.
        seed: Seed of the cell.

    Returns:
        The dataset of the cell; unchanged if the experiment asks for neither.
    """
    return contaminated(calibrated(dataset, experiment, seed), experiment, seed)
