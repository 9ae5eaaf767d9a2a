"""The loop: what it learns, what it refuses, and that an interruption leaves no trace."""

from __future__ import annotations

import random
import shutil
import signal
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mddbench.batch import Batch
from mddbench.detector import Detector, load_method
from mddbench.engine.batches import TrainingImages, batches_per_epoch
from mddbench.engine.checkpoint import digest_of
from mddbench.engine.cost import training_speed
from mddbench.engine.loss_watch import LossWatch
from mddbench.engine.optimizer import make_optimizer, rate_factor
from mddbench.engine.step import for_method
from mddbench.engine.train import Conditions, Trainer
from mddbench.errors import CellError, InputError
from mddbench.experiments.schema import EncoderSettings, OptimizerSettings, ScheduleSettings
from mddbench.interruption import Interruption, interruptible
from mddbench.nn.encoder import FrozenEncoder
from mddbench.nn.tensor_files import digest
from mddbench.progress import SilentReporter
from mddbench.runs.records import EpochLog
from mddbench.seeding import derived_seed, seed_everything
from mddbench.settings import Strict
from support import experiment

QUIET = SilentReporter()


class Toy(Detector):
    """One weight; its loss is that weight's distance to the images' mean, and not finite where `fails_at` says."""

    label, version = "Toy", 1

    class Settings(Strict):
        fails_at: int = -1

    def __init__(self, encoder: FrozenEncoder, settings: Any, categories: int) -> None:
        super().__init__(encoder, settings, categories)
        self.weight = nn.Parameter(torch.zeros(1))
        self.seen: list[Tensor] = []
        self.finished = False

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        self.seen.append(batch.categories)
        pull = (self.weight - batch.images.mean() - 0.1 * torch.rand(1)).square().sum()
        broken = torch.tensor(float("nan") if len(self.seen) == self.settings.fails_at else 0.0)
        return {"pull": pull, "other": broken}

    def anomaly_maps(self, images: Tensor) -> Tensor:
        return (images.mean(dim=1) - self.weight).abs()

    def finish_training(self) -> None:
        self.finished = True


class Collector(Toy):
    """Collects its images' means in one pass, and builds a buffer of them."""

    label, single_pass = "Collector", True

    def __init__(self, encoder: FrozenEncoder, settings: Any, categories: int) -> None:
        super().__init__(encoder, settings, categories)
        self.register_buffer("bank", torch.zeros(0))
        self.bank: Tensor
        self.collected: list[Tensor] = []

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        self.seen.append(batch.categories)
        self.collected.append(batch.images.mean(dim=(1, 2, 3)))
        return {}

    def finish_training(self) -> None:
        super().finish_training()
        self.bank = torch.cat(self.collected).sort().values


@pytest.fixture
def data() -> TrainingImages:
    generator = np.random.default_rng(0)
    return TrainingImages(generator.integers(0, 256, (10, 32, 32, 3), dtype=np.uint8), np.arange(10) % 3)


def toy(encoder: FrozenEncoder, **settings: Any) -> Toy:
    return Toy(encoder, Toy.Settings(**settings), 3)


def test_it_learns_and_tells_how_it_went(encoder: FrozenEncoder, data: TrainingImages, tmp_path: Path) -> None:
    detector = toy(encoder)
    logs: list[EpochLog] = []
    settings = experiment(epochs=6, optimizer={"name": "sgd", "lr": 0.1, "momentum": 0.0})
    history = Trainer(detector, settings, 0, tmp_path / "c.pt").run(data, QUIET, logs.append)
    assert history == logs
    assert [log.epoch for log in history] == [1, 2, 3, 4, 5, 6]
    assert history[-1].loss < history[0].loss
    assert history[0].loss == pytest.approx(sum(history[0].terms.values()))
    assert set(history[0].terms) == {"pull", "other"}
    assert history[0].images == 8
    assert detector.finished


def test_every_epoch_sees_another_order_and_whole_batches(
    encoder: FrozenEncoder, data: TrainingImages, tmp_path: Path
) -> None:
    detector = toy(encoder)
    Trainer(detector, experiment(epochs=2, drop_last=False), 0, tmp_path / "c.pt").run(data, QUIET)
    assert [len(part) for part in detector.seen] == [4, 4, 2] * 2
    first, second = torch.cat(detector.seen[:3]), torch.cat(detector.seen[3:])
    assert not torch.equal(first, second)
    assert first.bincount().tolist() == second.bincount().tolist() == [4, 3, 3]


@pytest.mark.parametrize(("images", "drop", "expected"), [(10, True, 2), (10, False, 3), (8, False, 2), (3, True, 1)])
def test_batches_per_epoch(images: int, drop: bool, expected: int) -> None:
    assert batches_per_epoch(images, experiment(drop_last=drop)) == expected


@pytest.mark.parametrize("step", [1, 2, 5])
def test_a_loss_that_is_not_finite_names_its_step_and_terms(
    step: int, encoder: FrozenEncoder, data: TrainingImages, tmp_path: Path
) -> None:
    with pytest.raises(CellError, match=rf"step {step}: loss is nan \(pull=.*, other=nan\)"):
        Trainer(toy(encoder, fails_at=step), experiment(epochs=4), 0, tmp_path / "c.pt").run(data, QUIET)


def test_a_method_that_only_collects_sees_each_image_once(
    encoder: FrozenEncoder, data: TrainingImages, tmp_path: Path
) -> None:
    """Whatever the recipe says of epochs, last batches and optimisers; it has no loss."""
    detector = Collector(encoder, Toy.Settings(), 3)
    history = Trainer(detector, experiment(epochs=7, drop_last=True), 0, tmp_path / "c.pt").run(data, QUIET)
    assert [(log.epoch, log.terms, log.loss, log.images) for log in history] == [(1, {}, None, 10)]
    assert [len(part) for part in detector.seen] == [4, 4, 2]
    assert len(detector.bank) == 10
    assert not (tmp_path / "c.pt").exists()


def test_an_interrupted_pass_begins_again(encoder: FrozenEncoder, data: TrainingImages, tmp_path: Path) -> None:
    cut, whole = (Collector(encoder, Toy.Settings(), 3) for _ in range(2))
    with pytest.raises(StoppedError):
        Trainer(cut, experiment(), 0, tmp_path / "c.pt").run(data, QUIET, stop_after(1))
    resumed = Collector(encoder, Toy.Settings(), 3)
    for detector in (whole, resumed):
        Trainer(detector, experiment(), 0, tmp_path / "c.pt").run(data, QUIET)
    assert torch.equal(resumed.bank, whole.bank)
    loaded = Collector(encoder, Toy.Settings(), 3)
    loaded.load_learned_state(whole.learned_state())
    assert torch.equal(loaded.bank, whole.bank)


def test_a_method_without_a_loss_must_say_that_it_only_collects(
    encoder: FrozenEncoder, data: TrainingImages, tmp_path: Path
) -> None:
    silent = toy(encoder)
    silent.training_step = lambda batch: {}  # type: ignore[method-assign]
    with pytest.raises(CellError, match=r"Toy: its training_step returns no loss; a method that only collects says"):
        Trainer(silent, experiment(), 0, tmp_path / "c.pt").run(data, QUIET)
    talking = Collector(encoder, Toy.Settings(), 3)
    talking.training_step = lambda batch: {"pull": torch.zeros(())}  # type: ignore[method-assign]
    with pytest.raises(CellError, match=r"Collector: it says `single_pass`, but its training_step returns losses"):
        Trainer(talking, experiment(), 0, tmp_path / "c.pt").run(data, QUIET)
    detector = toy(encoder)
    detector.weight.requires_grad_(False)
    with pytest.raises(InputError, match=r"Toy has no parameter to train; .*`single_pass = True`"):
        Trainer(detector, experiment(), 0, tmp_path / "c.pt")


def test_settings_that_a_single_pass_does_not_have_are_refused() -> None:
    asked = experiment(overrides={"epochs": 5})
    with pytest.raises(
        InputError, match=r"--set epochs: rd4ad sees each image once, without an optimiser; leave it out"
    ):
        for_method(asked, Collector)
    assert for_method(asked, Toy) is asked


def test_each_step_knows_its_share_of_the_training(
    encoder: FrozenEncoder, data: TrainingImages, tmp_path: Path
) -> None:
    detector, shares = toy(encoder), []

    def step(batch: Batch) -> dict[str, Tensor]:
        shares.append(batch.progress)
        return Toy.training_step(detector, batch)

    detector.training_step = step  # type: ignore[method-assign]
    Trainer(detector, experiment(epochs=2), 0, tmp_path / "c.pt").run(data, QUIET)
    assert shares == pytest.approx([index / len(shares) for index in range(len(shares))])
    assert len(shares) > 2


def test_a_method_without_an_encoder_gets_none_and_one_with_an_encoder_needs_it() -> None:
    class Pixels(Toy):
        label, uses_encoder = "Pixels", False

    assert for_method(experiment(), Pixels).encoder == EncoderSettings(name="none", levels=())
    with pytest.raises(InputError, match=r"--set encoder\.name: rd4ad uses no encoder; leave it out"):
        for_method(experiment(overrides={"encoder.name": "resnet18"}), Pixels)
    with pytest.raises(InputError, match=r"rd4ad needs an encoder, found 'none'"):
        for_method(experiment(encoder={"name": "none", "levels": []}), Toy)


def test_settings_of_the_optimiser_reach_it_and_change_no_identity_unless_set(encoder: FrozenEncoder) -> None:
    plain = OptimizerSettings(name="adam", lr=0.1)
    assert "eps" not in plain.model_dump()
    assert "amsgrad" not in plain.model_dump()
    own = OptimizerSettings(name="adamw", lr=0.1, eps=1e-10, amsgrad=True)
    assert own.model_dump().items() >= {"eps": 1e-10, "amsgrad": True}.items()
    optimizer = make_optimizer(toy(encoder), own)
    assert optimizer is not None
    assert (optimizer.defaults["eps"], optimizer.defaults["amsgrad"]) == (1e-10, True)


def test_losses_of_phases_keep_their_names() -> None:
    watch = LossWatch(0)
    for terms in ({"student": 1.0, "norm": 4.0}, {"student": 3.0, "norm": 4.0}, {"head": 7.0}, {"head": 9.0}):
        watch.add({name: torch.tensor(value) for name, value in terms.items()})
    assert watch.means() == {"student": 2.0, "norm": 4.0, "head": 8.0}
    assert watch.latest == 9.0
    watch.add({"head": torch.tensor(float("nan"))})
    with pytest.raises(CellError, match=r"step 5: loss is nan \(head=nan\)"):
        watch.check()


def test_a_state_that_does_not_fit_changes_nothing(encoder: FrozenEncoder) -> None:
    detector = Collector(encoder, Toy.Settings(), 3)
    detector.bank = torch.ones(3)
    with pytest.raises(RuntimeError, match="does not fit: missing"):
        detector.load_learned_state({"bank": torch.zeros(5)})
    assert detector.bank.tolist() == [1, 1, 1]
    fixed = rd4ad(encoder)
    state = dict(fixed.learned_state())
    name = next(key for key in state if key.endswith("running_mean"))
    with pytest.raises(RuntimeError):
        fixed.load_learned_state({**state, name: torch.zeros(1)})


def test_a_bank_that_was_nothing_before(encoder: FrozenEncoder) -> None:
    class Empty(Collector):
        def __init__(self, encoder: FrozenEncoder, settings: Any, categories: int) -> None:
            super().__init__(encoder, settings, categories)
            self.register_buffer("later", None)

    full = Empty(encoder, Toy.Settings(), 3)
    full.later = torch.ones(4)
    loaded = Empty(encoder, Toy.Settings(), 3)
    loaded.load_learned_state(full.learned_state())
    assert torch.equal(loaded.later, full.later)


def test_what_a_method_says_of_itself_must_be_a_number(
    encoder: FrozenEncoder, data: TrainingImages, tmp_path: Path
) -> None:
    detector = toy(encoder)
    detector.diagnostics = lambda: {"usage": float("nan")}  # type: ignore[method-assign]
    with pytest.raises(CellError, match=r"epoch 1: diagnostics\.usage is nan"):
        Trainer(detector, experiment(), 0, tmp_path / "c.pt").run(data, QUIET)


def test_a_full_disk_costs_a_checkpoint_and_no_training(
    encoder: FrozenEncoder, data: TrainingImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:659] unexpected pos 64 vs 0")

    monkeypatch.setattr("mddbench.engine.checkpoint.torch.save", full)
    said: list[str] = []
    listener = SilentReporter()
    monkeypatch.setattr(listener, "say", said.append)
    assert len(Trainer(toy(encoder), experiment(), 0, tmp_path / "c.pt").run(data, listener)) == 2
    assert any("c.pt: cannot be written" in line and "the training goes on" in line for line in said)
    with pytest.raises(FileNotFoundError):
        Trainer(toy(encoder), experiment(), 0, tmp_path / "gone" / "c.pt").run(data, listener)


def test_a_checkpoint_of_an_earlier_version_says_so(
    encoder: FrozenEncoder, data: TrainingImages, tmp_path: Path
) -> None:
    torch.save({"epoch": 1, "history": []}, tmp_path / "c.pt")
    with pytest.raises(InputError, match="it holds no hash: an earlier version wrote it"):
        Trainer(toy(encoder), experiment(), 0, tmp_path / "c.pt").run(data, QUIET)


def test_a_checkpoint_with_one_changed_byte_is_refused(
    encoder: FrozenEncoder, data: TrainingImages, tmp_path: Path
) -> None:
    """PyTorch reads it without a word."""
    file = tmp_path / "c.pt"
    with pytest.raises(StoppedError):
        Trainer(rd4ad(encoder), experiment(), 0, file).run(data, QUIET, stop_after(1))
    saved = torch.load(file, weights_only=True)
    weight = saved["detector"]["decoder.stages.0.0.body.0.0.weight"].numpy().tobytes()[:64]
    content = bytearray(file.read_bytes())
    content[content.index(weight) + 2] ^= 1
    file.write_bytes(content)
    assert torch.load(file, weights_only=True)["epoch"] == 1
    with pytest.raises(InputError, match=r"c\.pt: cannot be resumed from .*--force"):
        Trainer(rd4ad(encoder), experiment(), 0, file).run(data, QUIET)


@pytest.mark.parametrize(
    "change",
    [
        lambda saved: saved.update(epoch=2),
        lambda saved: saved["history"][0].update(loss=0.5),
        lambda saved: saved["optimizer"]["param_groups"][0].update(lr=1.0),
        lambda saved: saved.pop("looks"),
    ],
)
def test_nothing_of_a_checkpoint_may_be_another(
    change: Any, encoder: FrozenEncoder, data: TrainingImages, tmp_path: Path
) -> None:
    file = tmp_path / "c.pt"
    with pytest.raises(StoppedError):
        Trainer(toy(encoder), experiment(), 0, file).run(data, QUIET, stop_after(1))
    saved = torch.load(file, weights_only=True)
    change(saved)
    torch.save(saved, file)
    with pytest.raises(InputError, match="cannot be resumed from"):
        Trainer(toy(encoder), experiment(), 0, file).run(data, QUIET)


def rd4ad(encoder: FrozenEncoder) -> Detector:
    seed_everything(derived_seed(0, "initial weights"))
    method = load_method("rd4ad")
    return method(encoder, method.Settings(), 3)


class StoppedError(Exception):
    pass


class Listener(SilentReporter):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)


def stop_after(epoch: int) -> Any:
    def on_epoch(log: EpochLog) -> None:
        if log.epoch == epoch:
            raise StoppedError

    return on_epoch


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_resumed_run_ends_with_the_same_bits(
    precision: str, encoder: FrozenEncoder, data: TrainingImages, tmp_path: Path
) -> None:
    schedule = {"name": "cosine", "warmup": 0.2}
    settings = experiment(epochs=4, precision=precision, gradient_clip=1.0, schedule=schedule)
    whole = rd4ad(encoder)
    undisturbed = Trainer(whole, settings, 0, tmp_path / "whole.pt").run(data, QUIET)

    with pytest.raises(StoppedError):
        Trainer(rd4ad(encoder), settings, 0, tmp_path / "cut.pt").run(data, QUIET, stop_after(2))
    resumed = rd4ad(encoder)
    history = Trainer(resumed, settings, 0, tmp_path / "cut.pt").run(data, QUIET)

    assert digest(resumed.learned_state()) == digest(whole.learned_state())
    assert [(log.epoch, log.loss, log.lr) for log in history] == [(log.epoch, log.loss, log.lr) for log in undisturbed]


class Random(Toy):
    """Draws from all three generators."""

    label = "Random"

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        drawn = random.random() + np.random.rand() + torch.rand(())  # noqa: NPY002
        return {"pull": Toy.training_step(self, batch)["pull"] * drawn}


def stopping_in(step: int, number: int) -> Any:
    """Sends a signal in a step of the training, counted from 1, before it changes the model."""
    steps = iter(range(1, 10_000))

    def training_step(detector: Any, batch: Batch) -> dict[str, Tensor]:
        if next(steps) == step:
            signal.raise_signal(number)
        return type(detector).training_step(detector, batch)

    return training_step


@pytest.mark.parametrize("method", ["rd4ad", "random"])
@pytest.mark.parametrize("step", [1, 2, 4])
def test_a_signal_inside_an_epoch_loses_no_step(
    step: int, method: str, encoder: FrozenEncoder, data: TrainingImages, tmp_path: Path
) -> None:
    """The step that it meets ends, a checkpoint is written, and what is resumed ends with the same bits."""

    def made() -> Detector:
        return rd4ad(encoder) if method == "rd4ad" else Random(encoder, Toy.Settings(), 3)

    settings, file = experiment(epochs=3, batch_size=3), tmp_path / "cut.pt"
    assert batches_per_epoch(len(data.images), settings) == 3
    whole = made()
    undisturbed = Trainer(whole, settings, 0, tmp_path / "whole.pt").run(data, QUIET)
    stopped, told = made(), []
    stopped.training_step = partial(stopping_in(step, signal.SIGTERM), stopped)  # type: ignore[method-assign]
    trainer = Trainer(stopped, settings, 0, file)
    trainer.when_stopped = lambda *where: told.append(where)
    with pytest.raises(Interruption), interruptible():
        trainer.run(data, QUIET)
    assert told == [(1 + (step - 1) // 3, 1 + (step - 1) % 3)]
    listener = Listener()
    resumed = made()
    history = Trainer(resumed, settings, 0, file).run(data, listener)
    assert f"resuming after epoch {told[0][0] - 1} of 3 and {told[0][1]} of 3 steps" in listener.said
    assert digest(resumed.learned_state()) == digest(whole.learned_state())
    assert [log.model_dump(exclude={"seconds"}) for log in history] == [
        log.model_dump(exclude={"seconds"}) for log in undisturbed
    ]


def test_checkpoints_inside_an_epoch_lose_few_steps(
    encoder: FrozenEncoder, data: TrainingImages, tmp_path: Path
) -> None:
    """A process that is killed, as any exception but an interruption is to a training, goes on from the last one."""
    settings, file = experiment(epochs=2, batch_size=2), tmp_path / "cut.pt"
    assert batches_per_epoch(len(data.images), settings) == 5
    whole = rd4ad(encoder)
    Trainer(whole, settings, 0, tmp_path / "whole.pt").run(data, QUIET)
    killed = rd4ad(encoder)
    steps = iter(range(1, 100))

    def step(batch: Batch) -> dict[str, Tensor]:
        if next(steps) == 5:
            raise StoppedError
        return type(killed).training_step(killed, batch)

    killed.training_step = step  # type: ignore[method-assign]
    with pytest.raises(StoppedError):
        Trainer(killed, settings, 0, file, Conditions(checkpoint_every=2)).run(data, QUIET)
    resumed, listener = rd4ad(encoder), Listener()
    history = Trainer(resumed, settings, 0, file).run(data, listener)
    assert "resuming after epoch 0 of 2 and 4 of 5 steps" in listener.said
    assert digest(resumed.learned_state()) == digest(whole.learned_state())
    assert [log.images for log in history] == [10, 10]
    assert torch.load(file, weights_only=True)["inside"] is None


def test_a_step_that_was_cut_off_is_in_no_checkpoint(
    encoder: FrozenEncoder, data: TrainingImages, tmp_path: Path
) -> None:
    """Where signals are not held back, the model may have changed by half a step."""
    detector = toy(encoder)
    detector.training_step = partial(stopping_in(2, signal.SIGINT), detector)  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        Trainer(detector, experiment(), 0, tmp_path / "c.pt").run(data, QUIET)
    assert not (tmp_path / "c.pt").exists()


def test_a_checkpoint_that_does_not_fit_is_an_error(
    encoder: FrozenEncoder, data: TrainingImages, tmp_path: Path
) -> None:
    (tmp_path / "c.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match=r"c\.pt: cannot be resumed from .* --force"):
        Trainer(toy(encoder), experiment(), 0, tmp_path / "c.pt").run(data, QUIET)


def test_gradients_are_clipped(encoder: FrozenEncoder, data: TrainingImages, tmp_path: Path) -> None:
    detector = toy(encoder)
    settings = experiment(epochs=1, gradient_clip=1e-3, optimizer={"name": "sgd", "lr": 1.0, "momentum": 0.0})
    Trainer(detector, settings, 0, tmp_path / "c.pt").run(data, QUIET)
    assert 0 < float(detector.weight.detach()) <= 2e-3 * 1.001


@pytest.mark.parametrize(
    ("schedule", "progress", "expected"),
    [
        ({"name": "constant"}, 0.99, 1.0),
        ({"name": "step", "at": 0.8, "factor": 0.1}, 0.79, 1.0),
        ({"name": "step", "at": 0.8, "factor": 0.1}, 0.8, 0.1),
        ({"name": "cosine", "factor": 0.0}, 0.0, 1.0),
        ({"name": "cosine", "factor": 0.0}, 0.5, 0.5),
        ({"name": "cosine", "factor": 0.2, "warmup": 0.5}, 0.75, 0.6),
        ({"name": "constant", "warmup": 0.1}, 0.05, 0.5),
    ],
)
def test_schedules(schedule: dict[str, Any], progress: float, expected: float) -> None:
    assert rate_factor(ScheduleSettings(**schedule), progress) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)]
)
def test_optimizers(name: str, kind: type, encoder: FrozenEncoder) -> None:
    settings = experiment(optimizer={"name": name, "lr": 0.25, "weight_decay": 0.5}).optimizer
    found = make_optimizer(toy(encoder), settings)
    assert type(found) is kind
    assert found.param_groups[0]["lr"] == 0.25
    assert found.param_groups[0]["weight_decay"] == 0.5


def test_half_precision_needs_a_gpu(encoder: FrozenEncoder, data: TrainingImages, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="float16 needs a CUDA device"):
        Trainer(toy(encoder), experiment(precision="float16"), 0, tmp_path / "c.pt").run(data, QUIET)


def test_derived_seeds_differ_by_name_and_seed() -> None:
    seeds = {derived_seed(seed, name, epoch) for seed in range(3) for name in ("order", "epoch") for epoch in range(5)}
    assert len(seeds) == 30
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derived_seed(1, "order", 2) == derived_seed(1, "order", 2)


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_step_learns_the_same(encoder: FrozenEncoder, data: TrainingImages, tmp_path: Path) -> None:
    plain, compiled = toy(encoder), toy(encoder)
    settings = experiment(epochs=3, optimizer={"name": "sgd", "lr": 0.1, "momentum": 0.0})
    expected = Trainer(plain, settings, 0, tmp_path / "p.pt").run(data, QUIET)
    found = Trainer(compiled, settings, 0, tmp_path / "c.pt", Conditions(compiled=True)).run(data, QUIET)
    assert [log.loss for log in found] == pytest.approx([log.loss for log in expected], rel=1e-5)
    assert compiled.weight.item() == pytest.approx(plain.weight.item(), rel=1e-5)


def test_compiling_is_asked_for(
    encoder: FrozenEncoder, data: TrainingImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[Any] = []
    monkeypatch.setattr(torch, "compile", lambda function: compiled.append(function) or function)
    Trainer(toy(encoder), experiment(epochs=1), 0, tmp_path / "c.pt")
    assert not compiled
    detector = toy(encoder)
    Trainer(detector, experiment(epochs=1), 0, tmp_path / "c.pt", Conditions(compiled=True))
    assert compiled == [detector.training_step]


def test_on_the_cpu_the_optimiser_is_not_fused(encoder: FrozenEncoder) -> None:
    """Other last bits for 1 to 5 % of a step: not worth it."""
    optimizer = make_optimizer(rd4ad(encoder), experiment().optimizer)
    assert optimizer is not None
    assert not any(group["fused"] for group in optimizer.param_groups)


@pytest.mark.parametrize("written", [True, None])
def test_a_checkpoint_of_another_device_leaves_the_optimiser_as_it_is_here(
    written: bool | None, encoder: FrozenEncoder, data: TrainingImages, tmp_path: Path
) -> None:
    """A GPU fuses the optimiser's step, the CPU does not."""
    file = tmp_path / "c.pt"
    with pytest.raises(StoppedError):
        Trainer(rd4ad(encoder), experiment(epochs=2), 0, file).run(data, QUIET, stop_after(1))
    saved = torch.load(file, weights_only=True)
    for group in saved["optimizer"]["param_groups"]:
        group["fused"] = written
    saved.pop("sha256")
    torch.save({**saved, "sha256": digest_of(saved)}, file)
    trainer = Trainer(rd4ad(encoder), experiment(epochs=2), 0, file)
    here = [group["fused"] for group in trainer.step.optimizer.param_groups]  # type: ignore[union-attr]
    trainer.run(data, QUIET)
    assert [group["fused"] for group in trainer.step.optimizer.param_groups] == here  # type: ignore[union-attr]


def test_a_shared_device_leaves_no_time_even_after_a_resume(
    encoder: FrozenEncoder, data: TrainingImages, tmp_path: Path
) -> None:
    """What was measured beside others stays unmeasured when the cell goes on alone."""
    shared = Trainer(rd4ad(encoder), experiment(epochs=3), 0, tmp_path / "c.pt", Conditions(sharing=2))
    with pytest.raises(StoppedError):
        shared.run(data, QUIET, stop_after(1))
    history = Trainer(rd4ad(encoder), experiment(epochs=3), 0, tmp_path / "c.pt").run(data, QUIET)
    assert [log.seconds is None for log in history] == [True, False, False]
    assert training_speed(history) == {"train_seconds": None, "train_images_per_second": None}


@pytest.mark.gpu
def test_on_a_gpu_the_optimiser_is_fused(encoder: FrozenEncoder) -> None:
    optimizer = make_optimizer(rd4ad(deepcopy(encoder)).cuda(), experiment().optimizer)
    assert optimizer is not None
    assert all(group["fused"] for group in optimizer.param_groups)
