"""The protocol of a cell, and the identity by which two cells are the same."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from typing import Any

from pydantic import ValidationError

from mddbench.data.dataset import Dataset
from mddbench.data.images import INTERPOLATION
from mddbench.detector import Detector
from mddbench.engine.batches import batches_per_epoch
from mddbench.engine.evaluate import choose_engine
from mddbench.engine.foreign import UNKNOWN
from mddbench.errors import InputError
from mddbench.execution.grouping import models_of
from mddbench.execution.holdout import is_held_out
from mddbench.experiments.schema import Experiment
from mddbench.metrics.names import METRIC_VERSIONS, Engine
from mddbench.runs.card import CARD_FIELDS, SEEN_ONCE, UPPER_BOUND, ProtocolCard, Setting
from mddbench.settings import Strict


def protocol_card(experiment: Experiment, detector: Detector, dataset: Dataset) -> ProtocolCard:
    """Create the protocol card of a cell.

    Args:
        experiment: Settings of the cell.
        detector: Model of the cell, with the weights of its encoder.
        dataset: Opened dataset of the cell.

    Returns:
        The card. It has the same fields for every method. A field that applies to few cells is set only for them.

    Raises:
        InputError: If a text or number that the method gives does not fit: its version, say.
    """
    try:
        card = ProtocolCard(**_card_fields(experiment, detector, dataset))
    except ValidationError as fault:
        error = fault.errors()[0]
        raise InputError(
            f"{experiment.method}: '{error['loc'][0]}' of the protocol card is {error['input']!r} ({error['msg']})"
        ) from None
    of_training = [name for name, field in CARD_FIELDS.items() if field.training]
    unknown = dict.fromkeys(of_training, UNKNOWN) if card.trained_elsewhere else {}
    return card.model_copy(update=unknown)


def _card_fields(experiment: Experiment, detector: Detector, dataset: Dataset) -> dict[str, Any]:
    """The values of the card's fields, of those that apply to the cell."""
    encoder, single_pass = detector.encoder, detector.single_pass
    optional = {
        "encoder_features": encoder.describe_features(),
        "encoder_padding": f"as for {encoder.padding_for} pixels" if encoder.padding_for else "",
        "network": detector.network,
        "calibration": dataset.calibration_source,
        "contamination": dataset.contamination,
        "learned_weights": detector.learned_from,
    }
    return dict(
        setting=Setting(
            models=experiment.setting,
            categories=len(dataset.categories),
            per_model=experiment.categories_per_model,
            held_out=is_held_out(dataset),
            fabricated=bool(dataset.fabricated),
            development=dataset.development,
        ),
        epochs=SEEN_ONCE if single_pass else experiment.epochs,
        iterations=experiment.epochs * _steps(experiment, dataset),
        batch_size=experiment.batch_size,
        image_size=experiment.image_size,
        interpolation=INTERPOLATION,
        mask_rule=dataset.mask_rule,
        augmentation="none",
        textures=str(dataset.textures) if detector.wants_textures(detector.settings) else "none",
        test_labels=UPPER_BOUND if detector.wants_test_labels else "none",
        encoder=encoder.name,
        encoder_levels=tuple(encoder.levels),
        encoder_weights=encoder.weights_source,
        encoder_sha256=encoder.weights_sha256 if encoder.levels else None,
        optimizer="none" if single_pass else _optimizer(experiment, detector),
        schedule="none" if single_pass else experiment.schedule.model_dump(mode="json"),
        gradient_clip=experiment.gradient_clip,
        precision=experiment.precision,
        smoothing=detector.smoothing,
        image_score=detector.image_score_rule,
        selection="last epoch",
        metrics=METRIC_VERSIONS[metric_engine(experiment, dataset)],
        method_version=detector.version,
        **{name: text for name, text in optional.items() if text},
    )


def _optimizer(experiment: Experiment, detector: Detector) -> dict[str, Any]:
    """The settings of the optimiser: the experiment's, or what the method's own one says of its groups' defaults."""
    if not detector.brings_optimizer:
        return experiment.optimizer.model_dump(mode="json")
    own = detector.own_optimizer()
    told = ("lr", "betas", "momentum", "weight_decay", "amsgrad")
    rates = [group["lr"] for group in own.param_groups]
    values = {name: own.defaults[name] for name in told if name in own.defaults}
    values |= {"betas": list(values["betas"])} if "betas" in values else {}
    return {"name": f"own {type(own).__name__}", **values, "lr": rates[0] if len(set(rates)) == 1 else rates}


def _steps(experiment: Experiment, dataset: Dataset) -> int:
    """Count the training steps of an epoch, of all models together."""
    return sum(batches_per_epoch(images, experiment) for images in training_sets(experiment, dataset))


def fewest_steps(experiment: Experiment, dataset: Dataset) -> int:
    """Count the steps of the training; of several models, those of the shortest training."""
    return experiment.epochs * batches_per_epoch(min(training_sets(experiment, dataset)), experiment)


def training_sets(experiment: Experiment, dataset: Dataset) -> list[int]:
    """Count the training images of each model.

    Args:
        experiment: The experiment.
        dataset: Its opened dataset.

    Returns:
        A number for each model; one for a unified model.
    """
    models = models_of(experiment, dataset)
    if len(models) == 1:
        return [len(dataset.train)]
    counts = Counter(sample.category for sample in dataset.train.samples)
    return [sum(counts[category] for category in members) for members in models.values()]


def metric_engine(experiment: Experiment, dataset: Dataset) -> Engine:
    """Choose the engine of the pixel metrics.

    Args:
        experiment: The experiment, which may name an engine.
        dataset: The opened dataset.

    Returns:
        The engine of the experiment; for 'auto' the engine that suits the largest category.
    """
    if experiment.metrics != "auto":
        return experiment.metrics
    counts = Counter(sample.category for sample in dataset.test.samples)
    return choose_engine(max(counts.values()), experiment.image_size)


def resolved_settings(experiment: Experiment, method_settings: Strict) -> dict[str, Any]:
    """Return all settings of an experiment, including the defaults of its method.

    The seeds are left out, because the cell has one of them.
    The field `setting` is left out, because the protocol card has it.

    Args:
        experiment: The experiment.
        method_settings: The method's own settings.

    Returns:
        Setting -> JSON value.
    """
    settings: dict[str, Any] = experiment.model_dump(
        mode="json", exclude={"seeds", "name", "overrides", "setting", "reported"}
    )
    settings["settings"] = method_settings.model_dump(mode="json")
    return settings


def training_settings(settings: dict[str, Any], method: type[Detector], own: Strict) -> dict[str, Any]:
    """Return the settings that the trained weights depend on. Cells that agree in them share a training.

    Args:
        settings: All settings of the experiment, from `resolved_settings`.
        method: Class of the method.
        own: The method's own settings.

    Returns:
        Setting -> JSON value, without what concerns the evaluation only.
    """
    return {**settings, "settings": method.training_settings(own), "metrics": None}


def identities(
    settings: dict[str, Any], card: dict[str, Any], version: int, seed: int, fingerprint: str
) -> tuple[str, str]:
    """Compute the identity of a cell: a hash over all that decides its numbers.

    Args:
        settings: All settings of the experiment.
        card: The decisive fields of the protocol card.
        version: Version of the method.
        seed: Seed of the cell.
        fingerprint: Fingerprint of the dataset.

    Returns:
        The identity of the cell, and that of its protocol, which is the same without the seed.
        Both have 16 hexadecimal digits.
    """
    decisive = {"settings": settings, "card": card, "version": version, "fingerprint": fingerprint}
    text = json.dumps(decisive, sort_keys=True)
    protocol = hashlib.sha256(text.encode()).hexdigest()[:16]
    return hashlib.sha256(f"{protocol}/{seed}".encode()).hexdigest()[:16], protocol
