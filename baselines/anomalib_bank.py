"""A model of anomalib that is fitted once to the features of all images, such as Padim, Patchcore or Dfm.

Paper:     that of the model, which anomalib names.
Code read: anomalib 2.7 (Apache-2.0), which is imported and not copied; the extra mddbench[anomalib].
Differs:   The images, their size and the evaluation are this suite's, and one model serves all categories.
           The backbone has the weights of the experiment's encoder.
           Features, their normalisation, the fit, map and score are the model's.
           Whole images are resized, where some models of anomalib crop.
Unsaid:    A map that is smaller than the image is resized bilinearly.
           All features are kept until the fit, as in anomalib.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from mddbench.batch import Batch
from mddbench.detector import Detector
from mddbench.nn.anomalib_model import AnomalibModel, AnomalibSettings, ModelName
from mddbench.nn.encoder import NO_ENCODER, FrozenEncoder


class AnomalibBankSettings(AnomalibSettings):
    """Which model of anomalib, and how it is built."""

    model: ModelName = Field(default="Patchcore", description="The name of anomalib's class of the model.")


class AnomalibBank(Detector[AnomalibBankSettings]):
    """A model of anomalib that only collects.

    Attributes:
        model: The model.
    """

    label = "Fitted model of anomalib"
    version = 1
    single_pass = True
    image_score_rule = "the model's own"
    smoothing = "the model's own"

    def __init__(self, encoder: FrozenEncoder, settings: AnomalibBankSettings, categories: int) -> None:
        model = AnomalibModel(encoder, settings, collects=True, other="anomalib")
        super().__init__(encoder if model.uses_encoder else FrozenEncoder(NO_ENCODER, ()), settings, categories)
        self.model = model
        self.label, self.network = model.label, model.network

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        """Collect the features of a batch. There is no loss."""
        self.model.loss(batch.images)
        return {}

    def finish_training(self) -> None:
        """Fit the model to what it has collected."""
        self.model.fit()

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
