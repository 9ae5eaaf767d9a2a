"""A model of anomalib that learns by gradient, such as Stfpm, Fastflow or ReverseDistillation, in the suite's loop.

Paper:     that of the model, which anomalib names.
Code read: anomalib 2.7 (Apache-2.0), which is imported and not copied; the extra mddbench[anomalib].
Differs:   The loop, the images, their size and the evaluation are this suite's. The backbone has the weights of the
           experiment's encoder. The loss, the optimiser with its rates, the normalisation, map and score are the model's.
           Of its optimiser's schedule and its Trainer's clipping nothing is used: the experiment's stand in their place.
           Whole images are resized, where some models of anomalib crop.
Unsaid:    A map that is smaller than the image is resized bilinearly.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mddbench.batch import Batch
from mddbench.detector import Detector
from mddbench.nn.anomalib_model import AnomalibModel, AnomalibSettings
from mddbench.nn.encoder import NO_ENCODER, FrozenEncoder


class Anomalib(Detector[AnomalibSettings]):
    """A model of anomalib that is trained.

    Attributes:
        model: The model.
    """

    label = "Trained model of anomalib"
    version = 1
    image_score_rule = "the model's own"
    smoothing = "the model's own"
    brings_optimizer = True

    def __init__(self, encoder: FrozenEncoder, settings: AnomalibSettings, categories: int) -> None:
        model = AnomalibModel(encoder, settings, collects=False, other="anomalib_bank")
        super().__init__(encoder if model.uses_encoder else FrozenEncoder(NO_ENCODER, ()), settings, categories)
        self.model = model
        self.label, self.network = model.label, model.network

    def own_optimizer(self) -> torch.optim.Optimizer:
        """Return the optimiser that the model makes for itself."""
        return self.model.own_optimizer()

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the model's loss."""
        return {"loss": self.model.loss(batch.images)}

    def anomaly_maps(self, images: Tensor) -> Tensor:
        """Compute the model's maps.

        Args:
            images: (B, 3, H, W) in [0, 1].

        Returns:
            (B, H, W) scores.
        """
        return self.model.maps_and_scores(images)[0]

    def maps_and_scores(self, images: Tensor, category: int = 0) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Compute the model's maps and its own image scores.

        Args:
            images: (B, 3, H, W) in [0, 1].
            category: Not used.

        Returns:
            (B, H, W) maps and (B,) scores.
        """
        return self.model.maps_and_scores(images)
