"""What the file of a method imports. These names stay where they are; other modules may move."""

from __future__ import annotations

from mddbench.batch import Batch
from mddbench.detector import Detector
from mddbench.errors import InputError
from mddbench.nn.coreset import greedy_coreset
from mddbench.nn.encoder import FrozenEncoder
from mddbench.nn.gradients import scaled_gradient
from mddbench.nn.nearest import nearest
from mddbench.nn.patches import patch_embeddings
from mddbench.nn.precision import at_least_single, full_precision
from mddbench.nn.reverse_distillation import (
    Bottleneck,
    Decoder,
    distance_map,
    flat_cosine_distance,
    require_halving_levels,
)
from mddbench.nn.scores import describe_highest, mean_of_highest
from mddbench.nn.smoothing import describe_smoothing, describe_window, gaussian_smooth, window_smooth
from mddbench.nn.synthesis import SynthesisSettings, synthesise
from mddbench.nn.token_levels import TokenDecoder, mean_of_blocks, require_token_levels, token_levels
from mddbench.nn.tokens import Dropout, Linear, MultiheadAttention
from mddbench.nn.transformer import Block, LinearAttention, Mlp, SelfAttention, as_map, as_tokens
from mddbench.settings import BelowOne, Count, Depth, Extended, Fraction, OddCount, Pixels, Positive, Strict

__all__ = [
    "Batch",
    "BelowOne",
    "Block",
    "Bottleneck",
    "Count",
    "Decoder",
    "Depth",
    "Detector",
    "Dropout",
    "Extended",
    "Fraction",
    "FrozenEncoder",
    "InputError",
    "Linear",
    "LinearAttention",
    "Mlp",
    "MultiheadAttention",
    "OddCount",
    "Pixels",
    "Positive",
    "SelfAttention",
    "Strict",
    "SynthesisSettings",
    "TokenDecoder",
    "as_map",
    "as_tokens",
    "at_least_single",
    "describe_highest",
    "describe_smoothing",
    "describe_window",
    "distance_map",
    "flat_cosine_distance",
    "full_precision",
    "gaussian_smooth",
    "greedy_coreset",
    "mean_of_blocks",
    "mean_of_highest",
    "nearest",
    "patch_embeddings",
    "require_halving_levels",
    "require_token_levels",
    "scaled_gradient",
    "synthesise",
    "token_levels",
    "window_smooth",
]
