"""The bank of MDD-Net's variant: an even sample, distances by brute force, signals on one scale."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mddbench.batch import Batch
from mddbench.detector import Detector, load_method, method_settings
from mddbench.errors import InputError
from mddbench.experiments.catalogue import load_experiment
from mddbench.methods.mddnet.bank import BankSettings, PatchBank
from mddbench.methods.mddnet.deviations import Deviations
from mddbench.nn.encoder import FrozenEncoder
from mddbench.nn.patches import patch_embeddings
from mddbench.nn.reverse_distillation import distance_map
from mddbench.seeding import seed_everything

ONE = BankSettings(patches=4, levels=(0,), neighbourhood=1)


def level(values: Tensor) -> list[Tensor]:
    """One image a value, whose only channel has it everywhere on a grid of 1x1."""
    return [values.reshape(-1, 1, 1, 1)]


def test_the_first_patches_fill_the_bank_and_categories_stay_apart() -> None:
    bank = PatchBank((1,), 2, ONE)
    bank.learn(level(torch.tensor([1.0, 2.0, 10.0])), torch.tensor([0, 0, 1]))
    bank.learn(level(torch.tensor([3.0, 20.0])), torch.tensor([0, 1]))
    assert bank.seen.tolist() == [3, 2]
    assert bank.patches[0, :3, 0].tolist() == [1.0, 2.0, 3.0]
    assert bank.patches[1, :2, 0].tolist() == [10.0, 20.0]


def test_every_patch_is_kept_with_the_same_probability() -> None:
    """4 of 20 patches, in batches of 5: each is kept in a fifth of 3000 draws, by the binomial's four deviations."""
    counts = torch.zeros(20)
    for number in range(3000):
        torch.manual_seed(number)
        bank = PatchBank((1,), 1, ONE)
        for part in torch.arange(1.0, 21.0).split(5):
            bank.learn(level(part), torch.zeros(5, dtype=torch.int64))
        kept = bank.patches[0, :, 0].long()
        assert len(set(kept.tolist())) == 4
        counts[kept - 1] += 1
    assert float((counts / 3000 - 0.2).abs().max()) < 4 * (0.2 * 0.8 / 3000) ** 0.5


def test_distances_are_those_of_brute_force_over_all_categories() -> None:
    seed_everything(0)
    shapes = ((3, 8), (5, 4))
    levels = [torch.randn(4, c, s, s, dtype=torch.float64) for c, s in shapes]
    bank = PatchBank((3, 5), 2, BankSettings(patches=100, levels=(0, 1))).double()
    bank.learn(levels, torch.tensor([0, 1, 0, 1]))
    others = [torch.randn(2, c, s, s, dtype=torch.float64) for c, s in shapes]
    stored = torch.cat([bank.patches[0], bank.patches[1]])
    queries = patch_embeddings(others, None).flatten(0, 2)
    nearest = torch.cdist(queries, stored).square().amin(dim=1)
    within = torch.cdist(stored, stored).fill_diagonal_(torch.inf).square().amin(dim=1)
    expected = (nearest / within.std(correction=0)).reshape(2, 8, 8)
    torch.testing.assert_close(bank.distances(others), expected)
    assert not PatchBank((3, 5), 2, BankSettings(levels=(0, 1))).distances([each.float() for each in others]).any()


def test_deviations_are_those_of_normal_positions() -> None:
    torch.manual_seed(0)
    pair = ([torch.randn(3, 8, 4, 4)], [torch.randn(3, 8, 4, 4)])
    masks = torch.zeros(3, 8, 8, dtype=torch.bool)
    masks[:, :4] = True
    deviations = Deviations(("teacher",))
    assert float(deviations.of("teacher")) == 1.0
    for _ in range(3):
        deviations.learn({"teacher": pair}, masks)
    normal = distance_map(*pair, (4, 4))[:, 2:]
    assert float(deviations.of("teacher")) == pytest.approx(float(normal.std(correction=0)), rel=1e-3)


@pytest.fixture
def detector(encoder: FrozenEncoder) -> Detector:
    seed_everything(0)
    method, own = load_method("mddnet"), load_experiment("mini/mddnet_bank").settings
    small: dict[str, Any] = {"decoder_blocks": (1, 1, 1), "bank": {"patches": 50, "reservoir": 60}}
    return method(encoder, method_settings(method, own | small, "test"), 2)


def test_the_bank_learns_in_the_first_epoch_alone(detector: Detector) -> None:
    batch = Batch(torch.rand(4, 3, 64, 64), torch.tensor([0, 0, 1, 1]), first_epoch=True)
    seen: Tensor = detector.get_buffer("bank.seen")
    detector.training_step(batch)
    assert seen.tolist() == [2 * 64, 2 * 64]
    detector.training_step(Batch(batch.images, batch.categories))
    assert seen.tolist() == [2 * 64, 2 * 64]


def test_it_has_a_name_of_its_own_and_the_papers_method_keeps_its_own(detector: Detector) -> None:
    method = load_method("mddnet")
    assert detector.label == "MDD-Net + bank"
    assert method.label == "MDD-Net"
    written = method.Settings().model_dump(mode="json")
    assert "bank" not in written
    assert "calibrated" not in written["scoring"]


def test_states_of_equal_size_keep_their_own_scale() -> None:
    """As of separate models, whose states are loaded one after another into one detector."""
    banks = []
    for factor in (1.0, 3.0):
        bank = PatchBank((1,), 1, ONE)
        bank.learn(level(factor * torch.tensor([1.0, 2.0, 4.0, 8.0])), torch.zeros(4, dtype=torch.int64))
        bank.finish()
        banks.append(bank.state_dict())
    loaded, query = PatchBank((1,), 1, ONE), level(torch.tensor([5.0]))
    found = []
    for state in banks:
        loaded.load_state_dict(state)
        found.append(float(loaded.distances(query)))
    assert found[0] == pytest.approx(1.0 / torch.tensor([1.0, 1.0, 4.0, 16.0]).std(correction=0).item())
    assert found[1] == pytest.approx(1.0 / (9 * torch.tensor([1.0, 1.0, 4.0, 16.0])).std(correction=0).item())


def test_a_bank_changes_no_drawn_defect(encoder: FrozenEncoder) -> None:
    """The losses of a step are those of MDD-Net without a bank."""
    method, losses = load_method("mddnet"), []
    for own in ({}, {"bank": {"patches": 20}}):
        seed_everything(0)
        net = method(encoder, method_settings(method, {"decoder_blocks": (1, 1, 1), **own}, "test"), 2)
        for first in (True, False):
            seed_everything(1)
            for _ in range(2):
                terms = net.training_step(Batch(torch.rand(2, 3, 64, 64), torch.tensor([0, 1]), first_epoch=first))
        losses.append({name: float(term.detach()) for name, term in terms.items()})
    assert losses[0] == losses[1]


def test_twice_the_deviation_halves_a_signal(detector: Detector) -> None:
    images = torch.rand(2, 3, 64, 64)
    detector.training_step(Batch(images, torch.tensor([0, 1]), first_epoch=True))
    settings: Any = detector.settings
    scoring = settings.scoring.model_copy(update={"signals": ("teacher",)})
    detector.settings = settings.model_copy(update={"scoring": scoring})
    before = detector.eval().anomaly_maps(images)
    for name in ("deviations.means", "deviations.squares"):
        detector.get_buffer(name).mul_(2.0 if name.endswith("means") else 4.0)
    torch.testing.assert_close(detector.anomaly_maps(images), before / 2)


def test_an_agreement_is_the_root_of_the_decoders_map_times_the_banks(detector: Detector) -> None:
    images = torch.rand(2, 3, 64, 64)
    detector.training_step(Batch(images, torch.tensor([0, 1]), first_epoch=True))
    detector.eval()
    together, settings = detector.anomaly_maps(images), detector.settings
    assert settings.scoring.fusion == "agreement"
    maps = []
    for signals in (("teacher", "decoders"), ("bank",)):
        scoring = settings.scoring.model_copy(update={"signals": signals, "fusion": "sum"})
        detector.settings = settings.model_copy(update={"scoring": scoring})
        maps.append(detector.anomaly_maps(images))
    torch.testing.assert_close(together, (maps[0].clamp_min(1e-6) * maps[1].clamp_min(1e-6)).sqrt())


def test_a_map_is_the_sum_of_its_signals(detector: Detector) -> None:
    images = torch.rand(2, 3, 64, 64)
    detector.training_step(Batch(images, torch.tensor([0, 1]), first_epoch=True))
    detector.eval()
    settings: Any = detector.settings
    maps = {}
    for signals in (("teacher",), ("decoders",), ("bank",), ("teacher", "decoders", "bank")):
        scoring = settings.scoring.model_copy(update={"signals": signals, "fusion": "sum"})
        detector.settings = settings.model_copy(update={"scoring": scoring})
        maps[signals] = detector.anomaly_maps(images)
    *single, together = maps.values()
    torch.testing.assert_close(torch.stack(single).sum(dim=0), together)


def test_signals_without_a_bank_are_refused(encoder: FrozenEncoder) -> None:
    method = load_method("mddnet")
    for scoring in ({"signals": ["bank"]}, {"calibrated": True}):
        with pytest.raises(InputError, match=r"need a bank; write settings.bank: \{\}"):
            method(encoder, method_settings(method, {"scoring": scoring}, "test"), 2)
    own = {"bank": {}, "scoring": {"calibrated": True, "levels": [0, 1]}}
    with pytest.raises(InputError, match=r"mddnet: calibrated signals are those of all levels"):
        method(encoder, method_settings(method, own, "test"), 2)
    with pytest.raises(InputError, match=r"mddnet: bank.levels names level 3; the encoder has 3, counted from 0"):
        method(encoder, method_settings(method, {"bank": {"levels": [3]}}, "test"), 2)


SAMPLED = BankSettings(patches=3, levels=(0,), neighbourhood=1, reservoir=8)


def test_the_bank_is_the_greedy_coreset_of_a_sample() -> None:
    bank = PatchBank((1,), 2, SAMPLED)
    values = torch.tensor([0.0, 0.1, 0.2, 5.0, 5.1, 9.0, 20.0, 20.1])
    bank.learn(level(values), torch.zeros(8, dtype=torch.int64))
    bank.learn(level(values + 100.0), torch.ones(8, dtype=torch.int64))
    before = bank.distances(level(torch.tensor([0.5])))
    assert float(before) == pytest.approx(0.3**2 / float(before_deviation(values)), rel=1e-4), "until then the sample"
    bank.finish()
    assert bank.reservoir is None
    sample = torch.cat([values, values + 100.0])[:, None]
    picked = bank.patches.flatten()
    assert len(picked.unique()) == 6 == int(bank.kept)
    assert set(picked.tolist()) <= set(sample.flatten().tolist())
    far = torch.cdist(sample, picked[:, None]).amin(dim=1)
    assert float(far.max()) < 5.0, "no group of the sample is without a patch"
    left = sample[~torch.isin(sample, picked)][:, None]
    deviation = torch.cdist(left, picked[:, None]).amin(dim=1).square().std(correction=0)
    found = bank.distances(level(torch.tensor([50.0])))
    nearest = (picked - 50.0).abs().min().square()
    torch.testing.assert_close(found.flatten(), (nearest / deviation)[None])


def before_deviation(values: Tensor) -> Tensor:
    sample = torch.cat([values, values + 100.0])[:, None]
    return torch.cdist(sample, sample).fill_diagonal_(torch.inf).amin(dim=1).square().std(correction=0)


def test_a_second_end_of_the_training_picks_nothing_anew() -> None:
    bank = PatchBank((1,), 1, SAMPLED)
    bank.learn(level(torch.arange(8.0)), torch.zeros(8, dtype=torch.int64))
    bank.finish()
    before = {name: value.clone() for name, value in bank.state_dict().items()}
    assert "reservoir" not in before
    bank.finish()
    assert all(torch.equal(before[name], value) for name, value in bank.state_dict().items())


def test_a_small_sample_is_kept_whole() -> None:
    bank = PatchBank((1,), 2, SAMPLED)
    bank.learn(level(torch.tensor([1.0, 4.0])), torch.tensor([0, 1]))
    bank.finish()
    assert int(bank.kept) == 2
    assert float(bank.distances(level(torch.tensor([2.0])))) == pytest.approx(1.0)


def test_a_training_that_goes_on_has_the_sample(detector: Detector, encoder: FrozenEncoder) -> None:
    images = torch.rand(4, 3, 64, 64)
    detector.training_step(Batch(images, torch.tensor([0, 0, 1, 1]), first_epoch=True))
    state = detector.learned_state()
    assert state["bank.reservoir"].shape[:2] == (2, 60)
    other = type(detector)(encoder, detector.settings, 2)
    other.load_learned_state(state)
    for each in (detector, other):
        each.finish_training()
    assert torch.equal(detector.get_buffer("bank.patches"), other.get_buffer("bank.patches"))
    assert detector.learned_state().keys() == other.learned_state().keys()
    assert "bank.reservoir" not in other.learned_state()


def test_the_image_score_is_the_maximum_of_the_banks_map(detector: Detector) -> None:
    images = torch.rand(3, 3, 64, 64)
    detector.training_step(Batch(images, torch.tensor([0, 1, 1]), first_epoch=True))
    detector.finish_training()
    detector.eval()
    settings: Any = detector.settings
    maps, scores = detector.maps_and_scores(images)
    torch.testing.assert_close(maps, detector.anomaly_maps(images))
    scoring = settings.scoring.model_copy(update={"signals": ("bank",), "image": "max"})
    detector.settings = settings.model_copy(update={"scoring": scoring})
    torch.testing.assert_close(scores, detector.anomaly_maps(images).flatten(1).amax(dim=1))


def test_a_sample_smaller_than_the_bank_and_a_score_without_a_bank_are_refused(encoder: FrozenEncoder) -> None:
    method = load_method("mddnet")
    with pytest.raises(InputError, match=r"bank.reservoir 5 is less than bank.patches 2048"):
        method(encoder, method_settings(method, {"bank": {"reservoir": 5}}, "test"), 2)
    for signals in (["teacher", "decoders"], ["bank"]):
        own = {"bank": {}, "scoring": {"fusion": "agreement", "signals": signals}}
        with pytest.raises(InputError, match=r"scoring.fusion is 'agreement', which takes the signal 'bank' and"):
            method(encoder, method_settings(method, own, "test"), 2)
    with pytest.raises(InputError, match=r"scoring.image is 'bank', which is no signal; add it to scoring.signals"):
        method(encoder, method_settings(method, {"bank": {}, "scoring": {"image": "bank"}}, "test"), 2)
