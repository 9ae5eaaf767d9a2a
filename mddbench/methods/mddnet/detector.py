"""MDD-Net: two decoders on pseudo-anomalous images, one restoring what is normal, one keeping what is there, and a
class-aware memory.

Paper:     Xing et al., Memory-Augmented Dual-Decoder Networks for Multi-Class Unsupervised Anomaly Detection, arXiv 2504.14884.
Code read: none exists. The paper's abstract and published reviews of it were read, not the paper; docs/mddnet.md says of every
           decision whether it is stated, reported or ours.
Differs:   nothing that is known of.
Unsaid:    encoder, bottleneck, the memory's place, size, addressing and loss, the synthesis, fusion, smoothing, image score
           and all settings of the training. Each is a setting here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from mddbench.batch import Batch
from mddbench.detector import Detector
from mddbench.errors import InputError
from mddbench.methods.mddnet import losses, scoring
from mddbench.methods.mddnet.memory import ClassAwareMemory, MemorySettings
from mddbench.methods.mddnet.scoring import ScoringSettings
from mddbench.nn.encoder import FrozenEncoder
from mddbench.nn.precision import at_least_single, full_precision
from mddbench.nn.reverse_distillation import Bottleneck, Decoder, require_halving_levels
from mddbench.nn.smoothing import describe_smoothing
from mddbench.nn.synthesis import SynthesisSettings, synthesise
from mddbench.settings import Count, Depth, Strict

Weight = Annotated[float, Field(ge=0, le=1e6)]


class LossWeights(Strict):
    """A term of weight 0 is left out; identity 0 leaves out the identity decoder, and the discrepancy with it."""

    restoration: Weight = 1.0
    identity: Weight = 1.0
    discrepancy: Weight = 1.0
    classes: Weight = 1.0
    compactness: Weight = 1.0


class MDDNet(Detector):
    """Dual-decoder reverse distillation with a class-aware memory on the restoration decoder's way."""

    label = "MDD-Net"
    version = 2
    asks_teacher = True

    class Settings(Strict):
        """memory_at: before (a memory for each level of the teacher, before the restoration decoder's bottleneck), restoration
        (after the bottleneck, before the restoration decoder), both (before both decoders) or none; bottleneck_width,
        decoder_blocks: as RD4AD's; balanced: defective and other positions count alike in the discrepancy loss.
        """

        bottleneck_width: Count = 128
        decoder_blocks: tuple[Depth, Depth, Depth] = (3, 4, 6)
        memory_at: Literal["before", "restoration", "both", "none"] = "before"
        memory: MemorySettings = MemorySettings()
        synthesis: SynthesisSettings = SynthesisSettings()
        weights: LossWeights = LossWeights()
        balanced: bool = True
        scoring: ScoringSettings = ScoringSettings()

    def __init__(self, encoder: FrozenEncoder, settings: Any, categories: int) -> None:
        super().__init__(encoder, settings, categories)
        require_halving_levels(encoder, "mddnet")
        self.image_score_rule = settings.scoring.image_rule
        self.smoothing = describe_smoothing(settings.scoring.sigma)
        self.multiple = 2 * encoder.strides[-1]
        self.bottleneck = Bottleneck(encoder.channels, settings.bottleneck_width)
        self.restoration_decoder = Decoder(encoder.channels, settings.decoder_blocks)
        self.identity_decoder = (
            Decoder(encoder.channels, settings.decoder_blocks) if settings.weights.identity else None
        )
        if self.identity_decoder is None and "decoders" in settings.scoring.signals:
            raise InputError(
                "mddnet: scoring.signals names 'decoders', but weights.identity is 0; use signals [teacher]"
            )
        widths = {"none": (), "before": encoder.channels}.get(settings.memory_at, (self.bottleneck.out_channels,))
        self.memories = torch.nn.ModuleList(ClassAwareMemory(width, categories, settings.memory) for width in widths)

    @classmethod
    def training_settings(cls, settings: Any) -> dict[str, Any]:
        return dict(settings.model_dump(mode="json", exclude={"scoring": True, "memory": {"label_at_test"}}))

    @classmethod
    def wants_textures(cls, settings: Any) -> bool:
        return "folder" in settings.synthesis.textures

    @property
    def wants_test_labels(self) -> bool:
        return bool(self.settings.memory.label_at_test and self.memories)

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        weights = self.settings.weights
        with full_precision(batch.images):
            abnormal, masks = synthesise(batch.images, batch.categories, self.settings.synthesis, batch.textures)
        normal_teacher, abnormal_teacher = self._asked_teacher(batch, abnormal)
        asked: list[_Asked] = []
        restored, identical = self._decoded(abnormal_teacher, asked, batch.images.shape[-1])
        terms = {"restoration": losses.restoration(restored, normal_teacher)}
        if identical is not None:
            terms["identity"] = losses.identity(identical, abnormal_teacher)
            if weights.discrepancy:
                terms["discrepancy"] = losses.discrepancy(restored, identical, masks, self.settings.balanced)
        if self.settings.memory_at == "before":  # what the memory learns from is the clean image's features, then
            masks = torch.zeros_like(masks)
            asked = [self._asked(level, one.memory) for level, one in zip(normal_teacher, asked, strict=True)]
        with full_precision(batch.images):
            terms |= self._memory_terms(asked, masks, batch.categories)
        return {name: getattr(weights, name) * term for name, term in terms.items() if getattr(weights, name)}

    def _asked_teacher(self, batch: Batch, abnormal: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The teacher's features of normal images and of their abnormal twins, in one pass unless the first are remembered."""
        if batch.features is not None:
            return self.teacher(batch), self.encoder(abnormal)
        both = self.encoder(torch.cat([batch.images, abnormal]))
        return [level.chunk(2)[0] for level in both], [level.chunk(2)[1] for level in both]

    def anomaly_maps(self, images: Tensor) -> Tensor:
        teacher = self.encoder(images)
        restored, identical = self._decoded(teacher, [], images.shape[-1])
        signals: dict[str, tuple[losses.Levels, losses.Levels]] = {"teacher": (teacher, restored)}
        if identical is not None:
            signals["decoders"] = (restored, identical)
        return scoring.anomaly_maps(signals, (images.shape[-2], images.shape[-1]), self.settings.scoring)

    def image_scores(self, maps: Tensor) -> Tensor:
        return scoring.image_scores(maps, self.settings.scoring)

    def _decoded(
        self, teacher: list[Tensor], asked: list[_Asked], size: int
    ) -> tuple[list[Tensor], list[Tensor] | None]:
        """The two decoders' features; what the memories were asked is added to `asked`. size: of the images, for a message."""
        place = self.settings.memory_at
        needed = place != "before" or self.identity_decoder is not None
        embedding: Any = self.bottleneck(teacher) if needed else None
        if place == "before":
            pairs = zip(teacher, self.memories, strict=True)
            filtered = self.bottleneck([self._filtered(level, memory, asked) for level, memory in pairs])
        elif place == "none":
            filtered = embedding
        else:
            filtered = self._filtered(embedding, self.memories[0], asked)
        restored = self.restoration_decoder(filtered)
        if any(t.shape != r.shape for t, r in zip(teacher, restored, strict=True)):
            raise InputError(f"mddnet: image_size {size} does not fit; use a multiple of {self.multiple}")
        if self.identity_decoder is None:
            return restored, None
        return restored, self.identity_decoder(filtered if place == "both" else embedding)

    def diagnostics(self) -> dict[str, float]:
        """For each category how evenly its prototypes are used (1 evenly, 0 a single one) and how many are dead; of several
        memories the mean and the sum.
        """
        memories = [memory for memory in self.memories if isinstance(memory, ClassAwareMemory)]
        if not memories:
            return {}
        entropies = torch.stack([memory.usage_entropy() for memory in memories]).mean(dim=0).tolist()
        dead = torch.stack([memory.dead() for memory in memories]).sum(dim=0).tolist()
        found = {f"prototype_usage_entropy_{number}": value for number, value in enumerate(entropies)}
        return found | {f"dead_prototypes_{number}": float(value) for number, value in enumerate(dead)}

    def _filtered(self, features: Tensor, memory: torch.nn.Module, asked: list[_Asked]) -> Tensor:
        """Features (B, D, H, W) as the memory gives them back."""
        assert isinstance(memory, ClassAwareMemory)
        queries = features.flatten(2).transpose(1, 2)
        told = self.told_category
        labels = None if told is None else torch.full((len(queries),), told, device=queries.device)
        with full_precision(features):
            read, weights = memory(queries, labels)
        asked.append(_Asked(memory, queries, weights, (features.shape[-2], features.shape[-1])))
        filtered: Tensor = read.transpose(1, 2).reshape(features.shape).to(features.dtype)
        return filtered

    def _asked(self, features: Tensor, memory: ClassAwareMemory) -> _Asked:
        """Features (B, D, H, W) as queries of a memory that nothing is read from."""
        queries = at_least_single(features.flatten(2).transpose(1, 2))
        with full_precision(features):
            weights = memory.addressing(queries, at_least_single(memory.items).clone())
        return _Asked(memory, queries, weights, (features.shape[-2], features.shape[-1]))

    def _memory_terms(self, asked: list[_Asked], masks: Tensor, categories: Tensor) -> dict[str, Tensor]:
        """The memories' losses, at positions outside the masks; there the memories learn."""
        if not asked:
            return {}
        classes, compact = [], []
        for one in asked:
            normal = F.adaptive_max_pool2d(masks.float()[:, None], one.size)[:, 0].flatten(1) == 0
            if one.weights.requires_grad:  # averaged items that frozen features ask have nothing to learn from a loss
                classes.append(losses.class_discrimination(one.weights, categories, self.settings.memory.items, normal))
            if isinstance(one.memory.items, torch.nn.Parameter):
                compact.append(losses.compactness(one.weights, one.memory.items, one.queries, normal))
            one.memory.learn(one.queries.detach(), one.weights.detach(), categories, normal)
        terms = {"classes": classes, "compactness": compact}
        return {name: torch.stack(values).mean() for name, values in terms.items() if values}


@dataclass(frozen=True)
class _Asked:
    """One use of a memory in a training step. queries: (B, P, D); weights: (B, P, C x K); size: of the P positions."""

    memory: ClassAwareMemory
    queries: Tensor
    weights: Tensor
    size: tuple[int, int]
