"""SimpleNet: a small classifier tells the features of normal patches from the same features with noise.

Paper:     Liu et al., SimpleNet: a Simple Network for Image Anomaly Detection and Localization, CVPR 2023.
Code read: the authors' DonaldRR/SimpleNet at 351a2b8 (MIT).
Differs:   There is one model for all categories; the authors train one per category.
           Images have no centre crop. Any encoder and any number of levels will do.
           An image's score is the maximum of the smoothed map, as in ADer; the authors': of the raw patches.
           One optimiser trains both parts; the authors' second one is Adam, whose small weight decay has another form.
           The last epoch counts. The authors keep the epoch with the best image AUROC on the test images.
Variants:  The authors' is the default: AdamW at 0.0001 for the projection, twice the rate for the classifier, batches of
           8. ADer's variant has batches of 32, gradient_clip 5.0 and schedule `step` at 0.8.
           With `settings.relative_noise` the noise is in units of the features' deviation, for features of another
           scale. Without a width, channels are averaged over 3x3 positions and joined, which suits a small encoder.
Unsaid:    In the code, normal and noisy patches go through the classifier's batch normalisation together, and so here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from mddbench.batch import Batch
from mddbench.detector import Detector
from mddbench.nn.encoder import FrozenEncoder
from mddbench.nn.patches import embedding_width, patch_embeddings
from mddbench.nn.precision import at_least_single
from mddbench.nn.smoothing import describe_smoothing, gaussian_smooth
from mddbench.settings import Count, Fraction, Pixels, Positive, Strict

Decay = Annotated[float, Field(ge=0, le=10)]


class SimpleNetSettings(Strict):
    """The settings of SimpleNet."""

    width: Count | None = Field(
        default=1536,
        description="The number of channels of a patch's vector, for each level and in the end. "
        "null: all channels' means over 3x3 positions, side by side.",
    )
    hidden: Count = Field(default=1024, description="The number of hidden channels of the classifier.")
    noise: Positive = Field(
        default=0.015, description="The standard deviation of the noise that is added to projected features."
    )
    relative_noise: bool = Field(
        default=False,
        description="True: `noise` is relative to the standard deviation of the features of a batch, "
        "before their projection.",
    )
    margin: Positive = Field(
        default=0.5, description="The score that normal patches should reach, and noisy ones fall below with its minus."
    )
    rate_ratio: Positive = Field(
        default=2.0, description="The classifier's learning rate, relative to the projection's."
    )
    classifier_decay: Decay = Field(
        default=1e-5, description="The weight decay of the classifier. The projection has the optimiser's."
    )
    slope: Fraction = Field(default=0.2, description="The slope of the classifier's activation for negative values.")
    sigma: Pixels = Field(default=4.0, description="The standard deviation of the smoothing, in pixels.")


class SimpleNet(Detector[SimpleNetSettings]):
    """A projection and a classifier of patches. The map is the smoothed, negative score of each patch.

    Attributes:
        projection: Linear layer (D -> D), which adapts the features.
        classifier: Two linear layers (D -> hidden -> 1). Normal patches should get a high score.
    """

    label = "SimpleNet"
    version = 1
    asks_teacher = True

    def __init__(self, encoder: FrozenEncoder, settings: SimpleNetSettings, categories: int) -> None:
        super().__init__(encoder, settings, categories)
        self.smoothing = describe_smoothing(settings.sigma)
        width = embedding_width(encoder.channels, settings.width)
        self.projection = nn.Linear(width, width)
        self.classifier = nn.Sequential(
            nn.Linear(width, settings.hidden),
            nn.BatchNorm1d(settings.hidden),
            nn.LeakyReLU(settings.slope),
            nn.Linear(settings.hidden, 1, bias=False),
        )
        for layer in (self.projection, *self.classifier):
            if isinstance(layer, nn.Linear):
                nn.init.xavier_normal_(layer.weight)

    def parameter_groups(self, lr: float) -> Iterable[dict[str, Any]]:
        """Return two groups, with a weight decay each.

        Args:
            lr: Learning rate of the projection.

        Returns:
            The groups of the projection and of the classifier.
        """
        settings = self.settings
        return [
            {"params": list(self.projection.parameters()), "lr": lr},
            {
                "params": list(self.classifier.parameters()),
                "lr": lr * settings.rate_ratio,
                "weight_decay": settings.classifier_decay,
            },
        ]

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the losses of a batch of normal images: how far normal and noisy patches are from their margins."""
        features = patch_embeddings(self.teacher(batch), self.settings.width).flatten(0, 2)
        deviation = features.std() * self.settings.noise if self.settings.relative_noise else self.settings.noise
        normal = at_least_single(self.projection(features))
        noisy = normal + torch.randn_like(normal) * deviation
        scores = at_least_single(self.classifier(torch.cat([normal, noisy])))
        normal_scores, noisy_scores = scores.chunk(2)
        margin = self.settings.margin
        return {
            "normal": F.relu(margin - normal_scores).mean(),
            "noisy": F.relu(margin + noisy_scores).mean(),
        }

    def anomaly_maps(self, images: Tensor) -> Tensor:
        """Compute the anomaly maps.

        Args:
            images: (B, 3, H, W) in [0, 1].

        Returns:
            (B, H, W), smoothed.
        """
        patches = patch_embeddings(self.encoder(images), self.settings.width)
        scores = at_least_single(self.classifier(self.projection(patches.flatten(0, 2))))
        grids = -scores.reshape(len(images), 1, *patches.shape[1:3])
        maps = F.interpolate(grids, (images.shape[-2], images.shape[-1]), mode="bilinear", align_corners=False)[:, 0]
        return gaussian_smooth(maps, self.settings.sigma)
