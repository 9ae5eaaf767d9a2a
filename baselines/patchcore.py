"""PatchCore: the distance of a patch's features to the nearest of those that normal images have.

Paper:     Roth et al., Towards Total Recall in Industrial Anomaly Detection, CVPR 2022.
Code read: the authors' amazon-science/patchcore-inspection at fcaa92f (Apache-2.0).
Differs:   There is one bank for all categories; the authors have one for each.
           Images have no centre crop. Any encoder and any number of levels will do.
           An image's score is the maximum of the smoothed map, as in ADer; the authors': of the raw patches.
           The coreset is a running one if there are more patches than `settings.most_patches`. Until then it is theirs.
           With `settings.neighbours` above 1, all patches are weighted as in equation 7 of the paper, and so is the map.
           In the paper this concerns the image's score alone, and distances are plain. The authors' code has no weights.
Variants:  The authors' is the default, and ADer's: width 1024, a coreset of 10 % after a projection to 128 dimensions.
           Without a width, channels are averaged over 3x3 positions and joined, which suits a small encoder.
           Nearest neighbours among the tokens of a vision transformer, as AnomalyDINO and RAD have them:
           `settings.width: null`, `neighbourhood: 1`, `unit: true`, `coreset: 1.0`, `highest: 0.01`. AnomalyDINO
           (Damm et al., WACV 2025) takes the last block after the final normalisation (`encoder.normed: true`). RAD
           takes several blocks. It looks for the nearest neighbour of each block alone, near the same position, in
           images like the one that is tested; here all blocks have one nearest neighbour, anywhere in the bank.
Unsaid:    The paper's distances are plain. The code's are squared, in scores and maps, and so are ours.
           The coreset begins with the mean distance to ten random points, which the paper does not mention.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from mddbench.batch import Batch
from mddbench.detector import Detector
from mddbench.nn.coreset import greedy_coreset
from mddbench.nn.encoder import FrozenEncoder
from mddbench.nn.nearest import nearest
from mddbench.nn.patches import embedding_width, patch_embeddings
from mddbench.nn.precision import full_precision
from mddbench.nn.scores import describe_highest, mean_of_highest
from mddbench.nn.smoothing import describe_smoothing, gaussian_smooth
from mddbench.settings import Count, Extended, OddCount, Pixels
from mddbench.sizes import ImageSize, position_count

FLOAT_BYTES = 4
LARGEST_SHARE = 0.5
"""Greatest share of `most_patches` that a running coreset keeps. The rest is room for new patches."""


class PatchCoreSettings(Extended):
    """The settings of PatchCore."""

    added: ClassVar[tuple[str, ...]] = ("neighbourhood", "unit", "highest")

    width: Count | None = Field(
        default=1024,
        description="The number of channels of a patch's vector, for each level and in the end. "
        "null: all channels' means over the neighbourhood, side by side.",
    )
    coreset: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.1, description="The share of all patches that the bank keeps. 1: all, up to `most_patches`."
    )
    projection: Count | None = Field(
        default=128,
        description="The number of dimensions of the random projection in which the coreset is picked. "
        "null, or no fewer than the vectors have: no projection.",
    )
    most_patches: Annotated[int, Field(ge=1, le=2**33)] = Field(
        default=1_000_000,
        description="The number of patches that are collected before they are thinned to a coreset. "
        "The collection needs 4 bytes x this number x (width + 3 x projection), on the model's device. The bank keeps "
        "at most the share `coreset` of this number.",
    )
    neighbours: Count = Field(
        default=1,
        description="The number of vectors of the bank around a patch's nearest one that its weight is computed from "
        "(paper: 9). 1: no weights, as in the authors' code.",
    )
    sigma: Pixels = Field(default=4.0, description="The standard deviation of the smoothing, in pixels.")
    neighbourhood: OddCount = Field(
        default=3, description="The side of the neighbourhood of a position that its vector describes; 1 for tokens."
    )
    unit: bool = Field(
        default=False,
        description="True if each level's part of a vector has length 1. Squared distances are then sums of 2 (1 - cos).",
    )
    highest: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None,
        description="The share of a map's pixels, the highest ones, whose mean is the image's score; null: the maximum.",
    )


class PatchCore(Detector[PatchCoreSettings]):
    """A bank of patches. The map is the smoothed squared distance of each patch to its nearest one in the bank.

    Attributes:
        bank: (N, D) vectors of normal patches; one of zeros before there are any.
        projection: (D, projection) random projection in which the coreset is picked; None if there is none.
    """

    label = "PatchCore"
    version = 1
    single_pass = True

    def __init__(self, encoder: FrozenEncoder, settings: PatchCoreSettings, categories: int) -> None:
        super().__init__(encoder, settings, categories)
        self.smoothing = describe_smoothing(settings.sigma)
        if settings.highest is not None:
            self.image_score_rule = describe_highest(settings.highest)
        width = embedding_width(encoder.channels, settings.width)
        self.register_buffer("bank", torch.zeros(1, width))
        self.bank: Tensor
        projected = settings.projection is not None and settings.projection < width
        projection = torch.empty(width, settings.projection or 0).uniform_(-1.0, 1.0) if projected else None
        self.register_buffer("projection", projection, persistent=False)
        self.projection: Tensor | None
        self._patches: list[Tensor] = []
        self._projected: list[Tensor] = []
        self._seen = 0

    @classmethod
    def training_settings(cls, settings: PatchCoreSettings) -> dict[str, Any]:
        """Return the settings that the bank depends on.

        Args:
            settings: The settings.

        Returns:
            Name -> JSON value.
        """
        return settings.model_dump(mode="json", exclude={"neighbours", "sigma", "highest"})

    def collected_bytes(self, images: int, image_size: ImageSize) -> int:
        """Return the bytes of the patches that are collected at most, with their projections.

        Args:
            images: Number of training images.
            image_size: The size of the images.

        Returns:
            Number of bytes in float32. While a coreset is picked, the projections exist three times. If all patches are
            kept, the vectors exist twice while they are joined.
        """
        patches = min(images * position_count(image_size, self.encoder.strides[0]), self.settings.most_patches)
        projected = 0 if self.projection is None else self.projection.shape[1]
        vectors = 2 if self.settings.coreset == 1 else 1
        return FLOAT_BYTES * patches * (vectors * self.bank.shape[1] + 3 * projected)

    def growing_work(self, images: int, image_size: ImageSize) -> tuple[float, float]:
        """Return the distances to all picks that the coresets need, and the size of the bank.

        Args:
            images: Number of training images.
            image_size: The size of the images.

        Returns:
            Number of distances, and number of vectors.
        """
        share, most = self.settings.coreset, self.settings.most_patches
        patches = images * position_count(image_size, self.encoder.strides[0])
        if patches <= most:
            return (share * patches**2 if share < 1 else 0.0), share * patches
        share = min(share, LARGEST_SHARE)
        thinned = (patches - share * most) / ((1 - share) * most)
        return thinned * share * most**2, share * most

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        """Collect the patches of a batch of normal images. There is no loss."""
        self._collect(self._embedded(batch.images).flatten(0, 2))
        return {}

    def finish_training(self) -> None:
        """Thin what was collected to the bank."""
        self._thin()
        self.bank = torch.cat(self._patches)
        self._patches, self._projected, self._seen = [], [], 0

    def anomaly_maps(self, images: Tensor) -> Tensor:
        """Compute the anomaly maps.

        Args:
            images: (B, 3, H, W) in [0, 1].

        Returns:
            (B, H, W), smoothed.
        """
        patches = self._embedded(images)
        scores = self._scores(patches.flatten(0, 2)).reshape(len(images), 1, *patches.shape[1:3])
        size = (images.shape[-2], images.shape[-1])
        maps = F.interpolate(scores, size, mode="bilinear", align_corners=False)[:, 0]
        return gaussian_smooth(maps, self.settings.sigma)

    def image_scores(self, maps: Tensor) -> Tensor:
        """Compute the image scores (B,) of maps (B, H, W): the maximum, or the mean of the highest pixels."""
        highest = self.settings.highest
        return super().image_scores(maps) if highest is None else mean_of_highest(maps, highest)

    def _embedded(self, images: Tensor) -> Tensor:
        """The vectors (B, H, W, D) of all patches of images."""
        settings = self.settings
        return patch_embeddings(self.encoder(images), settings.width, settings.neighbourhood, settings.unit)

    def _scores(self, patches: Tensor) -> Tensor:
        """The scores (N,) of patches (N, D): squared distances, weighted with more than one neighbour."""
        squared, indices = nearest(patches, self.bank)
        neighbours = min(self.settings.neighbours, len(self.bank))
        if neighbours == 1:
            return squared[:, 0]
        found, place = indices[:, 0].unique(return_inverse=True)  # type: ignore[no-untyped-call]
        around = nearest(self.bank[found], self.bank, neighbours)[1][place]
        distances = torch.stack([(patches - self.bank[each]).norm(dim=1) for each in around.T], dim=1)
        weights = 1.0 - torch.exp(squared[:, 0].sqrt() - distances.logsumexp(dim=1))
        return weights.clamp(min=0.0) * squared[:, 0]

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _collect(self, patches: Tensor) -> None:
        """Keep patches (N, D), and thin the collection if it is too large."""
        self._patches.append(patches)
        self._seen += len(patches)
        with full_precision(patches):
            self._projected.append(patches if self.projection is None else patches @ self.projection)
        if sum(map(len, self._patches)) > self.settings.most_patches:
            self._thin()

    def _thin(self) -> None:
        """Reduce the collected patches to a coreset of all patches that were seen."""
        share, most = self.settings.coreset, self.settings.most_patches
        if self._seen > most:
            share = min(share, LARGEST_SHARE)
        count = max(1, int(share * min(self._seen, most)))
        if count >= sum(map(len, self._patches)):
            return
        kept = greedy_coreset(torch.cat(self._projected), count).sort().values
        for parts in (self._patches, self._projected):
            parts[:] = [_rows(parts, kept)]


def _rows(parts: list[Tensor], indices: Tensor) -> Tensor:
    """Take rows of tensors that lie one below the other, without joining them.

    Args:
        parts: (N_p, D) for each part.
        indices: (M,) rows of all parts together, in rising order.

    Returns:
        (M, D).
    """
    taken, start = [], 0
    for part in parts:
        bounds = torch.tensor([start, start + len(part)], device=indices.device)
        first, last = torch.searchsorted(indices, bounds).tolist()
        taken.append(part[indices[first:last] - start])
        start += len(part)
    return torch.cat(taken)
