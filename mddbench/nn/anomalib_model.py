"""A model of anomalib as a part of a method: built on the experiment's encoder, without Lightning's Trainer.

anomalib's module gives its loss for a batch (`training_step`), its optimiser (`configure_optimizers`), and maps with scores.
The loop, the images and the evaluation stay those of this suite. What a model can do only inside a Trainer is refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from inspect import signature
from io import StringIO
from types import SimpleNamespace
from typing import Annotated, Any

import torch
from pydantic import Field, JsonValue
from torch import Tensor, nn
from torch.nn import functional as F

from mddbench.errors import InputError
from mddbench.machine import large_blocks_returned
from mddbench.nn.encoder import NO_ENCODER, FrozenEncoder
from mddbench.nn.encoder_for_timm import EncoderForTimm
from mddbench.nn.precision import at_least_single
from mddbench.nn.weights import timm_name
from mddbench.plugins import nearest
from mddbench.settings import Count, Strict

OURS = ("pre_processor", "post_processor", "evaluator", "visualizer", "pre_trained")
"""Arguments of anomalib's models that this suite gives."""
HOOKS = (
    *("setup", "prepare_data", "configure_model", "backward", "optimizer_step", "configure_gradient_clipping"),
    *("on_fit_start", "on_train_start", "on_train_epoch_start", "on_train_batch_start", "on_before_zero_grad"),
    *("on_train_batch_end", "on_train_epoch_end", "on_train_end", "on_fit_end", "on_validation_start"),
)
"""What Lightning's Trainer would call. A model with such a step of its own cannot do without it."""
FRAMEWORK = ("anomalib.models.components", "lightning", "pytorch_lightning", "torch")
"""Packages whose hooks are the usual ones."""


ModelName = Annotated[str, Field(pattern=r"^[A-Za-z]\w{0,39}$")]
"""Name of a class."""


class AnomalibSettings(Strict):
    """Which model of anomalib, and how it is built."""

    model: ModelName = Field(default="Stfpm", description="The name of anomalib's class of the model.")
    options: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="Arguments of that class. `backbone` and `layers` are those of the encoder unless they are given.",
    )
    side: Count | None = Field(
        default=None,
        description="The side of the images in pixels, for models that are built for one size, such as Fastflow.",
    )


class AnomalibModel(nn.Module):
    """A model of anomalib.

    Attributes:
        module: anomalib's LightningModule.
        name: Name of its class.
        uses_encoder: True if it took the weights of the experiment's encoder.
        label: Name of a row: the model with anomalib's version.
        network: The label, with the hashes of weights that the model fetched from torchvision.
        side: Side of the images in pixels that it was built for; None for any.
        normalise: What of its pre-processing is kept. Images come in the experiment's size, whole.
    """

    def __init__(self, encoder: FrozenEncoder, settings: AnomalibSettings, collects: bool, other: str) -> None:
        """Build a model, with the weights of the experiment's encoder where it wants pre-trained ones.

        Args:
            encoder: The frozen teacher.
            settings: Which model.
            collects: Whether a model is expected that only collects.
            other: Name of the method for the other kind, for messages.

        Raises:
            InputError: If anomalib is missing, has no such model, or wants other weights, or if the model is of the
                other kind or needs Lightning's Trainer.
        """
        super().__init__()
        kind = _model_class(settings.model)
        _demand_no_trainer(kind)
        self.name, self.side = settings.model, settings.side
        if collects != any(base.__name__ == "MemoryBankMixin" for base in kind.__mro__):
            found = "is trained" if collects else "only collects"
            raise InputError(f"anomalib's {self.name} {found}; that is the method {other}: mddbench run folder/{other}")
        self.normalise = _normalisation(kind)
        self._timm = EncoderForTimm(encoder, self.name)
        with self._timm:
            self.module: Any = _built(kind, _arguments(kind, settings, self.normalise, encoder))
        if not self.module.automatic_optimization:
            raise InputError(_needs_trainer(self.name, "it steps its optimisers itself"))
        self.uses_encoder = self._timm.given > 0
        self.label = f"{self.name} (anomalib {_version()})"
        own = [f"torchvision's weights {sha256[:16]}" for sha256 in self._timm.fetched]
        self.network = ", ".join([self.label, *own])
        self.module.trainer = _NoTrainer(self.name)
        self.module.log = self.module.log_dict = _log_nothing

    def loss(self, images: Tensor) -> Tensor:
        """Compute the loss of normal images, or collect their features.

        Args:
            images: (B, 3, H, W) in [0, 1].

        Returns:
            The scalar loss; without a meaning if the model only collects.

        Raises:
            InputError: If the model cannot work with its options.
        """
        prepared = self._prepared(images)
        normal = prepared.new_zeros(len(images), dtype=torch.bool)
        masks = prepared.new_zeros((len(images), *images.shape[-2:]), dtype=torch.bool)
        batch = SimpleNamespace(image=prepared, gt_label=normal, gt_mask=masks)
        try:
            with self._timm:
                outcome = self.module.training_step(batch, 0)
        except (LookupError, TypeError) as fault:
            raise InputError(
                f"anomalib's {self.name} cannot be trained with settings.options as they are "
                f"({type(fault).__name__}: {fault})"
            ) from fault
        loss: Tensor = outcome["loss"] if isinstance(outcome, dict) else outcome
        return loss

    @torch.no_grad()
    def fit(self) -> None:
        """Fit the model to what it has collected. What it prints meanwhile is not shown."""
        with redirect_stderr(StringIO()), _quiet(), large_blocks_returned():
            self.module.on_train_epoch_end()

    def maps_and_scores(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Compute what the model itself gives, without anomalib's post-processing, which reads labelled images.

        Args:
            images: (B, 3, H, W) in [0, 1].

        Returns:
            (B, H, W) maps, resized bilinearly if the model gives smaller ones, and (B,) scores.

        Raises:
            InputError: If the model gives no map.
        """
        with self._timm:
            given = self.module.model(self._prepared(images))
        maps = getattr(given, "anomaly_map", None)
        if maps is None:
            raise InputError(f"anomalib's {self.name} gives no anomaly maps, which all metrics of pixels need")
        maps = at_least_single(maps).reshape(len(images), 1, *maps.shape[-2:])
        if maps.shape[-2:] != images.shape[-2:]:
            maps = F.interpolate(maps, (images.shape[-2], images.shape[-1]), mode="bilinear", align_corners=False)
        scores = maps.flatten(1).amax(dim=1) if given.pred_score is None else given.pred_score.flatten()
        return maps[:, 0], at_least_single(scores)

    def own_optimizer(self) -> torch.optim.Optimizer:
        """Return the optimiser that the model makes for itself. Its schedule is left out.

        Returns:
            The optimiser, with its base learning rates.

        Raises:
            InputError: If the model makes none, or several.
        """
        self.module.trainer = _NoTrainer(self.name, max_epochs=1, max_steps=-1)  # only schedules read these
        made = self.module.configure_optimizers()
        self.module.trainer = _NoTrainer(self.name)
        made = made["optimizer"] if isinstance(made, dict) else made
        made = made[0] if isinstance(made, tuple) and isinstance(made[0], list | tuple) else made
        optimizers = list(made) if isinstance(made, list | tuple) else [made]
        if len(optimizers) != 1 or not isinstance(optimizers[0], torch.optim.Optimizer):
            raise InputError(f"anomalib's {self.name} has {len(optimizers)} optimisers, expected one")
        for group in optimizers[0].param_groups:
            group["lr"] = group.pop("initial_lr", group["lr"])  # a schedule may have begun with another rate
        return optimizers[0]

    def _prepared(self, images: Tensor) -> Tensor:
        """The images as the model wants them; an InputError if they have another size than it was built for."""
        if self.side is not None and images.shape[-2:] != (self.side, self.side):
            raise InputError(
                f"settings.side is {self.side}, the images have {images.shape[-2]}x{images.shape[-1]} pixels; "
                "make it equal to image_size"
            )
        if self.module.device != images.device:
            self.module.to(
                images.device
            )  # Lightning's own note of the device, which a move of the whole leaves as it was
        prepared: Tensor = self.normalise(images.contiguous())
        return prepared

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> AnomalibModel:
        """Move or convert all tensors. They stay contiguous, since anomalib's models view them so."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for value in (*self.parameters(), *self.buffers()):  # a clone, since some strides are those of both formats
            value.data = value.data.clone(memory_format=torch.contiguous_format)
        return self


class _NoTrainer:
    """Stands where Lightning's Trainer would. A model that asks it for something is told that there is none."""

    def __init__(self, model: str, **known: int) -> None:
        self.model = model
        vars(self).update(known)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise InputError(_needs_trainer(vars(self)["model"], f"asks it for '{name}'"))


def _needs_trainer(model: str, reason: str) -> str:
    return f"anomalib's {model} needs Lightning's Trainer ({reason}), and this suite trains by a loop of its own"


def _log_nothing(*_: object, **__: object) -> None:
    """In place of the module's `log`: the loop keeps the losses."""


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out warnings of what anomalib uses of itself and of others, which nobody here can mend."""
    with warnings.catch_warnings():
        for kind in (DeprecationWarning, FutureWarning, UserWarning):
            warnings.simplefilter("ignore", kind)
        yield


def _version() -> str:
    from anomalib import __version__

    return str(__version__)


def _model_class(name: str) -> Any:
    """Import anomalib and find the class of a model; an InputError if there is none."""
    try:
        with _quiet():
            from anomalib import models
    except ModuleNotFoundError as fault:
        raise InputError(
            f"'{name}' is a model of anomalib, which is not installed ({fault}); pip install 'mddbench[anomalib]'"
        ) from None
    known = {each for each in dir(models) if isinstance(getattr(models, each), type)}
    if name not in known or not hasattr(getattr(models, name), "configure_pre_processor"):
        raise InputError(
            f"settings.model: anomalib {_version()} has no model '{name}'{nearest(name, known)}; "
            "expected the name of one of its classes, such as Padim"
        )
    return getattr(models, name)


def _normalisation(kind: Any) -> Any:
    """Of a model's own pre-processing, keep what changes values; leave out what resizes and crops."""
    from torchvision.transforms.v2 import CenterCrop, Compose, Identity, Normalize, Resize

    transform = getattr(kind.configure_pre_processor(), "transform", None)
    parts = list(transform.transforms) if isinstance(transform, Compose) else [transform] if transform else []
    for part in parts:
        if not isinstance(part, CenterCrop | Normalize | Resize):
            raise InputError(
                f"anomalib's {kind.__name__} prepares images by {type(part).__name__}, which is not known here"
            )
    return Compose([part for part in parts if isinstance(part, Normalize)] or [Identity()])


def _arguments(kind: Any, settings: AnomalibSettings, normalise: Any, encoder: FrozenEncoder) -> dict[str, Any]:
    """The arguments of a model's class; an InputError for an option that it does not have."""
    from anomalib.pre_processing import PreProcessor
    from torchvision.transforms.v2 import Compose, Resize

    names = [name for name in signature(kind).parameters if name not in OURS]
    for name in settings.options:
        if name not in names:
            known = "; this suite gives it" if name in OURS else f"; it has {', '.join(names)}"
            raise InputError(
                f"settings.options: '{name}' is no option here of anomalib's {kind.__name__}{known} "
                "(--set settings.options={} removes all)"
            )
    resize = [] if settings.side is None else [Resize((settings.side, settings.side), antialias=True)]
    given: dict[str, Any] = {
        "pre_processor": PreProcessor(Compose([*resize, normalise])),
        **dict.fromkeys(("post_processor", "evaluator", "visualizer"), False),
    }
    if encoder.name != NO_ENCODER:
        given |= {"backbone": timm_name(encoder.name).partition(".")[0], "layers": _layers(encoder)}
    taken = {name: value for name, value in given.items() if name in signature(kind).parameters}
    return taken | settings.options


def _layers(encoder: FrozenEncoder) -> list[str]:
    """Timm's names of the encoder's levels."""
    if encoder.has_tokens:
        return [f"blocks.{level}" for level in encoder.levels]
    return list(encoder.backbone.feature_info.module_name())


def _built(kind: Any, arguments: dict[str, Any]) -> Any:
    """Build a model; an InputError says why it cannot be."""
    with _quiet():
        try:
            return kind(**arguments)
        except InputError:
            raise
        except Exception as fault:  # anomalib's models raise anything
            if torch.empty(0).is_meta:
                raise ValueError("its size cannot be told") from fault
            reason = str(fault).partition("\n")[0]
            reason += "; set settings.side" if "input size" in reason.lower() else ""
            raise InputError(
                f"anomalib's {kind.__name__} cannot be built ({type(fault).__name__}: {reason})"
            ) from fault


def _demand_no_trainer(kind: Any) -> None:
    """Raise InputError for a model that learns nothing, or has steps that only Lightning's Trainer would call."""
    own = {name for base in kind.__mro__ if not base.__module__.startswith(FRAMEWORK) for name in vars(base)}
    if "training_step" not in own:
        raise InputError(f"anomalib's {kind.__name__} learns nothing from images, so there is nothing to train")
    for hook in HOOKS:
        if hook in own:
            raise InputError(_needs_trainer(kind.__name__, f"it has an {hook} of its own"))
