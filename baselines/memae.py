"""MemAE: an autoencoder of pixels that can only rebuild mixtures of the items of a memory.

Paper:     Gong et al., Memorizing Normality to Detect Anomaly: Memory-Augmented Deep Autoencoder for Unsupervised
           Anomaly Detection, ICCV 2019. Its text could be read in part only.
Code read: the authors' donggong1/memae-anomaly-detection at ceece77 (MIT), which is for videos. None of it is used.
Differs:   Networks are 2D, with narrower levels. The authors' code is 3D, and no code of theirs for images was found.
           The threshold of the weights is 1 / N and can be 2 / N at most. The authors' code has 0.0025 for N = 2000,
           which is 5 / N: normalised features then get hardly any answer at first, and nothing is learnt from them.
           There is one model for all categories.
Variants:  Dot product (the code's, and the default) or cosine (the paper's): `settings.addressing.similarity`.
           A memory between frozen features is a method of its own, `memae_features`.
Unsaid:    How a map is smoothed, since the authors score whole frames. An image's score is the mean of its map, as in
           their code; `settings.image_score: max` is the usual one in this field. No number of the authors on
           industrial images was found.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from mddbench.batch import Batch
from mddbench.detector import Detector
from mddbench.nn.encoder import FrozenEncoder
from mddbench.nn.memory_items import AddressedMemory, AddressingSettings, entropy
from mddbench.nn.pixel_networks import Widths, as_signed, decoder_of, encoder_of, initialise_narrowly
from mddbench.nn.precision import at_least_single
from mddbench.nn.smoothing import describe_smoothing, gaussian_smooth
from mddbench.settings import Pixels, Strict

TINY = 1e-12
"""What squared errors are raised by before their root is taken."""


class MemAESettings(Strict):
    """The settings of MemAE."""

    widths: Widths = Field(
        default=(32, 64, 128, 256),
        description="The numbers of channels of the encoder's levels, each of half the size of the one before. "
        "The decoder mirrors them.",
    )
    addressing: AddressingSettings = Field(
        default=AddressingSettings(), description="The settings of the memory and of its reading."
    )
    entropy: Annotated[float, Field(ge=0, le=10)] = Field(
        default=2e-4, description="The weight of the mean entropy of the memory's weights in the loss."
    )
    sigma: Pixels = Field(default=0.0, description="The standard deviation of the smoothing, in pixels; 0: none.")
    image_score: Literal["mean", "max"] = Field(
        default="mean", description="An image's score: the mean of its map, or the maximum."
    )


class MemAE(Detector[MemAESettings]):
    """An autoencoder with a memory at its narrowest place. The map is the distance of a pixel to the rebuilt one.

    Attributes:
        down: The network before the memory.
        memory: The memory, which is read at each position.
        up: The network behind the memory.
    """

    label = "MemAE"
    version = 1
    uses_encoder = False

    def __init__(self, encoder: FrozenEncoder, settings: MemAESettings, categories: int) -> None:
        super().__init__(encoder, settings, categories)
        self.smoothing = describe_smoothing(settings.sigma)
        self.image_score_rule = f"{settings.image_score} of the map"
        self.down, self.up = encoder_of(settings.widths), decoder_of(settings.widths)
        self.memory = AddressedMemory(settings.widths[-1], settings.addressing)
        initialise_narrowly(self.down)
        initialise_narrowly(self.up)

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the losses of a batch of normal images.

        Args:
            batch: The normal training images.

        Returns:
            Two scalar loss terms: the mean square of the error on [-1, 1], and the weighted entropy.
        """
        images, rebuilt, weights = self._rebuilt(batch.images)
        return {"reconstruction": F.mse_loss(rebuilt, images), "entropy": self.settings.entropy * entropy(weights)}

    def anomaly_maps(self, images: Tensor) -> Tensor:
        """Compute the anomaly maps.

        Args:
            images: (B, 3, H, W) in [0, 1].

        Returns:
            (B, H, W), the length of the error over the channels on [-1, 1], smoothed.
        """
        signed, rebuilt, _ = self._rebuilt(images)
        return gaussian_smooth(((rebuilt - signed).square().sum(dim=1) + TINY).sqrt(), self.settings.sigma)

    def image_scores(self, maps: Tensor) -> Tensor:
        """Compute the image scores (B,) of maps (B, H, W): their means or their maxima."""
        flat = maps.flatten(1)
        return flat.mean(dim=1) if self.settings.image_score == "mean" else flat.amax(dim=1)

    def diagnostics(self) -> dict[str, float]:
        """Return the share of items that are alive, and the share of positions that get an answer."""
        return self.memory.diagnostics()

    def _rebuilt(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images on [-1, 1], what is rebuilt of them, both (B, 3, H, W), and the memory's weights (B, h, w, N)."""
        signed = as_signed(images, len(self.settings.widths), "memae")
        read, weights = self.memory(self.down(signed).movedim(1, -1))
        return signed, at_least_single(self.up(read.movedim(-1, 1))), weights
