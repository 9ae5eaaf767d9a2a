"""The U-Net of a latent diffusion model, and the network that guides it by an image: a ControlNet with fused levels.

Sources: Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, CVPR 2022, for the U-Net; Zhang et al.,
Adding Conditional Control to Text-to-Image Diffusion Models, ICCV 2023, for the guidance; He et al., A Diffusion-Based
Framework for Multi-Class Anomaly Detection (DiAD), AAAI 2024, section 3.2, for the fused levels. The public code of all three
was read, through notes on it. None of it is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mddbench.errors import InputError
from mddbench.nn.diffusion import time_embedding
from mddbench.nn.diffusion_blocks import Doubling, Halving, SpatialTransformer, Stage, TimedBlock, convolution, zeroed

TIME_RATIO = 4
"""Number of values that describe a time, relative to the width of the first level."""
Fusion = Literal["none", "zero", "random"]
"""Whether levels are fused, and how the fusion's convolutions start."""


@dataclass(frozen=True)
class UNetShape:
    """The sizes of a U-Net. The defaults are those of Stable Diffusion 1.5.

    Attributes:
        channels: Number of channels of what is denoised.
        width: Number of channels at the first level.
        multipliers: Number of channels of each level, divided by `width`. Each level has half the side of the one before.
        blocks: Number of residual blocks of a level on the way down; one more on the way up.
        attended: Indices of the levels whose residual blocks are each followed by a transformer.
        heads: Number of heads of each attention.
        context: Number of channels of the context; None for none.
        groups: Number of groups of the norms.
    """

    channels: int = 4
    width: int = 320
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    blocks: int = 2
    attended: tuple[int, ...] = (0, 1, 2)
    heads: int = 8
    context: int | None = 768
    groups: int = 32

    @property
    def time_width(self) -> int:
        """Number of values that describe a time inside the network."""
        return TIME_RATIO * self.width

    @property
    def widths(self) -> tuple[int, ...]:
        """Number of channels of each level."""
        return tuple(self.width * multiplier for multiplier in self.multipliers)

    @property
    def skips(self) -> list[tuple[int, int]]:
        """Level and number of channels of each output on the way down."""
        outputs = []
        for level, width in enumerate(self.widths):
            entered = self.width if level == 0 else self.widths[level - 1]
            outputs += [(level, entered), *[(level, width)] * self.blocks]
        return outputs

    def of_level(self, level: int) -> list[int]:
        """Return the indices of the outputs on the way down that lie at a level."""
        return [index for index, (own, _) in enumerate(self.skips) if own == level]

    def demand_fit(self, side: int, where: str, setting: str) -> None:
        """Check that maps of a side can be halved down to the last level, where 2 x 2 positions are left at least.

        Args:
            side: Side of the map in positions.
            where: Name of the method, for the message.
            setting: Name of the setting to change, for the message.

        Raises:
            InputError: If they cannot, if heads or groups do not divide a width, or if there is one level only.
        """
        factor = 2 ** (len(self.multipliers) - 1)
        if len(self.multipliers) < 2:
            raise InputError(f"{where}: multipliers have {len(self.multipliers)} level, expected 2 at least")
        if side % factor or side < 2 * factor:
            raise InputError(
                f"{where}: {setting} gives {side} positions a side, expected a multiple of {factor}, {2 * factor} at least"
            )
        for name, parts in (("heads", self.heads), ("groups", self.groups)):
            if any(width % parts for width in self.widths):
                raise InputError(f"{where}: widths {list(self.widths)} are no multiples of {parts} ({name})")


class WayDown(nn.Module):
    """What both networks have: the description of the time, the way down, and the middle.

    Attributes:
        shape: The sizes.
        time: The layers that describe a time.
        inputs: The stages on the way down.
        middle: The stage at the coarsest level.
    """

    def __init__(self, shape: UNetShape) -> None:
        """Create the layers."""
        super().__init__()
        self.shape = shape
        width = shape.time_width
        self.time = nn.Sequential(nn.Linear(shape.width, width), nn.SiLU(), nn.Linear(width, width))
        self.inputs = nn.ModuleList([Stage([convolution(shape.channels, shape.width)])])
        before = shape.width
        for level, after in enumerate(shape.widths):
            if level:
                self.inputs.append(Stage([Halving(before)]))
            for _ in range(shape.blocks):
                self.inputs.append(self.stage(level, before, after))
                before = after
        self.middle = Stage([self._block(before, before), self._transformer(before), self._block(before, before)])

    def stage(self, level: int, before: int, after: int) -> Stage:
        """Create a residual block, with a transformer behind it if the level is attended."""
        attended = [self._transformer(after)] if level in self.shape.attended else []
        return Stage([self._block(before, after), *attended])

    def described(self, times: Tensor, like: Tensor) -> Tensor:
        """Describe times (B,) by (B, time_width), in the type of another tensor."""
        described: Tensor = self.time(time_embedding(times, self.shape.width).to(like))
        return described

    def _block(self, before: int, after: int) -> TimedBlock:
        return TimedBlock(before, after, self.shape.time_width, self.shape.groups)

    def _transformer(self, width: int) -> SpatialTransformer:
        return SpatialTransformer(width, self.shape.heads, self.shape.context, self.shape.groups)


class UNet(WayDown):
    """Predicts from noisy values, the time, a context and a guide.

    Attributes:
        outputs: The stages on the way up.
        head: Norm, SiLU and a convolution that starts at 0.
    """

    def __init__(self, shape: UNetShape) -> None:
        """Create the network."""
        super().__init__(shape)
        skips = [channels for _, channels in shape.skips]
        self.outputs = nn.ModuleList()
        before = shape.widths[-1]
        for level in reversed(range(len(shape.widths))):
            after = shape.widths[level]
            for number in range(shape.blocks + 1):
                stage = self.stage(level, before + skips.pop(), after)
                if level and number == shape.blocks:
                    stage.append(Doubling(after))
                self.outputs.append(stage)
                before = after
        self.head = nn.Sequential(
            nn.GroupNorm(shape.groups, before), nn.SiLU(), zeroed(convolution(before, shape.channels))
        )

    def forward(self, noisy: Tensor, times: Tensor, context: Tensor | None, guide: Sequence[Tensor | None]) -> Tensor:
        """Predict.

        Args:
            noisy: (B, C, H, W).
            times: (B,) times.
            context: (B, M, D), or None.
            guide: What is added to each output of the way down, and last to the middle; None for nothing.

        Returns:
            (B, C, H, W).
        """
        time = self.described(times, noisy)
        features, skips = noisy, []
        for stage in self.inputs:
            features = stage(features, time, context)
            skips.append(features)
        *guides, middle = guide
        features = _plus(self.middle(features, time, context), middle)
        for stage, skip, added in zip(self.outputs, reversed(skips), reversed(guides), strict=True):
            features = stage(torch.cat([features, _plus(skip, added)], dim=1), time, context)
        predicted: Tensor = self.head(features)
        return predicted


class GuidanceNetwork(WayDown):
    """Turns an image into a guide of the U-Net. Its last layers start at 0, so that the U-Net starts without a guide.

    Attributes:
        stem: The layers from the image to the first level.
        zeros: A 1x1 convolution behind each output of the way down.
        zero_middle: A 1x1 convolution behind the middle.
        fusion: The fusion of the last but one level into the last; None without it.
        everywhere: True to guide all levels, False for the coarsest one only.
    """

    def __init__(self, shape: UNetShape, stem: nn.Module, fusion: Fusion, everywhere: bool) -> None:
        """Create the network.

        Args:
            shape: The sizes, those of the U-Net.
            stem: Layers from the image to (B, width, H, W). Their last one should start at 0.
            fusion: Whether levels are fused, and how the fusion starts.
            everywhere: True to guide all levels, False for the coarsest one only.
        """
        super().__init__(shape)
        self.stem, self.everywhere = stem, everywhere
        self.zeros = nn.ModuleList(zeroed(nn.Conv2d(width, width, 1)) for _, width in shape.skips)
        self.zero_middle = zeroed(nn.Conv2d(shape.widths[-1], shape.widths[-1], 1))
        self.fusion = None if fusion == "none" else LevelFusion(shape, starts_at_zero=fusion == "zero")

    def forward(self, noisy: Tensor, hint: Tensor, times: Tensor, context: Tensor | None) -> list[Tensor | None]:
        """Compute the guide.

        Args:
            noisy: (B, C, H, W).
            hint: The image, as the stem takes it.
            times: (B,) times.
            context: (B, M, D), or None.

        Returns:
            A tensor for each output of the way down, and one for the middle; None where nothing is guided.
        """
        time = self.described(times, noisy)
        features, outputs = noisy, []
        for number, (stage, zero) in enumerate(zip(self.inputs, self.zeros, strict=True)):
            features = stage(features, time, context)
            if number == 0:
                features = features + self.stem(hint)
            outputs.append(zero(features))
        if self.fusion is not None:
            outputs = self.fusion(outputs)
        coarsest = self.shape.of_level(len(self.shape.widths) - 1)
        guided = [each if self.everywhere or number in coarsest else None for number, each in enumerate(outputs)]
        return [*guided, self.zero_middle(self.middle(features, time, context))]


class LevelFusion(nn.Module):
    """Adds to each output of the last level what a convolution makes of each output of the level above.

    A branch is a 3x3 convolution with stride 2, an instance norm and a SiLU; a SiLU follows the sum.

    If the convolutions start at 0, and the level above guides nothing else, they stay at 0: they see outputs of layers that
    start at 0, too, and the gradient of each factor of a product is the other factor.

    Attributes:
        convolutions: The convolution of each branch. Its name is the number of the output above, then that of the output
            below, both counted from 1.
    """

    def __init__(self, shape: UNetShape, starts_at_zero: bool) -> None:
        """Create the branches."""
        super().__init__()
        levels = len(shape.widths)
        self.above, self.below = shape.of_level(levels - 2), shape.of_level(levels - 1)
        skips = shape.skips
        self.convolutions = nn.ModuleDict()
        for number, source in enumerate(self.above, 1):
            for place, target in enumerate(self.below, 1):
                branch = nn.Conv2d(skips[source][1], skips[target][1], 3, stride=2, padding=1, bias=False)
                self.convolutions[f"{number}{place}"] = zeroed(branch) if starts_at_zero else branch

    def forward(self, outputs: list[Tensor]) -> list[Tensor]:
        """Return all outputs of the way down, those of the last level with the fusion."""
        fused = list(outputs)
        for place, target in enumerate(self.below, 1):
            total = outputs[target]
            for number, source in enumerate(self.above, 1):
                total = total + F.silu(F.instance_norm(self.convolutions[f"{number}{place}"](outputs[source])))
            fused[target] = F.silu(total)
        return fused


def _plus(features: Tensor, added: Tensor | None) -> Tensor:
    return features if added is None else features + added
