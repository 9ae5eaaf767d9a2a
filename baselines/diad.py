"""DiAD: Stable Diffusion rebuilds an image from noise, guided by the image itself; features of both are compared.

Paper:     He et al., A Diffusion-Based Framework for Multi-Class Anomaly Detection, AAAI 2024 (arXiv 2312.06607).
Code read: the authors' lewandofskee/DiAD at d281300 (no licence), through notes on it. None of it is used.
Differs:   The fusion's convolutions start at random (`fusion: random`). The authors' start at 0, where they stay: the layers
           before them start at 0, too, and guide nothing else.
           The two draws of a test image, for its code and its noise, lie in a buffer and are the same for all images. The
           authors draw anew, without a seed.
           Guidance without a classifier is left out: both of its halves have the same prompt and image, so it cancels.
           The text network is left out: the prompt is always empty, so its output is a constant, which a file holds.
           A batch of the recipe is as large as four of the authors', whose gradients they sum.
           The autoencoder is taken as it is. The authors train it further before; that stage is not here.
Kept:      Noise is added up to time 999, while the first step back believes 901. The autoencoder is fed images with ImageNet's
           mean and deviation. The image that guides is the image that is rebuilt. All this is as in the authors' code.
Unsaid:    The number of epochs: the authors' code leaves it to its trainer, whose default is 1000.
           Whether their published weights have a live fusion, and how much their numbers vary from run to run.
Weights:   `--weights-dir` holds Stable Diffusion 1.5, the text constant and the ResNet. Only new layers of the guidance network
           start at random. Without these files there is no DiAD; `diffusion_features` is a small relative from scratch.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from mddbench.batch import Batch
from mddbench.detector import Detector
from mddbench.errors import InputError
from mddbench.nn.diffusion import TIMES, NoiseSchedule
from mddbench.nn.diffusion_blocks import convolution, zeroed
from mddbench.nn.diffusion_unet import Fusion, GuidanceNetwork, UNet, UNetShape
from mddbench.nn.encoder import FrozenEncoder
from mddbench.nn.latent_autoencoder import COLOURS, AutoencoderShape, LatentAutoencoder
from mddbench.nn.precision import at_least_single
from mddbench.nn.smoothing import describe_smoothing, gaussian_smooth
from mddbench.nn.stable_diffusion_files import authors_states, demand_files, starting_states
from mddbench.nn.tensor_files import digest
from mddbench.settings import Count, Depth, Pixels, Positive, Strict

Multipliers = Annotated[tuple[Count, ...], Field(min_length=2, max_length=8)]
EvenCount = Annotated[int, Field(ge=2, le=2**20, multiple_of=2)]


class AutoencoderSettings(Strict):
    """The sizes of the autoencoder. The defaults are those of Stable Diffusion."""

    width: Count = Field(default=128, description="The number of channels at the first level.")
    multipliers: Multipliers = Field(
        default=(1, 2, 4, 4), description="The number of channels of each level, divided by `width`. Sides halve."
    )
    blocks: Depth = Field(default=2, description="The number of residual blocks of a level of the encoder.")
    scale: Positive = Field(default=0.18215, description="What codes are multiplied by before noise is added.")


class DiADSettings(Strict):
    """The settings of DiAD. The sizes are those of Stable Diffusion 1.5."""

    side: Count = Field(
        default=256, description="The side of the images in pixels, for which the fixed draws are made."
    )
    channels: Count = Field(default=4, description="The number of channels of a code.")
    width: EvenCount = Field(default=320, description="The number of channels at the first level of both networks.")
    multipliers: Multipliers = Field(
        default=(1, 2, 4, 4), description="The number of channels of each level, divided by `width`. Sides halve."
    )
    blocks: Depth = Field(default=2, description="The number of residual blocks of a level on the way down.")
    heads: Count = Field(
        default=8, description="The number of heads of attention, which is at all levels but the last."
    )
    groups: Count = Field(default=32, description="The number of groups of the norms of all networks.")
    tokens: Count = Field(default=77, description="The number of tokens of the text constant.")
    context: Count = Field(default=768, description="The number of channels of the text constant.")
    stem: Annotated[tuple[Count, ...], Field(min_length=2, max_length=8)] = Field(
        default=(16, 32, 96, 256),
        description="The number of channels of the layers from the image to the guidance network. Sides halve between them.",
    )
    autoencoder: AutoencoderSettings = Field(default=AutoencoderSettings(), description="The sizes of the autoencoder.")
    everywhere: bool = Field(
        default=False, description="True: the guide enters at all levels. False: at the coarsest one only."
    )
    fusion: Fusion = Field(
        default="random",
        description="How the fusion of the level above the coarsest starts: random, or zero as in the authors' code, where it "
        "never moves. none: no fusion.",
    )
    noised_at: Annotated[int, Field(ge=1, lt=TIMES)] = Field(
        default=999, description="The time, of 1 to 999, up to which the code of a test image is noised."
    )
    steps: Annotated[int, Field(ge=1, le=TIMES // 2)] = Field(
        default=10, description="The number of steps in which it is rebuilt, evenly spaced over all times."
    )
    sigma: Pixels = Field(default=5.0, description="The standard deviation of the smoothing, in pixels.")
    pool: Count = Field(default=8, description="The side of the window, in pixels, over which a map is averaged.")
    passes: Annotated[int, Field(ge=0, le=64)] = Field(
        default=8, description="How often it is averaged before its maximum is the image's score."
    )


class DiAD(Detector[DiADSettings]):
    """An image is rebuilt from noise. The map is the sum of the levels' cosine distances of both images' features, smoothed.

    Attributes:
        schedule: The amounts of noise.
        autoencoder: The autoencoder, frozen.
        unet: The U-Net. Its way down and its middle are frozen.
        guidance: The network that guides it.
        text: (tokens, context), the output of the text network for the empty prompt.
        draws: (2, channels, h, w), the draws of all test images: that of the code, and the noise.
    """

    label = "DiAD"
    version = 1
    text: Tensor
    draws: Tensor

    def __init__(self, encoder: FrozenEncoder, settings: DiADSettings, categories: int) -> None:
        super().__init__(encoder, settings, categories)
        self.smoothing = describe_smoothing(settings.sigma)
        self.image_score_rule = f"max of the map averaged {settings.passes} times over {settings.pool}x{settings.pool}"
        codes, shape = shapes_of(settings)
        self.schedule = NoiseSchedule()
        self.autoencoder = LatentAutoencoder(codes).requires_grad_(False)
        self.unet = UNet(shape)
        for part in (self.unet.time, self.unet.inputs, self.unet.middle):
            part.requires_grad_(False)
        self.guidance = GuidanceNetwork(shape, stem_of(settings), settings.fusion, settings.everywhere)
        side = settings.side // codes.factor
        self.register_buffer("text", torch.zeros(settings.tokens, settings.context))
        self.register_buffer("draws", torch.randn(2, settings.channels, side, side))

    @classmethod
    def shrunk(cls, settings: DiADSettings) -> DiADSettings:
        """Return the settings with networks for images of 64 pixels that checks can train in seconds."""
        small = {"width": 8, "multipliers": (1, 2), "blocks": 1, "heads": 2, "groups": 4, "tokens": 3, "context": 4}
        autoencoder = settings.autoencoder.model_copy(update={"width": 8, "multipliers": (1, 1, 2), "blocks": 1})
        return settings.model_copy(
            update={**small, "side": 64, "stem": (4, 4, 8), "steps": min(settings.steps, 2), "autoencoder": autoencoder}
        )

    @classmethod
    def demand_weights(cls, weights: Path | None) -> None:
        """Check that the folder of the files is given and has them; an InputError is raised if not."""
        demand_files(weights)

    def start_from(self, weights: Path | None) -> None:
        """Load Stable Diffusion's weights. The guidance network starts as a copy of the U-Net's way down.

        An InputError is raised if a file is missing or is of another network.

        Args:
            weights: The folder of the files; None if none was given.
        """
        states = starting_states(weights, self.unet, self.autoencoder, self.text)
        self.unet.load_state_dict(states["unet"])
        self.autoencoder.load_state_dict(states["autoencoder"])
        self.text.copy_(states["text"][""])
        copied = self.guidance.state_dict() | {
            name: value for name, value in states["unet"].items() if not name.startswith(("outputs.", "head."))
        }
        self.guidance.load_state_dict(copied)
        flat = {f"{part}.{name}": value for part, state in states.items() for name, value in state.items()}
        self.network = f"starts from Stable Diffusion's weights, SHA-256 {digest(flat)[:16]}"

    def load_authors_state(self, content: Any, where: str) -> None:
        """Load the weights of a checkpoint by DiAD's authors.

        Args:
            content: The content of the file, tensors in dicts.
            where: The name of the file, for messages.
        """
        networks = {"unet": self.unet, "guidance": self.guidance, "autoencoder": self.autoencoder}
        for name, state in authors_states(content, where, networks).items():
            networks[name].load_state_dict(state)

    @classmethod
    def training_settings(cls, settings: DiADSettings) -> dict[str, Any]:
        """Return all settings except those of the maps and scores alone."""
        return settings.model_dump(mode="json", exclude={"noised_at", "steps", "sigma", "pool", "passes"})

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the loss of a batch of normal images.

        Args:
            batch: The normal training images.

        Returns:
            One scalar loss term: the mean square of the error of the predicted noise, at a random time for each image.
        """
        images = self._normalised(batch.images)
        draw, noise = (torch.randn(self._codes_of(images), dtype=images.dtype, device=images.device) for _ in range(2))
        times = torch.randint(0, TIMES, (len(images),), device=images.device)
        with torch.no_grad():
            clean = self._encoded(images, draw)
        predicted = self._predicted(self.schedule.noised(clean, noise, times), images, times)
        return {"diffusion": F.mse_loss(predicted, noise)}

    def anomaly_maps(self, images: Tensor) -> Tensor:
        """Compute the anomaly maps.

        Args:
            images: (B, 3, H, W) in [0, 1].

        Returns:
            (B, H, W), smoothed.
        """
        rebuilt = self._rebuilt(self._normalised(images)) * self.encoder.std + self.encoder.mean
        size = (images.shape[-2], images.shape[-1])
        total = images.new_zeros(())
        for before, after in zip(self.encoder(images), self.encoder(rebuilt), strict=True):
            distances = 1 - F.cosine_similarity(at_least_single(before), at_least_single(after), dim=1)
            total = total + F.interpolate(distances[:, None], size, mode="bilinear", align_corners=True)[:, 0]
        return gaussian_smooth(total, self.settings.sigma)

    def image_scores(self, maps: Tensor) -> Tensor:
        """Compute the image scores: the maximum of each map after averaging it several times over a window.

        Args:
            maps: (B, H, W). Maps that are smaller than the window are averaged as a whole.

        Returns:
            (B,).
        """
        averaged = maps[:, None]
        for _ in range(self.settings.passes):
            window = (min(self.settings.pool, averaged.shape[-2]), min(self.settings.pool, averaged.shape[-1]))
            averaged = F.avg_pool2d(averaged, window, 1)
        return averaged.flatten(1).amax(dim=1)

    def _normalised(self, images: Tensor) -> Tensor:
        """Images (B, 3, side, side) with the encoder's mean and deviation. InputError if they have another side."""
        side = self.settings.side
        if images.shape[-2:] != (side, side):
            height, width = images.shape[-2:]
            remedy = "set it to image_size" if height == width else "it takes square images only"
            raise InputError(f"diad: settings.side is {side}, the images have {height}x{width} pixels; {remedy}")
        return (images - self.encoder.mean) / self.encoder.std

    def _codes_of(self, images: Tensor) -> tuple[int, ...]:
        """The shape of the codes of images."""
        return (len(images), *self.draws.shape[1:])

    def _encoded(self, images: Tensor, draw: Tensor) -> Tensor:
        """The scaled codes (B, C, h, w) of normalised images."""
        return at_least_single(self.autoencoder.encoded(images, draw)) * self.settings.autoencoder.scale

    def _predicted(self, noisy: Tensor, images: Tensor, times: Tensor) -> Tensor:
        """The noise in codes (B, C, h, w), as the networks see it beside the normalised images, at times (B,)."""
        context = self.text.expand(len(noisy), -1, -1)
        guide = self.guidance(noisy, images, times, context)
        return at_least_single(self.unet(noisy, times, context, guide))

    def _rebuilt(self, images: Tensor) -> Tensor:
        """What is made of normalised images (B, 3, H, W) after noise was added to their codes."""
        draw, noise = self.draws[:1], self.draws[1:]
        clean = self._encoded(images, draw)
        chain = [self.settings.noised_at, *times_back(self.settings.steps)]
        times = [torch.tensor([time], device=images.device) for time in chain]
        noisy = self.schedule.noised(clean, noise, times[0])
        for now, then in pairwise(times[1:]):
            predicted = self._predicted(noisy, images, now.expand(len(images)))
            noisy = self.schedule.step_back(noisy, predicted, now, then)
        return at_least_single(self.autoencoder.decoded(noisy / self.settings.autoencoder.scale))


def times_back(steps: int) -> list[int]:
    """Return the times of the steps, late to early, evenly spaced from 1 on, and 0 at the end: 901, 801, ..., 1, 0."""
    return [1 + TIMES // steps * step for step in reversed(range(steps))] + [0]


def shapes_of(settings: DiADSettings) -> tuple[AutoencoderShape, UNetShape]:
    """Return the sizes of the networks. An InputError is raised if they do not fit each other or the images."""
    own = settings.autoencoder
    codes = AutoencoderShape(settings.channels, own.width, own.multipliers, own.blocks, settings.groups)
    shape = UNetShape(
        channels=settings.channels,
        width=settings.width,
        multipliers=settings.multipliers,
        blocks=settings.blocks,
        attended=tuple(range(len(settings.multipliers) - 1)),
        heads=settings.heads,
        context=settings.context,
        groups=settings.groups,
    )
    if settings.side % codes.factor:
        raise InputError(
            f"diad: settings.side {settings.side} is no multiple of {codes.factor}, the autoencoder's factor"
        )
    if 2 ** (len(settings.stem) - 1) != codes.factor:
        raise InputError(
            f"diad: settings.stem halves the side {len(settings.stem) - 1} times, the autoencoder "
            f"{len(own.multipliers) - 1} times; expected the same"
        )
    if any(width % settings.groups for width in codes.widths):
        raise InputError(
            f"diad: the autoencoder's widths {list(codes.widths)} are no multiples of groups {settings.groups}"
        )
    shape.demand_fit(settings.side // codes.factor, "diad", "settings.side")
    return codes, shape


def stem_of(settings: DiADSettings) -> nn.Sequential:
    """Create the layers from the image to the guidance network. The last one starts at 0."""
    layers: list[nn.Module] = [convolution(COLOURS, settings.stem[0]), nn.SiLU()]
    for before, after in pairwise(settings.stem):
        layers += [convolution(before, before), nn.SiLU(), convolution(before, after, stride=2), nn.SiLU()]
    return nn.Sequential(*layers, zeroed(convolution(settings.stem[-1], settings.width)))
