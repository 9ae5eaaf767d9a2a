"""UniAD beside a second, naive implementation from its description, and its counts beside the published ones."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mddbench.batch import Batch
from mddbench.detector import Detector, load_method
from mddbench.engine.cost import multiply_adds
from mddbench.errors import InputError
from mddbench.nn.encoder import FrozenEncoder
from mddbench.seeding import seed_everything

METHOD = load_method("uniad")
SMALL = {"grid": 6, "neighbours": 3, "channels": 16, "heads": 2, "layers": 2, "feedforward": 24, "pool": 5}


@pytest.fixture
def detector(encoder: FrozenEncoder) -> Detector:
    seed_everything(0)
    detector = METHOD(encoder, METHOD.Settings(**SMALL), 2)
    with torch.no_grad():
        for name, value in detector.named_parameters():
            if not name.startswith("encoder."):
                value.add_(0.1 * torch.randn_like(value))  # zero biases would hide an error
    return detector.eval()


# The naive reading: Python loops over tokens, heads and pixels, no attention kernel, no interpolation kernel.


def naive_hidden(grid: int, neighbours: int) -> Tensor:
    reach = neighbours // 2
    hidden = torch.zeros(grid * grid, grid * grid, dtype=torch.bool)
    for row in range(grid):
        for column in range(grid):
            for other_row in range(max(0, row - reach), min(grid, row + reach + 1)):
                for other_column in range(max(0, column - reach), min(grid, column + reach + 1)):
                    hidden[row * grid + column, other_row * grid + other_column] = True
    return hidden


def naive_resize(maps: Tensor, height: int, width: int) -> Tensor:
    """Bilinear with aligned corners, (B, C, h, w) -> (B, C, height, width)."""
    out = torch.zeros(*maps.shape[:2], height, width, dtype=maps.dtype)
    for y in range(height):
        for x in range(width):
            v = y * (maps.shape[2] - 1) / (height - 1)
            u = x * (maps.shape[3] - 1) / (width - 1)
            top, left = min(int(v), maps.shape[2] - 2), min(int(u), maps.shape[3] - 2)
            a, b = v - top, u - left
            out[:, :, y, x] = (
                (1 - a) * (1 - b) * maps[:, :, top, left]
                + (1 - a) * b * maps[:, :, top, left + 1]
                + a * (1 - b) * maps[:, :, top + 1, left]
                + a * b * maps[:, :, top + 1, left + 1]
            )
    return out


def naive_attention(
    state: dict[str, Tensor], name: str, queries: Tensor, keys: Tensor, values: Tensor, hidden: Tensor
) -> Tensor:
    """One image: (P, C) each; softmax over what is not hidden, head by head."""
    weight, bias = state[f"{name}.in_proj_weight"], state[f"{name}.in_proj_bias"]
    width, heads = queries.shape[1], SMALL["heads"]
    query, key, value = (
        source @ weight[part * width : (part + 1) * width].T + bias[part * width : (part + 1) * width]
        for part, source in enumerate((queries, keys, values))
    )
    size = width // heads
    read = torch.zeros_like(queries)
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        for token in range(len(queries)):
            seen = [other for other in range(len(keys)) if not hidden[token, other]]
            scores = torch.stack([query[token, part] @ key[other, part] / math.sqrt(size) for other in seen])
            shares = (scores - scores.max()).exp()
            shares = shares / shares.sum()
            read[token, part] = sum(share * value[other, part] for share, other in zip(shares, seen, strict=True))
    return read @ state[f"{name}.out_proj.weight"].T + state[f"{name}.out_proj.bias"]


def naive_norm(state: dict[str, Tensor], name: str, tokens: Tensor) -> Tensor:
    centred = tokens - tokens.mean(dim=1, keepdim=True)
    scaled = centred / (centred.pow(2).mean(dim=1, keepdim=True) + 1e-5).sqrt()
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def naive_rebuilt(state: dict[str, Tensor], tokens: Tensor) -> Tensor:
    """One image's tokens (P, C) as the description says that they are rebuilt, in evaluation."""
    grid = SMALL["grid"]
    hidden = naive_hidden(grid, SMALL["neighbours"])
    place = torch.stack([
        torch.cat([state["position.columns"][column], state["position.rows"][row]])
        for row in range(grid)
        for column in range(grid)
    ])

    def attend(name: str, asking: Tensor, asked: Tensor) -> Tensor:
        read = naive_attention(state, f"{name}.multihead", asking + place, asked + place, asked, hidden)
        return naive_norm(state, f"{name}.norm", asking + read)

    def feed(name: str, tokens: Tensor) -> Tensor:
        inner = (tokens @ state[f"{name}.body.0.weight"].T + state[f"{name}.body.0.bias"]).clamp_min(0)
        out = inner @ state[f"{name}.body.3.weight"].T + state[f"{name}.body.3.bias"]
        return naive_norm(state, f"{name}.norm", tokens + out)

    memory = tokens @ state["project_in.weight"].T + state["project_in.bias"]
    for layer in range(SMALL["layers"]):
        memory = feed(f"encoder_layers.{layer}.feed", attend(f"encoder_layers.{layer}.self_attention", memory, memory))
    before = memory
    for layer in range(SMALL["layers"]):
        name = f"decoder_layers.{layer}"
        answer = attend(f"{name}.encoder_attention", state[f"{name}.query"], memory)
        before = feed(f"{name}.feed", attend(f"{name}.previous_attention", answer, before))
    out = naive_norm(state, "norm", before)
    return out @ state["project_out.weight"].T + state["project_out.bias"]


def naive_tokens(levels: list[Tensor]) -> Tensor:
    grid = SMALL["grid"]
    side_by_side = torch.cat([naive_resize(level, grid, grid) for level in levels], dim=1)
    return torch.stack([side_by_side[:, :, row, column] for row in range(grid) for column in range(grid)], dim=1)


def test_layers_start_as_copies_whose_linear_weights_are_drawn_anew(encoder: FrozenEncoder) -> None:
    """As the authors' code has it: queries and what attention projects queries, keys and values by are the same in all layers,
    and differ between a layer's two attentions; each linear layer, attention's last one included, is drawn by itself.
    """
    seed_everything(0)
    detector = METHOD(encoder, METHOD.Settings(**{**SMALL, "layers": 3}), 2)
    state = detector.learned_state()
    linear = {name for name, part in detector.named_modules() if isinstance(part, torch.nn.Linear)}
    for stack in ("encoder_layers", "decoder_layers"):
        own = [name.removeprefix(f"{stack}.0.") for name in state if name.startswith(f"{stack}.0.")]
        assert own
        for name in own:
            first, *others = (state[f"{stack}.{layer}.{name}"] for layer in range(3))
            drawn = f"{stack}.0.{name.rpartition('.')[0]}" in linear and name.endswith("weight")
            assert all(torch.equal(first, other) != drawn for other in others), name
    assert detector.decoder_layers[0].query.std().item() == pytest.approx(1.0, abs=0.1)
    inner = [
        state[f"decoder_layers.0.{name}.multihead.in_proj_weight"]
        for name in ("encoder_attention", "previous_attention")
    ]
    assert not torch.equal(*inner)


@pytest.mark.parametrize(("grid", "neighbours"), [(14, 7), (16, 8), (8, 3), (5, 1)])
def test_the_mask_hides_the_neighbours(encoder: FrozenEncoder, grid: int, neighbours: int) -> None:
    settings = METHOD.Settings(**{**SMALL, "grid": grid, "neighbours": neighbours})
    assert torch.equal(METHOD(encoder, settings, 1).mask, naive_hidden(grid, neighbours))


def test_eight_neighbours_are_nine_by_nine() -> None:
    """As in ADer, whose 8 on a grid of 16 is halved and reaches 4 both ways."""
    hidden = naive_hidden(16, 8)
    assert int(hidden[8 * 16 + 8].sum()) == 81


def test_alignment_map_and_score_equal_the_naive_ones(detector: Detector, images: Tensor) -> None:
    levels = detector.encoder(images)
    tokens = naive_tokens(levels)
    state = {name: value.detach() for name, value in detector.named_parameters()}
    with torch.no_grad():
        rebuilt = torch.stack([naive_rebuilt(state, one) for one in tokens])
        distances = (rebuilt - tokens).pow(2).sum(dim=2).sqrt().reshape(len(images), 1, SMALL["grid"], SMALL["grid"])
        expected = naive_resize(distances, 64, 64)[:, 0]
        maps = detector.anomaly_maps(images)
        scores = detector.image_scores(maps)
    torch.testing.assert_close(maps, expected, atol=1e-5, rtol=1e-5)
    windows = expected.unfold(1, SMALL["pool"], 1).unfold(2, SMALL["pool"], 1)
    torch.testing.assert_close(scores, windows.mean(dim=(3, 4)).amax(dim=(1, 2)), atol=1e-5, rtol=1e-5)


def test_the_loss_is_the_mean_square_to_the_features_without_noise(detector: Detector, images: Tensor) -> None:
    quiet = METHOD(detector.encoder, METHOD.Settings(**SMALL, jitter=0.0, dropout=0.0), 2)
    quiet.load_state_dict(detector.state_dict())
    tokens = naive_tokens(detector.encoder(images))
    state = {name: value.detach() for name, value in detector.named_parameters()}
    expected = torch.stack([(naive_rebuilt(state, one) - one).pow(2).mean() for one in tokens]).mean()
    terms = quiet.train().training_step(Batch(images, torch.zeros(4, dtype=torch.int64)))
    torch.testing.assert_close(terms["reconstruction"].detach(), expected, atol=1e-5, rtol=1e-5)


def test_noise_has_the_deviation_it_should() -> None:
    jitter = METHOD.training_step.__globals__["jitter"]
    seed_everything(0)
    tokens = torch.ones(1, 4000, 16) * torch.linspace(1, 2, 4000)[None, :, None]
    noise = jitter(tokens, 20.0, 1.0) - tokens
    expected = tokens.norm(dim=-1) / 16 * 20
    assert (noise.std(dim=-1) / expected).mean() == pytest.approx(1.0, abs=0.03)
    assert torch.equal(jitter(tokens, 20.0, 0.0), tokens)


def test_parameters_match_the_published_counts() -> None:
    """24.522 M with EfficientNet-B4, 16.742 M of it the backbone, at ADer's grid; source: ADer's logs. They count stages of the
    backbone that give no feature, too.
    """
    encoder = FrozenEncoder("tf_efficientnet_b4", (0, 1, 2, 3))
    assert encoder.channels == (24, 32, 56, 160)
    detector = METHOD(encoder, METHOD.Settings(grid=16, neighbours=8), 15)
    own = sum(value.numel() for value in detector.parameters() if value.requires_grad)
    averages = ("running_mean", "running_var", "num_batches_tracked")
    teacher = sum(value.numel() for name, value in encoder.weights().items() if not name.endswith(averages))
    assert round((own + teacher) / 1e6, 3) == 24.522
    assert round(own / 1e6, 3) == 7.779
    assert round(teacher / 1e6, 3) == 16.742


def test_multiply_adds_differ_from_the_published_by_one_product_of_attention() -> None:
    """3.364 G at 256 px in ADer's logs, whose counter knows one of attention's two products, and norms (1 %)."""
    encoder = FrozenEncoder("tf_efficientnet_b4", (0, 1, 2, 3))
    detector = METHOD(encoder, METHOD.Settings(grid=16, neighbours=8), 15).eval()
    product = 12 * 256 * 256 * 256  # attentions, queries, keys, channels
    assert (multiply_adds(detector, 256) - product) / 1e9 == pytest.approx(3.364, rel=0.015)


def test_rd4ads_published_size_is_what_is_counted() -> None:
    """80.610 M and 28.44 G multiply-adds at 256 px of ADer's variant; source: ADer's logs. The norms, which torch's counter
    leaves out, are the difference.
    """
    rd4ad = load_method("rd4ad")
    detector = rd4ad(FrozenEncoder("wide_resnet50_2", (1, 2, 3)), rd4ad.Settings(bottleneck_width=64), 15).eval()
    assert sum(value.numel() for value in detector.parameters()) / 1e6 == pytest.approx(80.610, abs=5e-4)
    assert multiply_adds(detector, 256) / 1e9 == pytest.approx(28.44, rel=3e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"grid": 5, "neighbours": 5}, "sees nothing"), ({"channels": 18, "heads": 4}, "no multiple of heads")],
)
def test_settings_that_cannot_work_are_one_line(encoder: FrozenEncoder, changes: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message) as fault:
        METHOD(encoder, METHOD.Settings(**{**SMALL, **changes}), 2)
    assert "\n" not in str(fault.value)


def test_the_encoders_weights_are_left_alone() -> None:
    """A transformer's own linear layers are initialised, an encoder's never."""
    encoder = FrozenEncoder("vit_tiny_patch16_224", (5, 11))
    before = encoder.weights_sha256
    METHOD(encoder, METHOD.Settings(**SMALL), 2)
    assert encoder.weights_sha256 == before


@pytest.mark.parametrize(
    ("name", "levels", "size"),
    [
        ("vit_tiny_patch16_224", (5, 11), 96),
        ("convnext_atto", (0, 1, 2), 96),
        ("swin_tiny_patch4_window7_224", (0, 1, 2), 224),
        ("resnet18", (1, 2, 3), 72),
    ],
)
def test_any_encoder_and_size_will_do(name: str, levels: tuple[int, ...], size: int) -> None:
    detector = METHOD(FrozenEncoder(name, levels), METHOD.Settings(**SMALL), 1).eval()
    with torch.inference_mode():
        maps = detector.anomaly_maps(torch.rand(2, 3, size, size))
    assert maps.shape == (2, size, size)
    assert torch.isfinite(maps).all()
