"""Methods as a script would have them: PyTorch's own layers, layout and attention, no tricks.

The suite's own are held against them, for speed (benchmarks/steps.py) and for results (tests/methods/test_plain.py). Learnt
values come in the order of the suite's, so that they can be copied; drawn defects and noise are the suite's.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import timm

from mddbench.detector import Detector
from mddbench.nn.encoder import NO_ENCODER, FrozenEncoder
from mddbench.nn.weights import timm_name
from networks.banks import PlainPaDiM, PlainPatchCore
from networks.base import Plain
from networks.destseg import PlainDeSTSeg
from networks.draem import PlainDRAEM
from networks.mddnet import PlainMDDNet
from networks.reverse import PlainRD4AD, PlainRDPlusPlus, PlainReContrast
from networks.simplenet import PlainSimpleNet
from networks.tokens import PlainDinomaly, PlainINPFormer, PlainTokens, PlainViTAD
from networks.uniad import PlainUniAD

__all__ = ["KINDS", "Plain", "plain_twin"]

KINDS: dict[str, Any] = {
    "rd4ad": PlainRD4AD,
    "rdpp": PlainRDPlusPlus,
    "recontrast": PlainReContrast,
    "uniad": PlainUniAD,
    "mddnet": PlainMDDNet,
    "simplenet": PlainSimpleNet,
    "draem": PlainDRAEM,
    "destseg": PlainDeSTSeg,
    "patchcore": PlainPatchCore,
    "padim": PlainPaDiM,
    "dinomaly": PlainDinomaly,
    "inpformer": PlainINPFormer,
    "vitad": PlainViTAD,
}
"""The plain network of each method that has one."""


def demand_usual_settings(detector: Detector) -> None:
    """Raise ValueError for settings of MDD-Net that the plain network does not have."""
    usual, given = type(detector.settings)(), detector.settings
    for one in ("memory_at", "weights", "balanced", "tokens"):
        if getattr(given, one) != getattr(usual, one):
            raise ValueError(f"the plain network has no other {one} than the usual")
    free = {"memory": {"items", "temperature", "decay"}, "scoring": {"sigma"}}
    for one, known in free.items():
        if getattr(given, one).model_dump(exclude=known) != getattr(usual, one).model_dump(exclude=known):
            raise ValueError(f"the plain network has only {', '.join(sorted(known))} of {one}'s settings")


def plain_teacher(encoder: FrozenEncoder) -> Any:
    """timm's own network with the weights of the encoder."""
    indices = sorted({n for level in encoder.levels for n in (level if isinstance(level, tuple) else (level,))})
    make = partial(timm.create_model, timm_name(encoder.name), features_only=True, out_indices=indices)
    try:
        teacher = make(dynamic_img_size=True)
    except TypeError:
        teacher = make()
    teacher.load_state_dict(encoder.weights())
    return teacher


def plain_twin(name: str, detector: Detector) -> Plain:
    """The plain network of a method in KINDS with the weights of the suite's detector, teacher and buffers included.

    Raises ValueError for settings of MDD-Net that it does not have.
    """
    if name == "mddnet":
        demand_usual_settings(detector)
    encoder, kind = detector.encoder, KINDS[name]
    teacher = None
    if encoder.name != NO_ENCODER:
        teacher = plain_teacher(encoder)
    twin = kind((teacher, encoder.mean, encoder.std), encoder.channels, detector.settings, detector.categories)
    if isinstance(twin, PlainTokens):
        twin.levels, twin.prefix = encoder.levels, bool(encoder.prefix_tokens)
    own = {key: value for key, value in twin.state_dict().items() if not key.startswith("teacher.")}
    for (key, value), other in zip(own.items(), detector.learned_state().values(), strict=True):
        if value.shape != other.shape:
            raise ValueError(f"{key}: {tuple(value.shape)} is not {tuple(other.shape)}")
        value.copy_(other)
    for name in twin.drawn:
        twin.register_buffer(name, getattr(detector, name).clone(), persistent=False)
    return twin
