"""What follows FUTUREG's abstract: a plain twin, and what each of the two modules lets through."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mddbench.batch import Batch
from mddbench.detector import Detector, load_method
from mddbench.errors import InputError
from mddbench.nn.encoder import FrozenEncoder
from mddbench.seeding import seed_everything
from mddbench.settings import all_values, validated

pytestmark = pytest.mark.usefixtures("double_by_default")
METHOD = load_method("futureg")
SMALL = {
    "grid": 4,
    "channels": 8,
    "heads": 2,
    "layers": 2,
    "guidance_dropout": 0.0,
    "prototypes": {"items": 5},
    "pool": 9,
}

DRAFT: dict[str, object] = {"standardised": True, "cosine_pull": 0.02, "guidance_keys": "purified"}
"""The three choices of an earlier draft."""


@pytest.fixture
def encoder() -> FrozenEncoder:
    seed_everything(7)
    return FrozenEncoder("tf_efficientnet_lite0", (1, 2, 3)).double()


@pytest.fixture
def batch() -> Batch:
    return Batch(
        torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(5)), torch.zeros(3, dtype=torch.int64)
    )


def detector_of(encoder: FrozenEncoder, **settings: object) -> Detector:
    seed_everything(0)
    return METHOD(encoder, validated(METHOD.Settings, {**SMALL, **settings}, "test"), 2).double()


def linear(layer: nn.Module, rows: Tensor) -> Tensor:
    return rows @ layer.weight.T + layer.bias


def attended(queries: Tensor, keys: Tensor, values: Tensor, heads: int) -> Tensor:
    """Attention of one image, head by head, with PyTorch's softmax."""
    parts = []
    for query, key, value in zip(*(each.chunk(heads, dim=1) for each in (queries, keys, values)), strict=True):
        parts.append(torch.softmax(query @ key.T / query.shape[1] ** 0.5, dim=1) @ value)
    return torch.cat(parts, dim=1)


def passed(layer: nn.Module, tokens: Tensor, read: Tensor | None = None, keys_of: Tensor | None = None) -> Tensor:
    """One pre-norm block on the tokens (P, C) of one image."""
    inner, attention = layer.norm_attention(tokens), layer.attention
    if read is None:
        queries, keys, values = linear(attention.project_in, inner).chunk(3, dim=1)
    else:
        queries = linear(attention.project_queries, inner)
        keys, values = linear(attention.project_read, layer.norm_attention(read)).chunk(2, dim=1)
        if keys_of is not None:
            weight, bias = attention.project_read.weight[: len(tokens.T)], attention.project_read.bias[: len(tokens.T)]
            keys = layer.norm_attention(keys_of) @ weight.T + bias
    tokens = tokens + linear(attention.project_out, attended(queries, keys, values, attention.heads))
    hidden = F.gelu(linear(layer.mlp.first, layer.norm_mlp(tokens)))
    result: Tensor = tokens + linear(layer.mlp.second, hidden)
    return result


def features_plainly(detector: Detector, images: Tensor, learning: bool) -> Tensor:
    """The tokens (B, 16, C) that are rebuilt."""
    found = []
    for image in images:
        levels = [F.interpolate(each, (4, 4), mode="bilinear") for each in detector.encoder(image[None])]
        found.append(torch.cat(levels, dim=1)[0].reshape(-1, 16).T)
    features = torch.stack(found)
    if detector.settings.standardised:
        mean, variance = detector.standard.running_mean, detector.standard.running_var
        if learning:
            mean, variance = features.mean(dim=(0, 1)), features.var(dim=(0, 1), unbiased=False)
        features = (features - mean) / (variance + 1e-5).sqrt()
    return features


def rebuilt_plainly(detector: Detector, images: Tensor, learning: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Features, what is rebuilt of them, and the commitment, image by image."""
    settings, all_rebuilt, pulls = detector.settings, [], []
    all_features = features_plainly(detector, images, learning)
    for features in all_features:
        tokens = linear(detector.project_in, features) + detector.position
        levels = []
        for layer in detector.encoder_layers:
            tokens = passed(layer, tokens)
            levels.append(tokens)
        if settings.purification:
            items = detector.prototypes.items
            weights = [torch.softmax(F.cosine_similarity(token[None], items) / 0.1, dim=0) for token in tokens]
            read = torch.stack([weight @ items for weight in weights])
            cosines = [token @ one / (token.norm() * one.norm()) for token, one in zip(tokens, read, strict=True)]
            pull = 0.25 * ((tokens - read) ** 2).mean()
            pulls.append(settings.cosine_pull * (1 - torch.stack(cosines)).mean() if settings.cosine_pull else pull)
            tokens = read
        begun = tokens if settings.guidance_keys == "purified" else None
        for number, layer in enumerate(detector.decoder_layers):
            tokens = passed(layer, tokens, levels[-1 - number] if settings.guidance else None, begun)
        all_rebuilt.append(linear(detector.project_out[1], detector.project_out[0](tokens)))
    return all_features, torch.stack(all_rebuilt), torch.stack(pulls or [torch.zeros(())]).mean()


@pytest.mark.parametrize("purification", [True, False])
@pytest.mark.parametrize("guidance", [True, False])
@pytest.mark.parametrize("draft", [{}, *({name: value} for name, value in DRAFT.items()), DRAFT])
def test_losses_and_maps_equal_the_plain_ones(
    encoder: FrozenEncoder, batch: Batch, purification: bool, guidance: bool, draft: dict[str, object]
) -> None:
    detector = detector_of(encoder, purification=purification, guidance=guidance, **draft).train()
    terms = {name: term.item() for name, term in detector.training_step(batch).items()}
    with torch.no_grad():
        features, rebuilt, pull = rebuilt_plainly(detector, batch.images, learning=True)
        expected = {"reconstruction": ((features - rebuilt) ** 2).mean().item()}
        expected |= {"commitment": pull.item()} if purification else {}
        assert terms == pytest.approx(expected, rel=1e-7)
        maps = detector.eval().anomaly_maps(batch.images)
        features, rebuilt, _ = rebuilt_plainly(detector, batch.images)
    distances = (features - rebuilt).norm(dim=2).reshape(3, 1, 4, 4)
    torch.testing.assert_close(maps, F.interpolate(distances, (64, 64), mode="bilinear")[:, 0], rtol=1e-7, atol=1e-9)
    expected_scores = F.avg_pool2d(maps[:, None], 9, 1).amax(dim=(1, 2, 3))
    torch.testing.assert_close(detector.image_scores(maps), expected_scores)


def test_nothing_but_prototypes_passes_without_guidance(encoder: FrozenEncoder, batch: Batch) -> None:
    """With one prototype all images are rebuilt alike. With guidance or without purification they are not."""
    same = {}
    for purification, guidance in ((True, False), (True, True), (False, False)):
        detector = detector_of(encoder, purification=purification, guidance=guidance, prototypes={"items": 1}).eval()
        rebuilt = detector._rebuilt(detector._features(encoder(batch.images)))[0]
        same[purification, guidance] = torch.allclose(rebuilt[0], rebuilt[1], atol=1e-12)
    assert same == {(True, False): True, (True, True): False, (False, False): False}


def test_the_commitment_moves_tokens_and_not_prototypes(encoder: FrozenEncoder, batch: Batch) -> None:
    detector = detector_of(encoder).train()
    detector.training_step(batch)["commitment"].backward()
    assert detector.prototypes.items.grad is None
    assert detector.project_in.weight.grad.any()


def test_dropout_of_the_guidance_is_in_training_only(encoder: FrozenEncoder, batch: Batch) -> None:
    detector = detector_of(encoder, guidance_dropout=0.5)
    with torch.no_grad():
        first, second = (detector.train().training_step(batch)["reconstruction"].item() for _ in range(2))
        assert first != second
        maps = [detector.eval().anomaly_maps(batch.images) for _ in range(2)]
    assert torch.equal(*maps)


def test_the_drafts_choices_are_off_and_in_no_identity_by_default(encoder: FrozenEncoder) -> None:
    plain, draft = detector_of(encoder), detector_of(encoder, **DRAFT)
    assert not set(DRAFT) & set(plain.settings.model_dump())
    assert all_values(plain.settings).items() >= {"standardised": False, "cosine_pull": 0.0, "layers": 2}.items()
    assert all_values(plain.settings)["prototypes"]["items"] == 5
    assert draft.settings.model_dump().items() >= DRAFT.items()
    assert set(draft.learned_state()) - set(plain.learned_state()) == {
        f"standard.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")
    }


def test_standardised_features_do_not_depend_on_their_scale(encoder: FrozenEncoder, batch: Batch) -> None:
    """The norm of a whole batch makes channels alike, by which the error of no level counts more than another's."""
    detector = detector_of(encoder, standardised=True).train()
    features = detector._features(encoder(batch.images)).flatten(0, 1)
    torch.testing.assert_close(features.mean(dim=0), torch.zeros(features.shape[1]), rtol=0, atol=1e-9)
    spread = features.std(dim=0, unbiased=False)
    assert ((spread > 0.9) & (spread <= 1)).double().mean() > 0.9  # some channels hardly vary in this random network


def test_keys_that_are_alike_read_all_places_evenly(encoder: FrozenEncoder) -> None:
    """So a defect in the values cannot be looked for. With their own keys it can."""
    attention = detector_of(encoder).decoder_layers[0].attention
    tokens, read = torch.randn(2, 2, 16, 8).unbind()
    with torch.no_grad():
        values = linear(attention.project_read, read)[..., 8:]
        even = linear(attention.project_out, values.mean(dim=1, keepdim=True)).expand_as(tokens)
        torch.testing.assert_close(attention(tokens, read, torch.ones_like(read)), even)
        own = attention(tokens, read)
        assert not torch.allclose(own, even, atol=1e-3)
        assert torch.equal(attention(tokens, read, read), own)


def test_its_label_is_not_the_papers_name_alone() -> None:
    assert METHOD.label == "after FUTUREG's abstract"


def test_heads_that_do_not_divide_the_channels_are_refused(encoder: FrozenEncoder) -> None:
    with pytest.raises(InputError, match=r"futureg: channels 8 are no multiple of guidance_heads 3"):
        detector_of(encoder, guidance_heads=3)
