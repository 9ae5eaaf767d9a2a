"""timm's architectures, one of each family: a plain model's weights, saved and read back, give timm's own features."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from packaging.version import Version
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mddbench.nn.encoder import FrozenEncoder, load_encoder
from mddbench.nn.tensor_files import digest

LEVELS = (0, 2)
SIZES = {
    "test_vit": 160, "test_vit3": 160, "test_vit_relpos": 160, "test_convnext": 96, "test_resnet": 96, "test_efficientnet": 96,
    "test_byobnet": 96, "test_nfnet": 96, "test_mambaout": 96, "convit_tiny": 224, "convnext_zepto_rms": 96,
    "cs3darknet_focus_s": 96, "cspnext_tiny": 96, "deit_tiny_patch16_224": 224, "densenet121": 96, "dla46x_c": 96,
    "edgenext_xx_small": 96, "efficientformerv2_s0": 224, "efficientvit_b0": 96, "eva02_tiny_patch14_224": 224,
    "fasternet_t0": 96, "fastvit_t8": 96, "gcvit_xxtiny": 224, "ghostnet_050": 96, "hardcorenas_b": 96, "hgnetv2_b0": 96,
    "hrnet_w18_small": 96, "inception_next_atto": 96, "lcnet_035": 96, "levit_128s": 224, "coatnet_pico_rw_224": 224,
    "gmlp_ti16_224": 224, "mobilenetv3_small_050": 96, "mobilenetv4_conv_small_050": 96, "mobilevit_xxs": 96,
    "pit_ti_224": 224, "pvt_v2_b0": 96, "regnetx_002": 96, "repghostnet_050": 96, "repvgg_a0": 96, "repvit_m1": 96,
    "resnest14d": 96, "resnet10t": 96, "resnetv2_18": 96, "rexnet_100": 96, "shvit_s1": 96, "skresnet18": 96,
    "starnet_s050": 96, "swiftformer_xs": 224, "tiny_vit_5m_224": 224, "vit_small_patch14_dinov2": 70,
    "xcit_nano_12_p8_224": 64, "ese_vovnet19b_slim_dw": 96, "swin_tiny_patch4_window7_224": 224,
    "vit_small_patch16_dinov3": 64, "maxvit_rmlp_pico_rw_256": 256,
    "vgg11": 64,
}  # fmt: skip
"""The smallest of each family that loads in a moment, and the size of an image that it takes."""
FEATURES_SINCE = {"gcvit_xxtiny": "1.0.16", "convit_tiny": "1.0.31"}
"""The first timm that gives features of an architecture, where there was the architecture before."""
UNUSED = ("pre_logits",)
"""120 million numbers of VGG that no feature needs."""


def plain_model(name: str) -> nn.Module:
    """With weights and averages in which no two are alike, small enough for values to stay finite."""
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    for key, value in model.state_dict().items():
        if value.is_floating_point():
            noise = torch.rand_like(value)
            value.copy_(0.5 + noise) if key.endswith("running_var") else value.add_(0.02 * (noise - 0.5))
    return model


@pytest.mark.parametrize("name", SIZES)
def test_a_plain_models_file_gives_timms_own_features(name: str, tmp_path: Path) -> None:
    if not timm.is_model(name):
        pytest.skip(f"this timm lacks {name}")
    if Version(timm.__version__) < Version(FEATURES_SINCE.get(name, "0")):
        pytest.skip(f"this timm gives no features of {name}")
    state = {
        key: value.contiguous()
        for key, value in plain_model(name).state_dict().items()
        if key.split(".")[0] not in UNUSED
    }
    save_file(state, tmp_path / f"{name}.safetensors")
    found = load_encoder(name, LEVELS, tmp_path)
    try:
        expected = timms(name, state, dynamic_img_size=True)
    except TypeError:  # convolutions take any size
        expected = timms(name, state)
    images = torch.rand(1, 3, SIZES[name], SIZES[name])
    with torch.inference_mode():
        features = found(images)
        levels = expected((images - found.mean) / found.std)
    assert len(features) == len(levels) == len(LEVELS)
    for own, theirs, channels in zip(features, levels, found.channels, strict=True):
        assert float(theirs.std()) > 0
        channels_first = theirs if theirs.shape[1] == channels else theirs.movedim(-1, 1)
        torch.testing.assert_close(own, channels_first, rtol=1e-5, atol=1e-5)
    assert found.weights_sha256 == digest(expected.state_dict())


def timms(name: str, state: dict[str, Tensor], **changes: bool) -> nn.Module:
    """timm's own loading of a state dict, into its own wrapper."""
    overlay = {"state_dict": dict(state)}
    return timm.create_model(
        name, features_only=True, out_indices=LEVELS, pretrained=True, pretrained_cfg_overlay=overlay, **changes
    ).eval()


@pytest.mark.parametrize(
    "name", ["tf_efficientnet_lite0", "tf_efficientnet_b0", "mobilenetv3_small_050", "hardcorenas_b"]
)
def test_stages_that_nobody_asks_for_are_not_computed(name: str) -> None:
    """Without them the same bits and the same hash, at fewer multiply-adds and parameters."""
    torch.manual_seed(0)
    encoder = FrozenEncoder(name, (0, 1, 2))
    whole = timm.create_model(name, features_only=True, out_indices=(0, 1, 2)).eval()
    whole.load_state_dict(encoder.weights())
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        for own, theirs in zip(encoder(images), whole((images - encoder.mean) / encoder.std), strict=True):
            assert torch.equal(own, theirs)
    assert encoder.weights_sha256 == digest(whole.state_dict())
    assert parameters(encoder) < 0.5 * parameters(whole)
    assert operations(encoder, images) < 0.8 * operations(whole, images)


def parameters(module: nn.Module) -> int:
    return sum(value.numel() for value in module.parameters())


def operations(module: nn.Module, images: Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        module(images)
    return counter.get_total_flops()
