"""A second, plain implementation of the networks of latent diffusion, over tensors with the names of the public files."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

State = Mapping[str, Tensor]


def public_names(module: nn.Module, rules: Sequence[tuple[str, str]], prefix: str = "") -> dict[str, Tensor]:
    """The tensors of one of our networks under the names of the public files."""
    named = {}
    for name, value in module.state_dict().items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)  # noqa: PLW2901 - each rule takes what the last one gave
        named[prefix + name] = value
    return named


def amounts() -> tuple[list[float], list[float]]:
    """What signal and noise are multiplied by at each of 1000 times."""
    signal, spread, kept = [], [], 1.0
    for time in range(1000):
        root = math.sqrt(0.00085) + (math.sqrt(0.012) - math.sqrt(0.00085)) * time / 999
        kept *= 1 - root * root
        signal.append(math.sqrt(kept))
        spread.append(math.sqrt(1 - kept))
    return signal, spread


def layer(state: State, name: str, values: Tensor, stride: int = 1) -> Tensor:
    """A convolution that keeps the grid, or a linear layer."""
    weight, bias = state[f"{name}.weight"], state.get(f"{name}.bias")
    if weight.ndim == 2:
        return values @ weight.T + (0 if bias is None else bias)
    return F.conv2d(values, weight, bias, stride, padding=weight.shape[-1] // 2)


def silu(values: Tensor) -> Tensor:
    return values / (1 + torch.exp(-values))


def group_norm(state: State, name: str, values: Tensor, groups: int, eps: float) -> Tensor:
    parts = values.reshape(len(values), groups, -1)
    centred = parts - parts.mean(dim=2, keepdim=True)
    scaled = (centred / (centred.square().mean(dim=2, keepdim=True) + eps).sqrt()).reshape(values.shape)
    return scaled * state[f"{name}.weight"][:, None, None] + state[f"{name}.bias"][:, None, None]


def layer_norm(state: State, name: str, tokens: Tensor) -> Tensor:
    centred = tokens - tokens.mean(dim=-1, keepdim=True)
    scaled = centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def attention(state: State, name: str, tokens: Tensor, context: Tensor, heads: int) -> Tensor:
    queries, keys, values = (
        layer(state, f"{name}.to_{letter}", each)
        for letter, each in zip("qkv", (tokens, context, context), strict=True)
    )
    width = queries.shape[-1] // heads
    parts = []
    for head in range(heads):
        own = slice(head * width, (head + 1) * width)
        weights = torch.softmax(queries[..., own] @ keys[..., own].transpose(1, 2) / math.sqrt(width), dim=-1)
        parts.append(weights @ values[..., own])
    return layer(state, f"{name}.to_out.0", torch.cat(parts, dim=-1))


class PlainWayDown:
    """The way down and the middle of either network.

    Attributes:
        state: Tensors by their public names.
        heads: Number of heads of each attention.
        groups: Number of groups of the norms.
        time: (B, D), the described times, once `described` was called.
    """

    def __init__(self, state: State, heads: int, groups: int) -> None:
        self.state, self.heads, self.groups = state, heads, groups
        self.time = torch.zeros(0)

    def describe(self, times: Tensor) -> None:
        half = self.state["time_embed.0.weight"].shape[1] // 2
        rows = [[float(time) * 10000 ** (-index / half) for index in range(half)] for time in times]
        waves = torch.tensor([[*map(math.cos, row), *map(math.sin, row)] for row in rows])
        self.time = layer(self.state, "time_embed.2", silu(layer(self.state, "time_embed.0", waves)))

    def block(self, name: str, values: Tensor) -> Tensor:
        first = silu(group_norm(self.state, f"{name}.in_layers.0", values, self.groups, 1e-5))
        shift = layer(self.state, f"{name}.emb_layers.1", silu(self.time))[:, :, None, None]
        shifted = layer(self.state, f"{name}.in_layers.2", first) + shift
        second = silu(group_norm(self.state, f"{name}.out_layers.0", shifted, self.groups, 1e-5))
        changed = f"{name}.skip_connection.weight" in self.state
        straight = layer(self.state, f"{name}.skip_connection", values) if changed else values
        return straight + layer(self.state, f"{name}.out_layers.3", second)

    def transformer(self, name: str, values: Tensor, context: Tensor | None) -> Tensor:
        normed = group_norm(self.state, f"{name}.norm", values, self.groups, 1e-6)
        rows, inner = layer(self.state, f"{name}.proj_in", normed), f"{name}.transformer_blocks.0"
        tokens = rows.flatten(2).transpose(1, 2)
        own = layer_norm(self.state, f"{inner}.norm1", tokens)
        tokens = tokens + attention(self.state, f"{inner}.attn1", own, own, self.heads)
        own = layer_norm(self.state, f"{inner}.norm2", tokens)
        tokens = tokens + attention(self.state, f"{inner}.attn2", own, own if context is None else context, self.heads)
        both = layer(self.state, f"{inner}.ff.net.0.proj", layer_norm(self.state, f"{inner}.norm3", tokens))
        half = both.shape[-1] // 2
        gated = both[..., :half] * F.gelu(both[..., half:])
        tokens = tokens + layer(self.state, f"{inner}.ff.net.2", gated)
        return values + layer(self.state, f"{name}.proj_out", tokens.transpose(1, 2).reshape(values.shape))

    def stage(self, name: str, values: Tensor, context: Tensor | None) -> Tensor:
        """Whatever layers a stage has, as the names of its tensors tell."""
        number = 0
        while any(key.startswith(f"{name}.{number}.") for key in self.state):
            own = f"{name}.{number}"
            if f"{own}.op.weight" in self.state:
                values = layer(self.state, f"{own}.op", values, stride=2)
            elif f"{own}.conv.weight" in self.state:
                doubled = values.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
                values = layer(self.state, f"{own}.conv", doubled)
            elif f"{own}.in_layers.2.weight" in self.state:
                values = self.block(own, values)
            elif f"{own}.proj_in.weight" in self.state:
                values = self.transformer(own, values, context)
            else:
                values = layer(self.state, own, values)
            number += 1
        return values

    def count(self, name: str) -> int:
        return 1 + max(int(key.split(".")[1]) for key in self.state if key.startswith(f"{name}."))


def unet(
    plain: PlainWayDown, noisy: Tensor, times: Tensor, context: Tensor | None, guide: Sequence[Tensor | None]
) -> Tensor:
    """The U-Net, with a guide for each output of the way down and, last, for the middle."""
    plain.describe(times)
    values, kept = noisy, []
    for number in range(plain.count("input_blocks")):
        values = plain.stage(f"input_blocks.{number}", values, context)
        added = guide[number]
        kept.append(values if added is None else values + added)
    values = plain.stage("middle_block", values, context)
    values = values if guide[-1] is None else values + guide[-1]
    for number in range(plain.count("output_blocks")):
        values = plain.stage(f"output_blocks.{number}", torch.cat([values, kept.pop()], dim=1), context)
    return layer(plain.state, "out.2", silu(group_norm(plain.state, "out.0", values, plain.groups, 1e-5)))


def guidance(
    plain: PlainWayDown, noisy: Tensor, stem: Tensor, times: Tensor, context: Tensor | None, above: range, below: range
) -> list[Tensor]:
    """All outputs of the guidance network, with what the outputs `above` give to those `below`, and the middle."""
    plain.describe(times)
    values, outputs = noisy, []
    for number in range(plain.count("input_blocks")):
        values = plain.stage(f"input_blocks.{number}", values, context)
        values = values + stem if number == 0 else values
        outputs.append(layer(plain.state, f"zero_convs.{number}.0", values))
    fused = list(outputs)
    for place, target in enumerate(below, 1):
        if "down11.0.weight" in plain.state:
            total = outputs[target]
            for number, source in enumerate(above, 1):
                branch = layer(plain.state, f"down{number}{place}.0", outputs[source], stride=2)
                mean = branch.mean(dim=(2, 3), keepdim=True)
                spread = (branch - mean).square().mean(dim=(2, 3), keepdim=True)
                total = total + silu((branch - mean) / (spread + 1e-5).sqrt())
            fused[target] = silu(total)
    values = plain.stage("middle_block", values, context)
    return [*fused, layer(plain.state, "middle_block_out.0", values)]


class PlainAutoencoder:
    """The autoencoder.

    Attributes:
        state: Tensors by their public names.
        groups: Number of groups of the norms.
    """

    def __init__(self, state: State, groups: int) -> None:
        self.state, self.groups = state, groups

    def norm(self, name: str, values: Tensor) -> Tensor:
        return group_norm(self.state, name, values, self.groups, 1e-6)

    def block(self, name: str, values: Tensor) -> Tensor:
        inner = layer(self.state, f"{name}.conv1", silu(self.norm(f"{name}.norm1", values)))
        inner = layer(self.state, f"{name}.conv2", silu(self.norm(f"{name}.norm2", inner)))
        changed = f"{name}.nin_shortcut.weight" in self.state
        return inner + (layer(self.state, f"{name}.nin_shortcut", values) if changed else values)

    def middle(self, name: str, values: Tensor) -> Tensor:
        values = self.block(f"{name}.block_1", values)
        normed = self.norm(f"{name}.attn_1.norm", values)
        queries, keys, rows = (layer(self.state, f"{name}.attn_1.{part}", normed).flatten(2) for part in "qkv")
        weights = torch.softmax(torch.einsum("bcq,bck->bqk", queries, keys) / math.sqrt(queries.shape[1]), dim=2)
        read = torch.einsum("bqk,bck->bcq", weights, rows).reshape(values.shape)
        return self.block(f"{name}.block_2", values + layer(self.state, f"{name}.attn_1.proj_out", read))

    def numbers(self, name: str) -> range:
        found = {int(key[len(name) + 1 :].split(".")[0]) for key in self.state if key.startswith(f"{name}.")}
        return range(max(found) + 1)

    def encoded(self, images: Tensor, draw: Tensor) -> Tensor:
        values = layer(self.state, "encoder.conv_in", images)
        for level in self.numbers("encoder.down"):
            for number in self.numbers(f"encoder.down.{level}.block"):
                values = self.block(f"encoder.down.{level}.block.{number}", values)
            name = f"encoder.down.{level}.downsample.conv"
            if f"{name}.weight" in self.state:
                padded = torch.zeros(*values.shape[:2], values.shape[2] + 1, values.shape[3] + 1)
                padded[:, :, :-1, :-1] = values
                values = F.conv2d(padded, self.state[f"{name}.weight"], self.state[f"{name}.bias"], stride=2)
        values = silu(self.norm("encoder.norm_out", self.middle("encoder.mid", values)))
        moments = layer(self.state, "quant_conv", layer(self.state, "encoder.conv_out", values))
        mean, logarithm = moments.chunk(2, dim=1)
        return mean + torch.exp(logarithm / 2) * draw

    def decoded(self, codes: Tensor) -> Tensor:
        values = layer(self.state, "decoder.conv_in", layer(self.state, "post_quant_conv", codes))
        values = self.middle("decoder.mid", values)
        for level in reversed(self.numbers("decoder.up")):
            for number in self.numbers(f"decoder.up.{level}.block"):
                values = self.block(f"decoder.up.{level}.block.{number}", values)
            if f"decoder.up.{level}.upsample.conv.weight" in self.state:
                doubled = values.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
                values = layer(self.state, f"decoder.up.{level}.upsample.conv", doubled)
        return layer(self.state, "decoder.conv_out", silu(self.norm("decoder.norm_out", values)))
