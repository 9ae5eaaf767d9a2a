"""RD4AD: a student decoder rebuilds the features of a frozen teacher from a compressed embedding of them.

Paper:     Deng and Li, Anomaly Detection via Reverse Distillation from One-Class Embedding, CVPR 2022.
Code read: the authors' hq-deng/RD4AD at 6554076 (MIT).
Differs:   There is one model for all categories; the authors train one per category.
           Any encoder with three levels works. Torchvision's ResNets have the authors' students. Others have a student
           like WideResNet-50-2's, with widths in proportion.
           The authors' unused fourth stage and their dead 1x1 convolution are not built.
Variants:  The authors' is the default. `settings.bottleneck_width: 64`, `gradient_clip: 5.0` and schedule `step` at 0.8
           give the variant of the ADer benchmark, which most papers quote.
Unsaid:    The paper writes the loss per position. The code flattens each level to one vector, and so do we.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field
from torch import Tensor

from mddbench.batch import Batch
from mddbench.detector import Detector
from mddbench.nn.encoder import FrozenEncoder
from mddbench.nn.foreign_names import REVERSE_DISTILLATION, renamed
from mddbench.nn.reverse_distillation import (
    Bottleneck,
    Decoder,
    distance_map,
    flat_cosine_distance,
    require_halving_levels,
    student_of,
)
from mddbench.nn.smoothing import describe_smoothing, gaussian_smooth
from mddbench.nn.student import StudentSettings, describe_student, require_equal_shapes
from mddbench.settings import Pixels
from mddbench.sizes import image_size_of


class RD4ADSettings(StudentSettings):
    """The settings of RD4AD."""

    sigma: Pixels = Field(default=4.0, description="The standard deviation of the smoothing, in pixels.")


class RD4AD(Detector[RD4ADSettings]):
    """Reverse distillation. The map is the smoothed sum over levels of 1 - cos between teacher and student."""

    label = "RD4AD"
    version = 2
    asks_teacher = True

    def __init__(self, encoder: FrozenEncoder, settings: RD4ADSettings, categories: int) -> None:
        super().__init__(encoder, settings, categories)
        require_halving_levels(encoder, "rd4ad")
        self.smoothing = describe_smoothing(settings.sigma)
        self.network, student = describe_student(encoder, settings), student_of(encoder.name)
        self.bottleneck = Bottleneck(encoder.channels, settings.bottleneck_width, student)
        self.decoder = Decoder(encoder.channels, settings.decoder_blocks, student)

    def load_authors_state(self, content: Any, where: str) -> None:
        """Load the weights of a file by the authors of RD4AD.

        Args:
            content: The content of the file, tensors in dicts.
            where: The name of the file, for messages.
        """
        unread = ("bn.conv4.", "bn.bn4.")
        self.load_learned_state(renamed(self.learned_state(), content, REVERSE_DISTILLATION, where, unread))

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the distillation loss, a scalar, on a batch of normal images."""
        teacher = self.teacher(batch)
        return {"distillation": flat_cosine_distance(teacher, self._student(teacher, batch.images))}

    def anomaly_maps(self, images: Tensor) -> Tensor:
        """Compute the anomaly maps.

        Args:
            images: (B, 3, H, W) in [0, 1].

        Returns:
            (B, H, W), smoothed.
        """
        height, width = images.shape[-2:]
        teacher = self.encoder(images)
        distances = distance_map(teacher, self._student(teacher, images), (height, width))
        return gaussian_smooth(distances, self.settings.sigma)

    def _student(self, teacher: list[Tensor], images: Tensor) -> list[Tensor]:
        """The student's features, rebuilt from the teacher's features of the images."""
        student: list[Tensor] = self.decoder(self.bottleneck(teacher))
        require_equal_shapes(teacher, student, self.encoder, image_size_of(*images.shape[-2:]), "rd4ad")
        return student
