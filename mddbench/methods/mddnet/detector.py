"""MDD-Net: two decoders on pseudo-anomalous images, and a class-aware memory.

The restoration decoder rebuilds the features of the normal image. The identity decoder rebuilds those of its input.

Paper:     Xing et al., Memory-Augmented Dual-Decoder Networks for Multi-Class Unsupervised Anomaly Detection,
           arXiv 2504.14884.
Code read: none exists. The abstract of the paper and published reviews of it were read, not the paper itself.
           docs/mddnet.md says of every decision whether it is stated, reported or ours.
Differs:   no difference is known.
Unsaid:    the encoder and the bottleneck; the position, size, addressing and loss of the memory; the synthesis;
           the fusion, the smoothing and the image score; all settings of the training. Each is a setting here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from mddbench.batch import Batch
from mddbench.detector import Detector
from mddbench.errors import InputError
from mddbench.methods.mddnet import losses, scoring
from mddbench.methods.mddnet.bank import BankSettings, PatchBank
from mddbench.methods.mddnet.deviations import Deviations
from mddbench.methods.mddnet.losses import LossWeights
from mddbench.methods.mddnet.memory import ClassAwareMemory, MemorySettings
from mddbench.methods.mddnet.scoring import BANK, ScoringSettings
from mddbench.methods.mddnet.tokens import TokenBottleneck, TokenMapDecoder, TokenSettings
from mddbench.nn.encoder import FrozenEncoder
from mddbench.nn.precision import at_least_single, full_precision
from mddbench.nn.reverse_distillation import Bottleneck, Decoder, require_halving_levels
from mddbench.nn.smoothing import describe_smoothing
from mddbench.nn.student import require_equal_shapes
from mddbench.nn.synthesis import SynthesisSettings, synthesise
from mddbench.nn.token_levels import require_token_levels
from mddbench.settings import Count, Depth, Extended
from mddbench.sizes import ImageSize, image_size_of

WITH_BANK = "MDD-Net + bank"
"""Label of the variant with a bank of normal patches, which is ours and not the paper's."""


class MDDNetSettings(Extended):
    """The settings of MDD-Net."""

    added: ClassVar[tuple[str, ...]] = ("tokens", "bank")

    bottleneck_width: Count = Field(
        default=128,
        description="The inner width of the bottleneck's blocks, as in RD4AD: 128 is the authors' width.",
    )
    decoder_blocks: tuple[Depth, Depth, Depth] = Field(
        default=(3, 4, 6), description="The number of blocks in each decoder stage, deep to shallow, as in RD4AD."
    )
    memory_at: Literal["before", "restoration", "both", "none"] = Field(
        default="before",
        description="The position of the memory. before: a memory for each level of the teacher, before the "
        "restoration decoder's bottleneck. restoration: after the bottleneck, before the restoration decoder. "
        "both: before both decoders. none: no memory.",
    )
    memory: MemorySettings = Field(default=MemorySettings(), description="The settings of the memory.")
    synthesis: SynthesisSettings = Field(
        default=SynthesisSettings(), description="The settings of the synthetic defects."
    )
    weights: LossWeights = Field(default=LossWeights(), description="The weights of the loss terms.")
    balanced: bool = Field(
        default=True,
        description="True if defective and other positions have equal shares in the discrepancy loss.",
    )
    scoring: ScoringSettings = Field(
        default=ScoringSettings(), description="The settings of the anomaly maps and image scores."
    )
    tokens: TokenSettings | None = Field(
        default=None,
        description="The network on the tokens of a plain vision transformer, in place of bottleneck_width and "
        "decoder_blocks. null: the network on a pyramid of three levels. It is left out of what is written.",
    )
    bank: BankSettings | None = Field(
        default=None,
        description="The bank of normal patches, whose distances are the signal `bank`. It is not the paper's. "
        "null: none. It is left out of what is written.",
    )


class MDDNet(Detector[MDDNetSettings]):
    """Reverse distillation with two decoders, and a class-aware memory in the path to the restoration decoder."""

    label = "MDD-Net"
    version = 2
    asks_teacher = True

    def __init__(self, encoder: FrozenEncoder, settings: MDDNetSettings, categories: int) -> None:
        super().__init__(encoder, settings, categories)
        self.image_score_rule = settings.scoring.image_rule
        self.smoothing = describe_smoothing(settings.scoring.sigma)
        self.bottleneck = _bottleneck(encoder, settings)
        self.restoration_decoder = _decoder(encoder, settings)
        self.identity_decoder = _decoder(encoder, settings) if settings.weights.identity else None
        if self.identity_decoder is None and "decoders" in settings.scoring.signals:
            raise InputError(
                "mddnet: scoring.signals names 'decoders', but weights.identity is 0; use signals [teacher]"
            )
        self._add_bank(encoder, settings, categories)
        widths = {"none": (), "before": encoder.channels}.get(settings.memory_at, (self.bottleneck.out_channels,))
        self.memories = torch.nn.ModuleList(ClassAwareMemory(width, categories, settings.memory) for width in widths)

    def _add_bank(self, encoder: FrozenEncoder, settings: MDDNetSettings, categories: int) -> None:
        """Add the bank of normal patches, and the deviations of all signals, if there are settings of a bank."""
        if settings.bank is None and (settings.scoring.calibrated or BANK in settings.scoring.signals):
            raise InputError("mddnet: calibrated signals and the signal 'bank' need a bank; write settings.bank: {}")
        self.bank = PatchBank(encoder.channels, categories, settings.bank) if settings.bank else None
        if settings.scoring.calibrated and set(settings.scoring.levels) != set(range(len(encoder.levels))):
            raise InputError("mddnet: calibrated signals are those of all levels; leave out scoring.levels")
        signals = ("teacher", "decoders") if settings.weights.identity else ("teacher",)
        self.deviations = Deviations(signals) if settings.bank else None
        if settings.scoring.image == BANK and BANK not in settings.scoring.signals:
            raise InputError("mddnet: scoring.image is 'bank', which is no signal; add it to scoring.signals")
        if settings.scoring.fusion == "agreement" and (BANK not in (own := settings.scoring.signals) or len(own) == 1):
            raise InputError(
                f"mddnet: scoring.fusion is 'agreement', which takes the signal 'bank' and another; found {list(own)}"
            )
        if BANK in settings.scoring.signals:
            self.label = WITH_BANK

    @classmethod
    def training_settings(cls, settings: MDDNetSettings) -> dict[str, Any]:
        """Return all settings except those of the scoring and `memory.label_at_test`."""
        return dict(settings.model_dump(mode="json", exclude={"scoring": True, "memory": {"label_at_test"}}))

    @classmethod
    def wants_textures(cls, settings: MDDNetSettings) -> bool:
        """Return True if the synthetic defects use textures from a folder."""
        return "folder" in settings.synthesis.textures

    @property
    def wants_test_labels(self) -> bool:
        """True if each test image may use only the memory items of its own category."""
        return bool(self.settings.memory.label_at_test and self.memories)

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the weighted loss terms on a batch and its pseudo-anomalous twins. The memories learn from it, too.

        Args:
            batch: The normal training images.

        Returns:
            The scalar loss terms by name, each times its weight.
        """
        weights = self.settings.weights
        with full_precision(batch.images):
            abnormal, masks = synthesise(batch.images, batch.categories, self.settings.synthesis, batch.textures)
        normal_teacher, abnormal_teacher = self._teacher_features(batch, abnormal)
        uses: list[_MemoryUse] = []
        restored, identical = self._decoded(abnormal_teacher, uses, image_size_of(*batch.images.shape[-2:]))
        terms = {"restoration": losses.restoration(restored, normal_teacher)}
        if identical is not None:
            terms["identity"] = losses.identity(identical, abnormal_teacher)
            if weights.discrepancy:
                terms["discrepancy"] = losses.discrepancy(restored, identical, masks, self.settings.balanced)
        if self.bank is not None and batch.first_epoch:
            self.bank.learn(normal_teacher, batch.categories)
        if self.deviations is not None:
            self.deviations.learn(_compared(abnormal_teacher, restored, identical), masks)
        if self.settings.memory_at == "before":  # here the memory learns from the features of the normal images
            masks = torch.zeros_like(masks)
            uses = [self._addressed(level, use.memory) for level, use in zip(normal_teacher, uses, strict=True)]
        with full_precision(batch.images):
            terms |= self._memory_terms(uses, masks, batch.categories)
        return {name: getattr(weights, name) * term for name, term in terms.items() if getattr(weights, name)}

    def _teacher_features(self, batch: Batch, abnormal: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The teacher's features of normal images and of their twins, in one pass unless the former are cached."""
        if batch.features is not None:
            return self.teacher(batch), self.encoder(abnormal)
        both = self.encoder(torch.cat([batch.images, abnormal]))
        return [level.chunk(2)[0] for level in both], [level.chunk(2)[1] for level in both]

    def anomaly_maps(self, images: Tensor) -> Tensor:
        """Compute the anomaly maps from the teacher's and the decoders' features.

        Args:
            images: (B, 3, H, W) in [0, 1].

        Returns:
            (B, H, W), smoothed.
        """
        return self._maps(images, None)

    def anomaly_maps_of(self, images: Tensor, category: int) -> Tensor:
        """Compute the anomaly maps of images of a category, which read only the memory items of that category.

        Args:
            images: (B, 3, H, W) in [0, 1].
            category: Index of their category.

        Returns:
            (B, H, W), smoothed.
        """
        return self._maps(images, category)

    def maps_and_scores(self, images: Tensor, category: int = 0) -> tuple[Tensor, Tensor]:
        """Compute all that is evaluated. The image score can come from the bank's map alone (`scoring.image: bank`).

        Args:
            images: (B, 3, H, W) in [0, 1].
            category: Index of their category, for `memory.label_at_test`.

        Returns:
            (B, H, W) maps and (B,) scores.
        """
        settings = self.settings.scoring
        if settings.image != BANK:
            return super().maps_and_scores(images, category)
        told = min(category, self.categories - 1) if self.wants_test_labels else None
        size, signals = (images.shape[-2], images.shape[-1]), self._signals(images, told)
        of_bank: dict[str, list[Tensor]] = {BANK: signals[BANK]}
        maps = scoring.anomaly_maps(signals, size, settings)
        return at_least_single(maps), at_least_single(
            scoring.image_scores(scoring.anomaly_maps(of_bank, size, settings), settings)
        )

    def _maps(self, images: Tensor, category: int | None) -> Tensor:
        size = (images.shape[-2], images.shape[-1])
        return scoring.anomaly_maps(self._signals(images, category), size, self.settings.scoring)

    def _signals(self, images: Tensor, category: int | None) -> dict[str, list[Tensor]]:
        """The distances of each signal of the settings, (B, H_l, W_l) for each level, on the scale of the settings."""
        teacher = self.encoder(images)
        restored, identical = self._decoded(teacher, [], image_size_of(*images.shape[-2:]), category)
        settings = self.settings.scoring
        pairs = _compared(teacher, restored, identical)
        signals: dict[str, list[Tensor]] = {
            name: scoring.distances(*pairs[name], settings) for name in settings.signals if name in pairs
        }
        if self.deviations is not None and settings.calibrated:
            signals = {name: [each / self.deviations.of(name) for each in maps] for name, maps in signals.items()}
        if self.bank is not None and BANK in settings.signals:
            signals[BANK] = [self.bank.distances(teacher)]
        return signals

    def image_scores(self, maps: Tensor) -> Tensor:
        """Compute the image scores (B,) of maps (B, H, W). With `scoring.image: bank` only `maps_and_scores` knows them."""
        return scoring.image_scores(maps, self.settings.scoring)

    def _decoded(
        self, teacher: list[Tensor], uses: list[_MemoryUse], size: ImageSize, category: int | None = None
    ) -> tuple[list[Tensor], list[Tensor] | None]:
        """The features of the two decoders. Each use of a memory is added to `uses`.

        Args:
            teacher: The teacher's features, (B, C_l, H_l, W_l) for each level, shallow to deep.
            uses: The list to which the uses of the memories are added.
            size: The size of the images, for an error message.
            category: The category of the images, if the method is given it.

        Returns:
            The features of the restoration decoder and of the identity decoder; None if there is no identity decoder.
            An InputError says if the image size does not fit.
        """
        memory_at = self.settings.memory_at
        needed = memory_at != "before" or self.identity_decoder is not None
        embedding: Any = self.bottleneck(teacher) if needed else None
        if memory_at == "before":
            pairs = zip(teacher, self.memories, strict=True)
            filtered = self.bottleneck([self._filtered(level, memory, uses, category) for level, memory in pairs])
        elif memory_at == "none":
            filtered = embedding
        else:
            filtered = self._filtered(embedding, self.memories[0], uses, category)
        restored = self.restoration_decoder(filtered)
        require_equal_shapes(teacher, restored, self.encoder, size, "mddnet")
        if self.identity_decoder is None:
            return restored, None
        return restored, self.identity_decoder(filtered if memory_at == "both" else embedding)

    def collected_bytes(self, images: int, image_size: ImageSize) -> int:  # noqa: ARG002
        """Return the bytes of the sample from which the bank is picked; 0 without one."""
        return 0 if self.bank is None else self.bank.collected_bytes()

    def finish_training(self) -> None:
        """Measure the scale of the bank's distances, if there is a bank."""
        if self.bank is not None:
            self.bank.finish()

    def diagnostics(self) -> dict[str, float]:
        """Measure for each category how its prototypes are used.

        Returns:
            For each category number C two values. `prototype_usage_entropy_C` is 1 if all prototypes are used evenly
            and 0 if only one is used. `dead_prototypes_C` counts those that are hardly used. With several memories
            the first is their mean and the second their sum.
        """
        memories = [memory for memory in self.memories if isinstance(memory, ClassAwareMemory)]
        if not memories:
            return {}
        entropies = torch.stack([memory.usage_entropy() for memory in memories]).mean(dim=0).tolist()
        dead = torch.stack([memory.dead() for memory in memories]).sum(dim=0).tolist()
        values = {f"prototype_usage_entropy_{number}": value for number, value in enumerate(entropies)}
        return values | {f"dead_prototypes_{number}": float(value) for number, value in enumerate(dead)}

    def _filtered(
        self, features: Tensor, memory: torch.nn.Module, uses: list[_MemoryUse], category: int | None
    ) -> Tensor:
        """The features (B, D, H, W) that a memory reads for features of the same shape, of images of a category."""
        assert isinstance(memory, ClassAwareMemory)
        queries = features.flatten(2).transpose(1, 2)
        labels = None if category is None else torch.full((len(queries),), category, device=queries.device)
        with full_precision(features):
            read, weights = memory(queries, labels)
        uses.append(_MemoryUse(memory, queries, weights, (features.shape[-2], features.shape[-1])))
        filtered: Tensor = read.transpose(1, 2).reshape(features.shape).to(features.dtype)
        return filtered

    def _addressed(self, features: Tensor, memory: ClassAwareMemory) -> _MemoryUse:
        """The use of a memory with features (B, D, H, W) as queries, where only the weights are computed."""
        queries = at_least_single(features.flatten(2).transpose(1, 2))
        with full_precision(features):
            weights = memory.addressing(queries, at_least_single(memory.items).clone())
        return _MemoryUse(memory, queries, weights, (features.shape[-2], features.shape[-1]))

    def _memory_terms(self, uses: list[_MemoryUse], masks: Tensor, categories: Tensor) -> dict[str, Tensor]:
        """The losses of the memories at positions outside the masks. The memories learn from these positions, too."""
        if not uses:
            return {}
        classes, compact = [], []
        for use in uses:
            normal = F.adaptive_max_pool2d(masks.float()[:, None], use.size)[:, 0].flatten(1) == 0
            if use.weights.requires_grad:  # averaged items with frozen features as queries get no gradient
                classes.append(losses.class_discrimination(use.weights, categories, self.settings.memory.items, normal))
            if isinstance(use.memory.items, torch.nn.Parameter):
                compact.append(losses.compactness(use.weights, use.memory.items, use.queries, normal))
            use.memory.learn(use.queries.detach(), use.weights.detach(), categories, normal)
        terms = {"classes": classes, "compactness": compact}
        return {name: torch.stack(values).mean() for name, values in terms.items() if values}


def _compared(
    teacher: losses.Levels, restored: losses.Levels, identical: losses.Levels | None
) -> dict[str, tuple[losses.Levels, losses.Levels]]:
    """The features that each signal compares; without the decoders' if there is no identity decoder."""
    pairs = {"teacher": (teacher, restored)}
    return pairs if identical is None else pairs | {"decoders": (restored, identical)}


def _bottleneck(encoder: FrozenEncoder, settings: MDDNetSettings) -> Bottleneck | TokenBottleneck:
    """Make the bottleneck that suits the encoder's levels. An InputError says if the settings do not suit them."""
    if settings.tokens is None:
        require_halving_levels(encoder, "mddnet")
        return Bottleneck(encoder.channels, settings.bottleneck_width)
    require_token_levels(encoder, "mddnet", settings.tokens.blocks)
    return TokenBottleneck(encoder, settings.tokens)


def _decoder(encoder: FrozenEncoder, settings: MDDNetSettings) -> Decoder | TokenMapDecoder:
    if settings.tokens is None:
        return Decoder(encoder.channels, settings.decoder_blocks)
    return TokenMapDecoder(encoder, settings.tokens)


@dataclass(frozen=True)
class _MemoryUse:
    """One use of a memory in a training step.

    Attributes:
        memory: The memory.
        queries: (B, P, D), the embeddings of P positions.
        weights: (B, P, C x K), the addressing weights of all items.
        size: The height and width of the P positions.
    """

    memory: ClassAwareMemory
    queries: Tensor
    weights: Tensor
    size: tuple[int, int]
