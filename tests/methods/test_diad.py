"""DiAD: sizes and names of the public networks, a plain twin, the files it starts from, and what is trained."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from naive_diffusion import PlainAutoencoder, PlainWayDown, amounts, guidance, public_names, unet
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from mddbench.baselines.diad import times_back
from mddbench.batch import Batch
from mddbench.detector import Detector, load_method
from mddbench.errors import InputError
from mddbench.nn.encoder import FrozenEncoder
from mddbench.nn.smoothing import gaussian_smooth
from mddbench.nn.stable_diffusion_files import AUTOENCODER_FILE, FILES, OF_AUTOENCODER, OF_GUIDANCE, OF_UNET, TEXT_FILE
from mddbench.nn.stable_diffusion_names import AUTOENCODER, GUIDANCE, UNET
from mddbench.seeding import seed_everything
from support import mddbench, write_starting_files, write_tree

METHOD = load_method("diad")
SMALL = METHOD.shrunk(METHOD.Settings())
BOTH = ("weight", "bias")


@pytest.fixture
def encoder() -> FrozenEncoder:
    seed_everything(7)
    return FrozenEncoder("tf_efficientnet_lite0", (1, 2, 3))


@pytest.fixture
def batch() -> Batch:
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(5))
    return Batch(images, torch.zeros(2, dtype=torch.int64))


def detector_of(encoder: FrozenEncoder, seed: int = 0, **changes: object) -> Detector:
    seed_everything(seed)
    return METHOD(encoder, SMALL.model_copy(update=changes), 2)


def trained(detector: Detector, batch: Batch, steps: int) -> Detector:
    optimizer = torch.optim.SGD(detector.train().parameter_groups(0.5))
    for step in range(steps):
        seed_everything(step)
        optimizer.zero_grad()
        detector.training_step(batch)["diffusion"].backward()
        optimizer.step()
    return detector


@pytest.fixture(scope="module")
def whole() -> Detector:
    """DiAD at its full size, without memory for its weights."""
    small = FrozenEncoder("tf_efficientnet_lite0", (1, 2, 3))
    with torch.device("meta"):
        return METHOD(small, METHOD.Settings(), 15)


def millions(*parts: nn.Module, trained_only: bool = False) -> float:
    values = [value for part in parts for value in part.parameters() if value.requires_grad or not trained_only]
    return round(sum(value.numel() for value in values) / 1e6, 3)


def test_it_has_the_published_sizes(whole: Detector) -> None:
    assert millions(whole.unet) == 859.521
    assert millions(whole.guidance) - millions(whole.guidance.fusion) == pytest.approx(361.279, abs=1e-3)
    assert millions(whole.guidance.fusion) == 110.592
    assert millions(whole.unet, whole.guidance) == pytest.approx(1331.39, abs=0.005)
    assert millions(whole.autoencoder) == 83.654
    assert millions(whole.unet, whole.guidance, whole.autoencoder, trained_only=True) == pytest.approx(982.7, abs=0.05)
    assert whole.draws.shape == (2, 4, 32, 32)


def named(start: str, *ends: str, kinds: tuple[str, ...] = BOTH) -> Iterator[str]:
    return (f"{start}.{end}.{kind}" for end in ends for kind in kinds)


def timed_block(start: str, shortcut: bool) -> Iterator[str]:
    ends = ("in_layers.0", "in_layers.2", "emb_layers.1", "out_layers.0", "out_layers.3")
    return named(start, *ends, *(["skip_connection"] if shortcut else []))


def transformer(start: str) -> Iterator[str]:
    inner = f"{start}.transformer_blocks.0"
    yield from named(start, "norm", "proj_in", "proj_out")
    yield from named(inner, "norm1", "norm2", "norm3", "ff.net.0.proj", "ff.net.2", "attn1.to_out.0", "attn2.to_out.0")
    yield from named(inner, *(f"{one}.to_{part}" for one in ("attn1", "attn2") for part in "qkv"), kinds=("weight",))


def way_down() -> Iterator[str]:
    yield from named("time_embed", "0", "2")
    yield from named("input_blocks.0", "0")
    for number in (1, 2, 4, 5, 7, 8, 10, 11):
        yield from timed_block(f"input_blocks.{number}.0", shortcut=number in (4, 7))
        yield from transformer(f"input_blocks.{number}.1") if number < 10 else ()
    for number in (3, 6, 9):
        yield from named(f"input_blocks.{number}.0", "op")
    yield from timed_block("middle_block.0", shortcut=False)
    yield from transformer("middle_block.1")
    yield from timed_block("middle_block.2", shortcut=False)


def names_of_unet() -> set[str]:
    names = set(way_down()) | set(named("out", "0", "2"))
    for number in range(12):
        names |= set(timed_block(f"output_blocks.{number}.0", shortcut=True))
        names |= set(transformer(f"output_blocks.{number}.1")) if number > 2 else set()
    ups = ("output_blocks.2.1", "output_blocks.5.2", "output_blocks.8.2")
    return names | {name for start in ups for name in named(start, "conv")}


def names_of_guidance() -> set[str]:
    names = set(way_down()) | set(named("input_hint_block", *map(str, range(0, 16, 2))))
    names |= {name for number in range(12) for name in named(f"zero_convs.{number}", "0")}
    names |= set(named("middle_block_out", "0"))
    return names | {f"down{source}{target}.0.weight" for source in (1, 2, 3) for target in (1, 2, 3)}


def names_of_autoencoder() -> set[str]:
    names = {f"{part}.{kind}" for part in ("quant_conv", "post_quant_conv") for kind in BOTH}
    for half, levels, blocks, wider in (("encoder", "down", 2, {1: 0, 2: 0}), ("decoder", "up", 3, {0: 0, 1: 0})):
        names |= set(named(half, "conv_in", "norm_out", "conv_out"))
        names |= set(named(f"{half}.mid.attn_1", "norm", "q", "k", "v", "proj_out"))
        starts = {f"{half}.mid.block_{number}": False for number in (1, 2)}
        for level in range(4):
            starts |= {
                f"{half}.{levels}.{level}.block.{number}": wider.get(level) == number for number in range(blocks)
            }
        for start, shortcut in starts.items():
            names |= set(named(start, "norm1", "conv1", "norm2", "conv2", *(["nin_shortcut"] if shortcut else [])))
    names |= {name for level in range(3) for name in named(f"encoder.down.{level}.downsample", "conv")}
    return names | {name for level in (1, 2, 3) for name in named(f"decoder.up.{level}.upsample", "conv")}


def test_its_tensors_have_the_names_of_the_public_files(whole: Detector) -> None:
    found = (
        public_names(whole.unet, UNET),
        public_names(whole.guidance, GUIDANCE),
        public_names(whole.autoencoder, AUTOENCODER),
    )
    for own, expected in zip(found, (names_of_unet(), names_of_guidance(), names_of_autoencoder()), strict=True):
        assert set(own) == expected
    assert [len(own) for own in found] == [686, 349, 248]


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight", (320, 768)),
        ("input_blocks.4.1.transformer_blocks.0.ff.net.0.proj.weight", (5120, 640)),
        ("time_embed.0.weight", (1280, 320)),
        ("output_blocks.2.1.conv.weight", (1280, 1280, 3, 3)),
        ("output_blocks.8.0.skip_connection.weight", (640, 960, 1, 1)),
        ("output_blocks.11.0.in_layers.2.weight", (320, 640, 3, 3)),
        ("out.2.weight", (4, 320, 3, 3)),
    ],
)
def test_its_tensors_have_the_shapes_of_the_public_files(whole: Detector, name: str, shape: tuple[int, ...]) -> None:
    assert public_names(whole.unet, UNET)[name].shape == shape


def test_the_other_networks_have_the_shapes_of_the_public_files(whole: Detector) -> None:
    guide, codes = public_names(whole.guidance, GUIDANCE), public_names(whole.autoencoder, AUTOENCODER)
    assert guide["input_hint_block.14.weight"].shape == (320, 256, 3, 3)
    assert guide["down12.0.weight"].shape == (1280, 640, 3, 3)
    assert codes["encoder.mid.attn_1.q.weight"].shape == (512, 512, 1, 1)
    assert codes["decoder.up.0.block.0.nin_shortcut.weight"].shape == (128, 256, 1, 1)
    assert codes["encoder.conv_out.weight"].shape == (8, 512, 3, 3)


@pytest.mark.usefixtures("double_by_default")
def test_loss_and_maps_equal_the_plain_ones(encoder: FrozenEncoder, batch: Batch) -> None:
    encoder = encoder.double()
    detector = detector_of(encoder, sigma=1.0).double()
    detector.text.normal_()
    images = batch.images.double()
    with torch.no_grad():
        for value in (*detector.unet.parameters(), *detector.guidance.parameters()):
            value.add_(0.05 * torch.randn(value.shape))
    detector = detector.eval()
    signal, spread = amounts()
    normalised = (images - encoder.mean) / encoder.std
    codes = PlainAutoencoder(public_names(detector.autoencoder, AUTOENCODER), 4)
    guide_state, unet_state = public_names(detector.guidance, GUIDANCE), public_names(detector.unet, UNET)
    context = torch.stack([detector.text] * 2)
    stem = normalised
    for number, stride in enumerate((1, 1, 2, 1, 2, 1)):
        stem = F.conv2d(stem, *(guide_state[f"input_hint_block.{2 * number}.{kind}"] for kind in BOTH), stride, 1)
        stem = stem / (1 + torch.exp(-stem)) if number < 5 else stem

    def predicted(noisy: Tensor, times: Tensor) -> Tensor:
        guide = guidance(PlainWayDown(guide_state, 2, 4), noisy, stem, times, context, range(2), range(2, 4))
        return unet(PlainWayDown(unet_state, 2, 4), noisy, times, context, [None, None, *guide[2:]])

    seed_everything(9)
    draw, noise = torch.randn(2, 4, 16, 16), torch.randn(2, 4, 16, 16)
    times = torch.randint(0, 1000, (2,))
    with torch.no_grad():
        clean = 0.18215 * codes.encoded(normalised, draw)
        noisy = torch.stack([signal[t] * a + spread[t] * b for t, a, b in zip(times, clean, noise, strict=True)])
        expected = (predicted(noisy, times) - noise).square().mean()
        seed_everything(9)
        assert detector.training_step(Batch(images, batch.categories))["diffusion"].item() == pytest.approx(
            expected.item(), rel=1e-9
        )
        clean = 0.18215 * codes.encoded(normalised, detector.draws[:1])
        noisy = signal[999] * clean + spread[999] * detector.draws[1:]
        for now, then in ((501, 1), (1, 0)):
            answer = predicted(noisy, torch.tensor([now, now]))
            noisy = signal[then] * (noisy - spread[now] * answer) / signal[now] + spread[then] * answer
        rebuilt = codes.decoded(noisy / 0.18215) * encoder.std + encoder.mean
        total = torch.zeros(2, 64, 64)
        for one, other in zip(encoder(images), encoder(rebuilt), strict=True):
            lengths = one.square().sum(dim=1).sqrt() * other.square().sum(dim=1).sqrt()
            distances = 1 - (one * other).sum(dim=1) / lengths
            total += F.interpolate(distances[:, None], (64, 64), mode="bilinear", align_corners=True)[:, 0]
        maps = detector.anomaly_maps(images)
    torch.testing.assert_close(maps, gaussian_smooth(total, 1.0), rtol=1e-8, atol=1e-8)


def test_only_its_own_half_is_trained(encoder: FrozenEncoder, batch: Batch) -> None:
    detector = detector_of(encoder)
    detector.text.normal_()
    before = {name: value.clone() for name, value in detector.learned_state().items()}
    trained(detector, batch, 6)
    moved = {name for name, value in detector.learned_state().items() if not torch.equal(value, before[name])}
    frozen = ("autoencoder.", "unet.time.", "unet.inputs.", "unet.middle.", "text", "draws")
    assert not {name for name in moved if name.startswith(frozen)}
    parts = {".".join(name.split(".")[:3]) for name in before if not name.startswith(frozen)}
    assert {".".join(name.split(".")[:3]) for name in moved} >= {part for part in parts if ".stem." not in part}
    assert any(name.startswith("guidance.stem.") for name in moved)


def test_the_released_fusion_stays_at_zero(encoder: FrozenEncoder, batch: Batch) -> None:
    detector = trained(detector_of(encoder, fusion="zero"), batch, 6)
    assert not any(value.detach().any() for value in detector.guidance.fusion.parameters())
    assert not detector.guidance.zeros[0].weight.detach().any()
    assert detector.guidance.zeros[3].weight.detach().any()


@given(steps=st.integers(1, 500))
def test_steps_go_back_over_all_times(steps: int) -> None:
    times = times_back(steps)
    assert (len(times), times[-2:]) == (steps + 1, [1, 0])
    assert times == sorted(set(times), reverse=True)
    assert times[0] <= 999


def test_ten_steps_are_the_published_ones() -> None:
    assert times_back(10) == [901, 801, 701, 601, 501, 401, 301, 201, 101, 1, 0]


def test_an_images_score_is_the_maximum_after_eight_averages(encoder: FrozenEncoder) -> None:
    maps = torch.rand(2, 64, 64)
    expected = maps
    for _ in range(8):
        expected = expected.unfold(1, 8, 1).unfold(2, 8, 1).mean(dim=(3, 4))
    assert expected.shape == (2, 8, 8)
    torch.testing.assert_close(detector_of(encoder).image_scores(maps), expected.amax(dim=(1, 2)))
    torch.testing.assert_close(detector_of(encoder).image_scores(maps[:, :5, :5]), maps[:, :5, :5].mean(dim=(1, 2)))


@pytest.fixture
def folder(encoder: FrozenEncoder, tmp_path: Path) -> Path:
    """Files of a small model with another seed."""
    other = detector_of(encoder, seed=3)
    write_starting_files(tmp_path / "weights", other.unet, other.autoencoder, other.text)
    return tmp_path / "weights"


def test_it_starts_from_the_files(encoder: FrozenEncoder, folder: Path) -> None:
    detector, other = detector_of(encoder), detector_of(encoder, seed=3)
    fusion = {name: value.clone() for name, value in detector.guidance.fusion.state_dict().items()}
    detector.start_from(folder)
    for own, theirs in ((detector.unet, other.unet), (detector.autoencoder, other.autoencoder)):
        assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in own.state_dict().items())
    copied = {name: value for name, value in detector.guidance.state_dict().items() if name in other.unet.state_dict()}
    assert {name.split(".")[0] for name in copied} == {"time", "inputs", "middle"}
    assert all(torch.equal(value, other.unet.state_dict()[name]) for name, value in copied.items())
    assert all(torch.equal(value, fusion[name]) for name, value in detector.guidance.fusion.state_dict().items())
    assert torch.equal(detector.text, load_file(folder / TEXT_FILE)["empty"][0])
    assert detector.network.startswith("starts from Stable Diffusion's weights, SHA-256 ")


def test_other_weights_are_another_network_on_the_card(encoder: FrozenEncoder, folder: Path) -> None:
    detector = detector_of(encoder)
    detector.start_from(folder)
    first = detector.network
    save_file({"empty": torch.ones(3, 4)}, folder / TEXT_FILE)
    detector.start_from(folder)
    assert detector.network != first


@pytest.mark.parametrize("prefix", ["", OF_AUTOENCODER])
def test_an_autoencoder_of_its_own_file_counts(encoder: FrozenEncoder, folder: Path, prefix: str) -> None:
    own, detector = detector_of(encoder, seed=4).autoencoder, detector_of(encoder)
    content = public_names(own, AUTOENCODER, prefix) | {"loss.logvar": torch.zeros(1)}
    save_file(content, folder / AUTOENCODER_FILE)
    detector.start_from(folder)
    assert all(torch.equal(value, own.state_dict()[name]) for name, value in detector.autoencoder.state_dict().items())


def test_a_checkpoint_of_the_authors_is_read(encoder: FrozenEncoder) -> None:
    detector, other = detector_of(encoder), detector_of(encoder, seed=3)
    content = public_names(other.unet, UNET, OF_UNET) | public_names(other.guidance, GUIDANCE, OF_GUIDANCE)
    content |= public_names(other.autoencoder, AUTOENCODER, OF_AUTOENCODER) | {"betas": torch.zeros(3)}
    detector.load_authors_state({"state_dict": content, "epoch": 3}, "diad.ckpt")
    for name, value in other.learned_state().items():
        assert torch.equal(detector.learned_state()[name], value) or name == "draws"
    del content["control_model.down11.0.weight"]
    with pytest.raises(InputError, match=r"diad.ckpt: lacks 'control_model.down11.0.weight'; it is of another network"):
        detector.load_authors_state(content, "diad.ckpt")


def test_files_that_are_missing_or_wrong_are_one_line(encoder: FrozenEncoder, folder: Path) -> None:
    detector = detector_of(encoder)
    with pytest.raises(InputError, match=r"but no folder was given; give a folder with all files by --weights-dir DIR"):
        METHOD.demand_weights(None)
    content = load_file(folder / FILES[0])
    save_file({**content, f"{OF_UNET}extra": torch.zeros(1)}, folder / FILES[0])
    with pytest.raises(InputError, match=r"holds 'model.diffusion_model.extra', which the method does not have"):
        detector.start_from(folder)
    save_file({name: value for name, value in content.items() if "quant" not in name}, folder / FILES[0])
    with pytest.raises(InputError, match=r"lacks 'first_stage_model.quant_conv.weight'"):
        detector.start_from(folder)
    save_file({**content, f"{OF_UNET}out.2.bias": torch.zeros(5)}, folder / FILES[0])
    with pytest.raises(InputError, match=r"'model.diffusion_model.out.2.bias' is \(5,\), expected \(4,\)"):
        detector.start_from(folder)
    save_file(content, folder / FILES[0])
    save_file({"empty": torch.zeros(2, 4)}, folder / TEXT_FILE)
    with pytest.raises(InputError, match=r"text.safetensors: holds tensors of \[\(2, 4\)\], expected one of \(3, 4\)"):
        detector.start_from(folder)
    (folder / TEXT_FILE).unlink()
    with pytest.raises(InputError, match=r"expected text.safetensors, but .*weights has none"):
        METHOD.demand_weights(folder)


def test_without_weights_nothing_is_run(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree")
    done = mddbench("run", "folder/diad", "--data-root", root, "--out", tmp_path / "out", "-q")
    assert (done.returncode, done.stderr.strip().count("\n")) == (2, 0)
    assert "diad: its training starts from Stable Diffusion's weights" in done.stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"side": 66}, r"settings.side 66 is no multiple of 4, the autoencoder's factor"),
        ({"stem": (4, 8)}, r"settings.stem halves the side 1 times, the autoencoder 2 times"),
        ({"side": 8}, r"settings.side gives 2 positions a side, expected a multiple of 2, 4 at least"),
        ({"groups": 16}, r"the autoencoder's widths \[8, 8, 16\] are no multiples of groups 16"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(encoder: FrozenEncoder, changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=f"diad: {message}"):
        detector_of(encoder, **changes)


def test_images_of_another_size_are_refused(encoder: FrozenEncoder) -> None:
    with pytest.raises(
        InputError, match=r"diad: settings.side is 64, the images have 32x32 pixels; set it to image_size"
    ):
        detector_of(encoder).anomaly_maps(torch.zeros(1, 3, 32, 32))
