"""What the file of a method imports. These names stay where they are; other modules may move."""

from __future__ import annotations

from mddbench.batch import Batch
from mddbench.detector import Detector
from mddbench.errors import InputError
from mddbench.nn.coreset import greedy_coreset
from mddbench.nn.encoder import FrozenEncoder
from mddbench.nn.nearest import nearest
from mddbench.nn.patches import patch_embeddings
from mddbench.nn.precision import at_least_single, full_precision
from mddbench.nn.reverse_distillation import Bottleneck, Decoder, flat_cosine_distance, require_halving_levels
from mddbench.nn.smoothing import describe_smoothing, gaussian_smooth
from mddbench.nn.synthesis import SynthesisSettings, synthesise
from mddbench.nn.tokens import Dropout, Linear, MultiheadAttention
from mddbench.settings import BelowOne, Count, Depth, Fraction, Pixels, Positive, Strict

__all__ = [
    "Batch",
    "BelowOne",
    "Bottleneck",
    "Count",
    "Decoder",
    "Depth",
    "Detector",
    "Dropout",
    "Fraction",
    "FrozenEncoder",
    "InputError",
    "Linear",
    "MultiheadAttention",
    "Pixels",
    "Positive",
    "Strict",
    "SynthesisSettings",
    "at_least_single",
    "describe_smoothing",
    "flat_cosine_distance",
    "full_precision",
    "gaussian_smooth",
    "greedy_coreset",
    "nearest",
    "patch_embeddings",
    "require_halving_levels",
    "synthesise",
]
