"""What methods with a student of reverse distillation have in common: its settings, its words for a card, its fit to images."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field
from torch import Tensor

from mddbench.errors import InputError
from mddbench.nn.encoder import FrozenEncoder
from mddbench.nn.reverse_distillation import WIDE, student_of
from mddbench.settings import Count, Depth, Strict
from mddbench.sizes import ImageSize, written_size


class StudentSettings(Strict):
    """The settings of a student. Methods that have one extend them."""

    bottleneck_width: Count = Field(
        default=128,
        description="The inner width of the bottleneck's blocks: 128 (authors) or 64 (ADer, half of it).",
    )
    decoder_blocks: tuple[Depth, Depth, Depth] | None = Field(
        default=None,
        description="The number of blocks in each decoder stage, deep to shallow. "
        "null: the authors' numbers for this encoder.",
    )


def describe_student(encoder: FrozenEncoder, settings: StudentSettings) -> str:
    """Describe the student of an encoder for a protocol card; '' for the usual one, which has no words there."""
    student = student_of(encoder.name)
    return "" if student == WIDE else student.described(settings.decoder_blocks)


def require_equal_shapes(
    targets: Sequence[Tensor], rebuilt: Sequence[Tensor], encoder: FrozenEncoder, size: ImageSize, method: str
) -> None:
    """Check that what a student rebuilds has the shapes of its targets.

    Args:
        targets: The targets of each level.
        rebuilt: What the student gave for each level.
        encoder: The frozen teacher.
        size: The size of the images, for the message.
        method: Name of the method, for the message.

    Raises:
        InputError: If a shape differs, because the size of the images does not fit.
    """
    if any(target.shape != level.shape for target, level in zip(targets, rebuilt, strict=True)):
        raise InputError(
            f"{method}: image_size {written_size(size)} does not fit; use a multiple of {2 * encoder.strides[-1]}"
        )
