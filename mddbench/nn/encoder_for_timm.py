"""The weights of the experiment's encoder for a model of another library, wherever that asks timm for pre-trained ones.

It gets those of the encoder or an error, never random ones in their place. Weights that it fetches from torchvision are
named by their hash.
"""

from __future__ import annotations

from typing import Any

import timm
from timm.models import vision_transformer
from torch import nn
from torchvision.models import _api as torchvision_api

from mddbench.errors import InputError
from mddbench.nn.encoder import FrozenEncoder
from mddbench.nn.naming import match_tensors
from mddbench.nn.tensor_files import digest
from mddbench.nn.weights import timm_name


class EncoderForTimm:
    """Inside a `with` block, timm gives the encoder's weights to whoever wants pre-trained ones.

    anomalib replaces a function of timm for good as soon as it builds a vision transformer, which would change other
    methods. That replacement holds inside the block only.

    Attributes:
        encoder: The encoder.
        model: Name of the model, for messages.
        given: How many backbones got its weights.
        fetched: SHA-256 of each set of weights that came from torchvision.
        resample: timm's function, as anomalib wants it.
        outside: What is put back after the block.
    """

    def __init__(self, encoder: FrozenEncoder, model: str) -> None:
        """Prepare the block, which may be entered again and again.

        Args:
            encoder: The encoder.
            model: Name of the model, for messages.
        """
        self.encoder, self.model, self.given = encoder, model, 0
        self.fetched: list[str] = []
        self.resample = vision_transformer.resample_abs_pos_embed
        self.outside = self._found()

    def __enter__(self) -> None:
        self.outside = self._found()
        self._put(self._create, self.resample, self._fetch)

    def __exit__(self, *failure: object) -> None:
        self.resample = vision_transformer.resample_abs_pos_embed
        self._put(*self.outside)

    @staticmethod
    def _found() -> tuple[Any, Any, Any]:
        return timm.create_model, vision_transformer.resample_abs_pos_embed, torchvision_api.load_state_dict_from_url

    @staticmethod
    def _put(create: Any, resample: Any, fetch: Any) -> None:
        timm.create_model, vision_transformer.resample_abs_pos_embed = create, resample
        torchvision_api.load_state_dict_from_url = fetch

    def _fetch(self, *arguments: Any, **options: Any) -> Any:
        """Let torchvision fetch weights, and note their hash."""
        state = self.outside[2](*arguments, **options)
        self.fetched.append(digest(state))
        return state

    def _create(self, model_name: str, pretrained: bool = False, **options: Any) -> Any:
        """Create a backbone. With `pretrained` it gets the encoder's weights; an InputError if it has another name."""
        if pretrained:
            wanted, own = (name.partition(".") for name in (model_name, timm_name(self.encoder.name)))
            if wanted[0] != own[0] or (wanted[2] and own[2] and wanted[2] != own[2]):
                raise InputError(
                    f"anomalib's {self.model} wants the weights of '{model_name}', the experiment's encoder is "
                    f"'{self.encoder.name}'; set encoder.name to the first, with its file in --weights-dir, or give "
                    "the model that encoder by settings.options.backbone"
                )
        created = self.outside[0](model_name, pretrained=False, **options)
        if pretrained:
            self._load(created, model_name)
            self.given += 1
        return created

    def _load(self, backbone: nn.Module, name: str) -> None:
        """Load the encoder's weights. A classifier, which gives no features, may lack."""
        config: dict[str, Any] = getattr(backbone, "pretrained_cfg", None) or {}
        head = config.get("classifier")
        unused = tuple(f"{each}." for each in ([head] if isinstance(head, str) else head or ()))
        wanted = {key: value for key, value in backbone.state_dict().items() if not (unused and key.startswith(unused))}
        if any(value.is_meta for value in wanted.values()):
            return  # only its size is asked for
        try:
            tensors = match_tensors(wanted, self.encoder.weights(), "the encoder's weights")
        except InputError as fault:
            raise InputError(
                f"anomalib's {self.model} wants more of '{name}' than the encoder has at its levels "
                f"{list(self.encoder.levels)} ({fault}); add deeper levels to encoder.levels"
            ) from None
        backbone.load_state_dict(tensors, strict=not unused)
