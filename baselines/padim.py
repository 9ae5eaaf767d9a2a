"""PaDiM: the Mahalanobis distance of a position's features to a Gaussian of normal ones at that position.

Paper:     Defard et al., PaDiM: a Patch Distribution Modeling Framework, ICPR workshops 2020.
Code read: there is none by the authors. xiahaifeng1995/PaDiM-Anomaly-Detection-Localization-master at 616004b
           (Apache-2.0), a re-implementation.
Differs:   There is one Gaussian at each position for all categories; the authors have one for each category.
           Images have no centre crop. Any encoder and any number of levels will do.
           Sums in double precision take the place of stored features. Scores are not scaled by those of the test images.
Variants:  The default is the paper's for WideResNet-50-2, 550 channels. For ResNet-18 it is `settings.channels: 100`.
Unsaid:    The code resizes deeper levels by repeating the nearest position, and so do we.
           The map is resized bilinearly without aligned corners, and then smoothed. The order is the code's.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from mddbench.batch import Batch
from mddbench.detector import Detector
from mddbench.errors import InputError
from mddbench.nn.encoder import FrozenEncoder
from mddbench.nn.precision import at_least_single, full_precision
from mddbench.nn.smoothing import describe_smoothing, gaussian_smooth
from mddbench.settings import Count, Pixels, Positive, Strict
from mddbench.sizes import ImageSize, position_count

FLOAT_BYTES, DOUBLE_BYTES = 4, 8
POSITIONS_AT_ONCE = 256
"""Number of positions whose Gaussians are built at once, in double precision."""


class PaDiMSettings(Strict):
    """The settings of PaDiM."""

    channels: Count | None = Field(
        default=550,
        description="The number of channels, chosen at random among those of all levels. null: all. The sums need "
        "8 bytes x positions x channels^2 in training, and the model half of it.",
    )
    channel_seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(
        default=1024, description="The seed of the choice of channels, whatever the seed of the cell."
    )
    regularisation: Positive = Field(
        default=0.01, description="What is added to the variances, the diagonal of a covariance."
    )
    sigma: Pixels = Field(default=4.0, description="The standard deviation of the smoothing, in pixels.")


class PaDiM(Detector[PaDiMSettings]):
    """A Gaussian at each position of the first level's grid. The map is the smoothed Mahalanobis distance to it.

    Attributes:
        chosen: (d,) indices of the channels that are used, among those of all levels.
        mean: (P, d) means of the features at P positions, row by row; (1, d) zeros before there are any.
        whitening: (P, d, d) inverse Cholesky factors of the covariances; (1, d, d) the unit matrix before.
    """

    label = "PaDiM"
    version = 1
    single_pass = True

    def __init__(self, encoder: FrozenEncoder, settings: PaDiMSettings, categories: int) -> None:
        super().__init__(encoder, settings, categories)
        total = sum(encoder.channels)
        channels = total if settings.channels is None else settings.channels
        if channels > total:
            raise InputError(
                f"padim: expected at most {total} channels, which '{encoder.name}' has at levels "
                f"{list(encoder.levels)}; found {channels}; lower settings.channels"
            )
        self.smoothing = describe_smoothing(settings.sigma)
        generator = torch.Generator().manual_seed(settings.channel_seed)
        chosen = torch.randperm(total, generator=generator, device="cpu")[:channels].sort().values
        self.register_buffer("chosen", chosen, persistent=False)
        self.chosen: Tensor
        self.register_buffer("mean", torch.zeros(1, channels))
        self.mean: Tensor
        self.register_buffer("whitening", torch.eye(channels)[None])
        self.whitening: Tensor
        self._images = 0
        self._sums: Tensor | None = None
        self._products: Tensor | None = None

    @classmethod
    def training_settings(cls, settings: PaDiMSettings) -> dict[str, Any]:
        """Return the settings that the Gaussians depend on.

        Args:
            settings: The settings.

        Returns:
            Name -> JSON value.
        """
        return settings.model_dump(mode="json", exclude={"sigma"})

    def collected_bytes(self, images: int, image_size: ImageSize) -> int:  # noqa: ARG002
        """Return the bytes of the sums in double precision and of the Gaussians in single precision.

        Args:
            images: Number of training images, on which they do not depend.
            image_size: The size of the images.

        Returns:
            Number of bytes.
        """
        positions = position_count(image_size, self.encoder.strides[0])
        return (DOUBLE_BYTES + FLOAT_BYTES) * positions * len(self.chosen) ** 2

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        """Add a batch of normal images to the sums. There is no loss."""
        self._add(self._features(batch.images).flatten(2))
        return {}

    def finish_training(self) -> None:
        """Build the Gaussians from the sums.

        The covariance is divided by the number of images minus one. Its whitening matrix is the inverse of the lower
        triangular L with L L^T = covariance + regularisation.

        Raises:
            InputError: If there were no images.
        """
        if self._sums is None or self._products is None:
            raise InputError("padim: there are no images to learn from; expected at least one")
        mean = self._sums / self._images
        self.mean = mean.to(self.mean.dtype)
        positions, channels = mean.shape
        whitening = self.whitening.new_empty(positions, channels, channels)
        identity = torch.eye(channels, dtype=torch.float64, device=mean.device)
        for start in range(0, positions, POSITIONS_AT_ONCE):
            part = slice(start, start + POSITIONS_AT_ONCE)
            centred = torch.baddbmm(self._products[part], mean[part, :, None], mean[part, None], alpha=-self._images)
            covariance = centred / max(self._images - 1, 1) + self.settings.regularisation * identity
            factor = torch.linalg.cholesky(covariance)
            whitening[part] = torch.linalg.solve_triangular(factor, identity, upper=False)
        self.whitening = whitening
        self._images, self._sums, self._products = 0, None, None

    def anomaly_maps(self, images: Tensor) -> Tensor:
        """Compute the anomaly maps.

        Args:
            images: (B, 3, H, W) in [0, 1].

        Returns:
            (B, H, W), smoothed.

        Raises:
            InputError: If the grid of the features has another size than in training.
        """
        features = self._features(images)
        grid, positions = features.shape[-2:], features.shape[-2] * features.shape[-1]
        if len(self.mean) not in (1, positions):
            raise InputError(
                f"padim: expected images of the size of training, with {len(self.mean)} positions; "
                f"found {images.shape[-2]}x{images.shape[-1]} pixels, with {positions}; use image_size of training"
            )
        with full_precision(features):
            offsets = features.flatten(2).permute(2, 1, 0) - self.mean[:, :, None]
            distances = (self.whitening.expand(positions, -1, -1) @ offsets).norm(dim=1)
        maps = distances.T.unflatten(1, grid)[:, None]
        maps = F.interpolate(maps, (images.shape[-2], images.shape[-1]), mode="bilinear", align_corners=False)[:, 0]
        return gaussian_smooth(maps, self.settings.sigma)

    def _features(self, images: Tensor) -> Tensor:
        """The chosen channels (B, d, H_1, W_1) of all levels of images, on the grid of the first level."""
        levels = self.encoder(images)
        grid = (levels[0].shape[-2], levels[0].shape[-1])
        joined = [F.interpolate(at_least_single(level), grid, mode="nearest") for level in levels]
        return torch.cat(joined, dim=1).index_select(1, self.chosen)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _add(self, features: Tensor) -> None:
        """Add features (B, d, P) to the sums over images, of themselves and of their products, in double precision."""
        vectors = features.permute(2, 0, 1).double()
        if self._sums is None or self._products is None:
            positions, _, channels = vectors.shape
            self._sums = vectors.new_zeros(positions, channels)
            self._products = vectors.new_zeros(positions, channels, channels)
        self._images += vectors.shape[1]
        self._sums += vectors.sum(dim=1)
        with full_precision(vectors):
            self._products.baddbmm_(vectors.transpose(1, 2), vectors)
