from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from guard.config import ModelConfig
from guard.data.images import Splits, TensorImages
from guard.data.spec import ImageSpec
from guard.errors import DataError
from guard.methods.subset.choice import (
    class_members,
    farthest_first,
    herd,
    herding,
    k_center,
    random_choice,
)
from guard.models.input_layer import Normalize
from guard.models.networks import Classifier, build_model, penultimate
from guard.seeding import fenced
from helpers import CPU, draws

SPEC = ImageSpec(
    channels=1, image_size=8, num_classes=3, mean=(0.4,), std=(0.3,), class_names=tuple("abc")
)
COUNTS = (9, 14, 30)


def image_set(counts: tuple[int, ...] = COUNTS, seed: int = 0) -> TensorImages:
    """So many images of each class, in no order."""
    y = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    y = y[torch.randperm(len(y), generator=draws(seed))]
    x = torch.randint(0, 256, (len(y), 1, 8, 8), dtype=torch.uint8, generator=draws(seed))
    return TensorImages(x, y)


def splits(counts: tuple[int, ...] = COUNTS) -> Splits:
    others = image_set((2, 2, 2), seed=1)
    return Splits(spec=SPEC, train=image_set(counts), validation=others, test=others, sha256="")


def model(name: str = "convnet") -> Classifier:
    return build_model(ModelConfig(name=name, width=4, depth=2), SPEC, seed=3).eval()


def test_the_members_of_a_class_are_its_training_images() -> None:
    members = list(class_members(splits(), 9))
    assert [len(rows) for rows in members] == list(COUNTS)
    for label, rows in enumerate(members):
        assert (splits().train.y[rows] == label).all()


@pytest.mark.parametrize("ipc", [1, 4, 9])
def test_a_random_choice_is_of_each_class_without_replacement(ipc: int) -> None:
    chosen = random_choice(splits(), ipc, seed=0)
    assert chosen.shape == (3, ipc)
    for label, row in enumerate(chosen):
        assert (splits().train.y[row] == label).all()
        assert len(set(row.tolist())) == ipc


def test_a_random_choice_depends_on_its_seed_alone() -> None:
    before = torch.get_rng_state()
    first, again, other = (random_choice(splits(), 5, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_every_image_is_chosen_equally_often() -> None:
    counts = torch.zeros(sum(COUNTS))
    for seed in range(600):
        counts[random_choice(splits(), 3, seed).flatten()] += 1
    expected = 600 * 3 / torch.tensor(COUNTS)[splits().train.y]
    assert ((counts - expected).abs() < 5 * expected.sqrt()).all()


@pytest.mark.parametrize("selection", ["random", "herding"])
def test_a_smaller_choice_is_a_prefix_of_a_larger_one(selection: str) -> None:
    small, large = (
        random_choice(splits(), ipc, 0)
        if selection == "random"
        else herding(splits(), ipc, model(), CPU)
        for ipc in (3, 8)
    )
    assert torch.equal(large[:, :3], small)


@pytest.mark.parametrize("selection", ["random", "herding"])
def test_a_class_with_too_few_images_is_named(selection: str) -> None:
    with pytest.raises(DataError, match=r"^ipc: class 1 has 4 training images, got ipc = 5$"):
        if selection == "random":
            random_choice(splits((9, 4, 9)), 5, 0)
        else:
            herding(splits((9, 4, 9)), 5, model(), CPU)


def greedy(features: np.ndarray, count: int) -> list[int]:
    """iCaRL's Algorithm 4, one candidate at a time."""
    mean, chosen = features.mean(axis=0), []
    for _ in range(count):
        rest = [index for index in range(len(features)) if index not in chosen]
        distances = [
            np.linalg.norm(mean - features[[*chosen, index]].mean(axis=0)) for index in rest
        ]
        chosen.append(rest[int(np.argmin(distances))])
    return chosen


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [1, 7, 20])
def test_herding_is_greedy(count: int, seed: int) -> None:
    features = torch.randn(20, 6, generator=draws(seed), dtype=torch.float64)
    assert herd(features, count).tolist() == greedy(features.numpy(), count)


def test_herding_takes_no_image_twice() -> None:
    """Among equal features the first that is left."""
    assert herd(torch.ones(4, 3), 4).tolist() == [0, 1, 2, 3]


def test_herding_follows_the_mean_more_closely_than_chance() -> None:
    features = torch.randn(200, 16, generator=draws())
    mean = features.mean(dim=0)
    herded = float((features[herd(features, 10)].mean(dim=0) - mean).norm())
    by_chance = [
        float((features[torch.randperm(200, generator=draws(s))[:10]].mean(dim=0) - mean).norm())
        for s in range(20)
    ]
    assert herded < 0.5 * min(by_chance)


def test_herding_uses_unit_features_within_each_class() -> None:
    facts = splits()
    chosen = herding(facts, 4, model(), CPU)
    with torch.no_grad():
        features = model().network[:-1](model().normalize(facts.train.x.float() / 255))
    units = (features / features.norm(dim=1, keepdim=True)).double().numpy()
    for label, row in enumerate(chosen):
        members = (facts.train.y == label).nonzero().flatten()
        assert row.tolist() == members[greedy(units[members.numpy()], 4)].tolist()


@pytest.mark.parametrize("name", ["convnet", "bn-convnet"])
def test_features_are_what_the_last_linear_layer_receives(name: str) -> None:
    images, network = image_set((300, 300, 30)), model(name)
    with torch.no_grad():
        expected = network.network[:-1](network.normalize(images.x.float() / 255))
    found = penultimate(network, images.x.float() / 255)
    assert found.shape == (630, network.network[-1].in_features)
    torch.testing.assert_close(found, expected)
    assert not found.requires_grad
    assert not any(module._forward_pre_hooks for module in network.modules())


def two_linear_layers() -> Classifier:
    with fenced(0):
        layers = [nn.Flatten(), nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 3)]
        return Classifier(Normalize((0.4,), (0.3,)), nn.Sequential(*layers)).eval()


def test_the_last_of_several_linear_layers_counts() -> None:
    network, images = two_linear_layers(), image_set()
    flat = ((images.x.float() / 255 - 0.4) / 0.3).flatten(1)
    expected = (flat @ network.network[1].weight.T + network.network[1].bias).clamp(min=0)
    found = penultimate(network, images.x.float() / 255)
    torch.testing.assert_close(found, expected.detach())


def test_features_leave_no_hook_behind_when_the_model_fails() -> None:
    network = two_linear_layers()
    with pytest.raises(RuntimeError):
        penultimate(network, torch.zeros(53, 1, 9, 9))
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_herding_is_repeatable_and_draws_nothing() -> None:
    before = torch.get_rng_state()
    first, again = (herding(splits(), 5, model(), CPU) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(torch.get_rng_state(), before)


def distinct(rows: Tensor) -> bool:
    return all(len(set(row.tolist())) == len(row) for row in rows)


def test_herding_can_take_a_whole_class() -> None:
    chosen = herding(splits(), 9, model(), CPU)
    assert distinct(chosen)
    assert sorted(chosen[0].tolist()) == (splits().train.y == 0).nonzero().flatten().tolist()


def test_herding_sees_a_class_of_more_than_one_batch() -> None:
    images, network = splits((600, 510, 505)), model()
    members = (images.train.y == 0).nonzero().flatten()
    features = penultimate(network, images.train.subset(members).x.float() / 255)
    expected = members[herd(nn.functional.normalize(features, dim=1), 3)]
    assert torch.equal(herding(images, 3, network, CPU)[0], expected)


def cover(points: np.ndarray, chosen: list[int]) -> float:
    """How far the worst point is from the nearest that is chosen."""
    return max(min(float(np.linalg.norm(p - points[c])) for c in chosen) for p in points)


@pytest.mark.parametrize("seed", range(5))
def test_each_center_is_the_farthest_from_those_before(seed: int) -> None:
    points = torch.randn(12, 3, generator=draws(seed), dtype=torch.float64)
    chosen = farthest_first(points, 5, first=seed).tolist()
    assert chosen[0] == seed and len(set(chosen)) == 5
    rows = points.numpy()
    for count in range(1, 5):
        reached = [np.linalg.norm(rows - rows[c], axis=1) for c in chosen[:count]]
        assert chosen[count] == int(np.min(reached, axis=0).argmax())


@pytest.mark.parametrize("seed", range(5))
def test_centers_cover_at_most_twice_as_badly_as_the_best(seed: int) -> None:
    points = torch.rand(10, 2, generator=draws(seed), dtype=torch.float64)
    best = min(cover(points.numpy(), list(c)) for c in itertools.combinations(range(10), 3))
    for first in range(10):
        chosen = farthest_first(points, 3, first).tolist()
        assert cover(points.numpy(), chosen) <= 2 * best + 1e-12


def test_of_equal_points_none_is_a_center_twice() -> None:
    assert farthest_first(torch.ones(4, 3), 4, first=2).tolist() == [2, 0, 1, 3]


def test_centers_are_of_each_class_and_a_prefix_of_more() -> None:
    facts = splits()
    small, large = (k_center(facts, ipc, 3, CPU) for ipc in (3, 8))
    assert torch.equal(large[:, :3], small) and distinct(large)
    for label, row in enumerate(large):
        assert (facts.train.y[row] == label).all()
        members = (facts.train.y == label).nonzero().flatten()
        pixels = facts.train.x[members].float().flatten(1) / 255
        first = int((members == row[0]).nonzero())
        assert row.tolist() == members[farthest_first(pixels, 8, first)].tolist()
    assert not torch.equal(k_center(facts, 8, 4, CPU), large)
