from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import guard.robustness.attacks
import guard.robustness.evaluate
from guard.artifacts import Artifact
from guard.config import EvaluationConfig
from guard.config.evaluation import AUTOATTACK, Part, parts_of
from guard.data.datasets import load_data
from guard.data.images import Splits
from guard.models.saving import load_model
from guard.pipeline import local_runner
from guard.robustness.attacks import attack_images
from guard.robustness.evaluate import (
    Verdicts,
    attack_part,
    chosen,
    evaluate,
    is_weaker,
    metrics,
    share,
)
from guard.robustness.measures import singled_out, worst_cases
from guard.robustness.stages import chain
from guard.seeding import generator
from guard.stage import Stage
from guard.trial import TrialConfig

CPU = torch.device("cpu")
SUITE = ("pgd5", "mim", "cw", "square", "autoattack")
ORDER = ["pgd5", "mim", "apgd-ce", "apgd-t", "fab-t", "square"]
"""The bounded ones of the suite, from cheap to strong."""
RADII = (0.03, 0.09, 0.2)
NORMS = pytest.mark.parametrize("norm", ["Linf", "L2"])


@pytest.fixture(scope="module", autouse=True)
def cheap() -> Iterator[None]:
    """Small budgets, and a cw that breaks the victim."""
    values = {"SQUARE_QUERIES": 40, "AUTOATTACK_STEPS": 5}
    values |= {"CW_C": 5, "CW_LR": 0.05, "CW_STEPS": 40}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setattr(guard.robustness.attacks, name, value)
        yield


def config(victim: Any, **changes: Any) -> EvaluationConfig:
    return EvaluationConfig(**{"eps": victim.eps, "attacks": ("pgd5",), **changes})


def run(victim: Any, **changes: Any) -> Verdicts:
    return evaluate(victim.model, victim.images, config(victim, **changes), 5, CPU)


def whole(victim: Any, *, cascade: bool) -> EvaluationConfig:
    return config(victim, attacks=SUITE, more_eps=(RADII[0], RADII[2]), cascade=cascade)


@pytest.fixture(scope="module")
def verdicts(victim: Any) -> dict[bool, Verdicts]:
    """Of the whole suite at three radii: in a cascade, and not."""
    return {
        cascade: evaluate(victim.model, victim.images, whole(victim, cascade=cascade), 5, CPU)
        for cascade in (True, False)
    }


def without(count: int, *indices: int) -> Tensor:
    """bool, (count,): all but these."""
    mask = torch.ones(count, dtype=torch.bool)
    mask[list(indices)] = False
    return mask


NEAR, FAR = 2 / 255, 8 / 255
BROKEN: dict[Part, tuple[int, ...]] = {
    (math.inf, "cw"): (0, 1, 2),
    (NEAR, "pgd2"): (),
    (NEAR, "pgd5"): (3,),
    (NEAR, "apgd-ce"): (4,),
    (NEAR, "apgd-t"): (),
    (NEAR, "fab-t"): (),
    (NEAR, "square"): (),
    (FAR, "pgd2"): (5,),
    (FAR, "pgd5"): (),
    (FAR, "apgd-ce"): (),
    (FAR, "apgd-t"): (6,),
    (FAR, "fab-t"): (),
    (FAR, "square"): (),
}
HAND_MADE = EvaluationConfig(
    eps=FAR, more_eps=(NEAR,), attacks=("pgd5", "pgd2", "cw", "autoattack"), cascade=False
)


@pytest.fixture
def made() -> Verdicts:
    """Ten samples, the last one wrong without an attack; cw goes 0.01, 0.02 and 0.5 far."""
    far = torch.full((10,), math.inf)
    far[[0, 1, 2, 9]] = torch.tensor([0.01, 0.02, 0.5, 0])
    survived = {part: without(10, 9, *indices) for part, indices in BROKEN.items()}
    return Verdicts(without(10, 9), survived, {"cw": far})


@pytest.mark.parametrize(
    ("eps", "broken"),
    [
        (0.0, ()),
        (NEAR, (3, 4)),
        (0.015, (0, 3, 4)),
        (FAR, (0, 1, 3, 4, 5, 6)),
        (0.5, (0, 1, 2, 3, 4, 5, 6)),
    ],
)
def test_robust_is_right_under_all_that_ran_within_the_radius(
    eps: float, broken: tuple[int, ...], made: Verdicts
) -> None:
    assert torch.equal(made.robust(eps), without(10, 9, *broken))


@pytest.mark.parametrize(
    ("eps", "name", "broken"),
    [
        (NEAR, "pgd2", ()),
        (NEAR, "pgd5", (3,)),
        (NEAR, "autoattack", (3, 4)),
        (FAR, "pgd2", (5,)),
        (FAR, "pgd5", (3, 5)),
        (FAR, "apgd-ce", (4,)),
        (FAR, "apgd-t", (6,)),
        (FAR, "square", ()),
        (FAR, "autoattack", (0, 1, 3, 4, 5, 6)),
        (FAR, "cw", (0, 1, 2)),
        (NEAR, "cw", (0, 1, 2)),
    ],
)
def test_an_attack_counts_what_it_broke_itself_or_could_have(
    eps: float, name: str, broken: tuple[int, ...], made: Verdicts
) -> None:
    assert torch.equal(made.under(eps, name), without(10, 9, *broken))


def test_verdicts_are_left_as_they_are_by_reading_them(made: Verdicts) -> None:
    before = copy.deepcopy(made)
    made.robust(1.0)
    for name in ("pgd5", "cw", "autoattack"):
        made.under(1.0, name)
    assert_same(made, before)


def assert_same(found: Verdicts, expected: Verdicts) -> None:
    assert torch.equal(found.clean, expected.clean)
    for mine, other in (
        (found.survived, expected.survived),
        (found.distances, expected.distances),
    ):
        assert set(mine) == set(other)
        for key in mine:
            assert mine[key].dtype == other[key].dtype and torch.equal(mine[key], other[key])


def test_metrics_are_shares_of_all_samples(made: Verdicts) -> None:
    near = "robust_accuracy/eps_2_255"
    assert metrics(made, HAND_MADE) == pytest.approx(
        {
            "clean_accuracy": 0.9,
            "num_samples": 10,
            "drop_rate": 0.6 / 0.9,
            "distance/cw": 0.02,
            "robust_accuracy": 0.3,
            "robust_accuracy/pgd5": 0.7,
            "robust_accuracy/pgd2": 0.8,
            "robust_accuracy/cw": 0.6,
            "robust_accuracy/autoattack": 0.3,
            "robust_accuracy/apgd-ce": 0.8,
            "robust_accuracy/apgd-t": 0.8,
            "robust_accuracy/fab-t": 0.9,
            "robust_accuracy/square": 0.9,
            near: 0.7,
            f"{near}/pgd5": 0.8,
            f"{near}/pgd2": 0.9,
            f"{near}/autoattack": 0.7,
            f"{near}/apgd-ce": 0.8,
            f"{near}/apgd-t": 0.9,
            f"{near}/fab-t": 0.9,
            f"{near}/square": 0.9,
        }
    )


def test_metrics_start_with_the_search_s_own(made: Verdicts) -> None:
    names = ["clean_accuracy", "robust_accuracy", "drop_rate", "num_samples"]
    assert list(metrics(made, HAND_MADE))[:4] == names


def test_the_drop_of_a_model_that_is_never_right_is_zero() -> None:
    nothing = torch.zeros(3, dtype=torch.bool)
    made = Verdicts(nothing, {(0.1, "pgd5"): nothing}, {"cw": torch.zeros(3)})
    found = metrics(made, EvaluationConfig(eps=0.1, attacks=("pgd5",)))
    assert found == {
        "clean_accuracy": 0,
        "robust_accuracy": 0,
        "robust_accuracy/pgd5": 0,
        "drop_rate": 0,
        "num_samples": 3,
    }


@pytest.mark.parametrize(
    ("name", "than", "weaker"),
    [
        ("pgd5", "pgd20", True),
        ("margin5", "margin100", True),
        ("pgd2", "pgd20", True),
        ("pgd20", "pgd5", False),
        ("pgd20", "pgd20", False),
        ("square300", "square500", True),
        ("square300", "square", False),
        ("pgd5", "margin20", False),
        ("mim", "pgd20", False),
        ("pgd5", "autoattack", False),
        ("cw", "cw", False),
    ],
)
def test_fewer_steps_of_the_same_attack_are_weaker(name: str, than: str, weaker: bool) -> None:
    assert is_weaker(name, than) is weaker


@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_below_autoattack_but_what_goes_further(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    own = EvaluationConfig(eps=0.1, more_eps=(0.05, 0.3), attacks=("pgd5", "mim", "paper"))
    clean = torch.rand(40, generator=draw) < 0.9
    survived = {part: clean & (torch.rand(40, generator=draw) < 0.9) for part in parts_of(own)}
    made = Verdicts(clean, survived, {"cw": 2 * torch.rand(40, generator=draw)})
    found = metrics(made, own)
    for worst in worst_cases(own):
        alone = {m.attack: found[m.metric] for m in singled_out(own, worst) if m.attack != "cw"}
        assert alone["autoattack"] == found[worst.metric] <= min(alone.values())
        assert found[worst.metric] < max(alone.values()) <= found["clean_accuracy"]


def test_verdicts_survive_a_file(made: Verdicts, tmp_path: Path) -> None:
    made.save(tmp_path / "verdicts.safetensors")
    read = Verdicts.load(tmp_path / "verdicts.safetensors")
    assert_same(read, made)
    assert metrics(read, HAND_MADE) == metrics(made, HAND_MADE)


def test_verdicts_without_an_attack_survive_a_file(tmp_path: Path) -> None:
    made = Verdicts(torch.tensor([True, False]))
    made.save(tmp_path / "verdicts.safetensors")
    assert_same(Verdicts.load(tmp_path / "verdicts.safetensors"), made)


def test_clean_verdicts_are_the_models_own(victim: Any, verdicts: dict[bool, Verdicts]) -> None:
    expected = victim.model(victim.x).argmax(dim=1) == victim.y
    for found in verdicts.values():
        assert torch.equal(found.clean, expected)
    assert 0 < int((~expected).sum()) < len(expected)


@pytest.mark.parametrize("cascade", [True, False])
def test_every_single_attack_has_its_verdicts(
    cascade: bool, victim: Any, verdicts: dict[bool, Verdicts]
) -> None:
    found = verdicts[cascade]
    bounded = [(eps, name) for eps in RADII for name in ORDER]
    assert list(found.survived) == [(math.inf, "cw"), *bounded]
    for verdict in found.survived.values():
        assert verdict.dtype == torch.bool and verdict.shape == found.clean.shape
        assert not (verdict & ~found.clean).any()


@pytest.mark.parametrize("cascade", [True, False])
def test_what_cannot_be_is_not(cascade: bool, verdicts: dict[bool, Verdicts]) -> None:
    found = verdicts[cascade]
    smaller = found.clean
    for eps in (0.0, *RADII, 10.0):
        robust = found.robust(eps)
        assert not (robust & ~smaller).any()
        for (radius, _), survived in found.survived.items():
            assert radius > eps or not (robust & ~survived).any()
        smaller = robust
    counts = [int(found.robust(eps).sum()) for eps in (0.0, *RADII)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[2] > counts[3]


def test_the_worst_case_is_the_same_in_a_cascade(verdicts: dict[bool, Verdicts]) -> None:
    for eps in RADII:
        assert torch.equal(verdicts[True].robust(eps), verdicts[False].robust(eps))
    assert any(
        not torch.equal(verdicts[True].survived[part], verdicts[False].survived[part])
        for part in verdicts[True].survived
    )


def test_the_figure_of_an_attack_in_a_cascade_is_of_all_before_it(
    verdicts: dict[bool, Verdicts],
) -> None:
    found = verdicts[True]
    for eps in RADII:
        alive = found.clean & (found.distances["cw"] > eps)
        for name in ORDER:
            assert not (found.survived[eps, name] & ~alive).any()
            alive = found.survived[eps, name]
        assert torch.equal(alive, found.robust(eps))


def chain(victim: Any, own: EvaluationConfig) -> list[tuple[Verdicts, int]]:
    """The verdicts after each link and the passes of its own."""
    links: list[tuple[Verdicts, int]] = []
    for part in parts_of(own):
        before = links[-1][0] if links else None
        found, counted = attack_part(victim.model, victim.images, part, before, own, 5, CPU)
        links.append((found, counted.forward_passes + counted.backward_passes))
    return links


def test_a_chain_of_links_is_the_evaluation_and_a_cascade_is_cheaper(victim: Any) -> None:
    passes = {}
    for cascade in (True, False):
        own = config(victim, attacks=("pgd5", "mim", "square"), cascade=cascade, more_eps=(0.03,))
        links = chain(victim, own)
        assert_same(links[-1][0], evaluate(victim.model, victim.images, own, 5, CPU))
        passes[cascade] = [count for _, count in links]
    assert passes[True][0] == passes[False][0]
    pairs = zip(passes[True], passes[False], strict=True)
    assert all(few <= many for few, many in pairs)
    assert sum(passes[True]) < 0.9 * sum(passes[False])


def test_the_passes_of_a_link_are_those_of_its_attack_and_of_its_verdicts(victim: Any) -> None:
    own = config(victim, attacks=("pgd3", "pgd5"), cascade=False)
    right = int((victim.model(victim.x).argmax(dim=1) == victim.y).sum())
    passes = [count for _, count in chain(victim, own)]
    assert passes == [right * (2 * 3 + 1), right * (2 * 5 + 1)]


@pytest.mark.parametrize("cascade", [True, False])
def test_attacks_see_the_samples_that_are_right_so_far(
    cascade: bool, victim: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, Tensor]] = []

    def spy(name: str, model: Any, x: Tensor, y: Tensor, *rest: Any) -> Tensor:
        seen.append((name, x))
        return attack_images(name, model, x, y, *rest)

    monkeypatch.setattr(guard.robustness.evaluate, "attack_images", spy)
    own = config(victim, attacks=("mim", "cw", "pgd5"), more_eps=(0.2,), cascade=cascade)
    before = Verdicts(victim.model(victim.x).argmax(dim=1) == victim.y)
    links = chain(victim, own)
    assert [name for name, _ in seen] == ["cw", "pgd5", "mim", "pgd5", "mim"]
    for (found, _), (eps, name), (_, x) in zip(links, parts_of(own), seen, strict=True):
        alive = before.robust(eps) if cascade and name != "cw" else before.clean
        assert torch.equal(x, victim.x[alive])
        before = found
    assert (len(seen[-1][1]) < len(seen[0][1])) == cascade


def test_an_evaluation_is_repeatable_and_leaves_no_trace(
    victim: Any, verdicts: dict[bool, Verdicts]
) -> None:
    state = torch.get_rng_state()
    pixels, labels = victim.images.x.clone(), victim.images.y.clone()
    again = evaluate(victim.model, victim.images, whole(victim, cascade=True), 5, CPU)
    assert_same(again, verdicts[True])
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(victim.images.x, pixels) and torch.equal(victim.images.y, labels)
    assert all(parameter.requires_grad for parameter in victim.model.parameters())
    assert all(parameter.grad is None for parameter in victim.model.parameters())


@pytest.mark.parametrize(
    ("norm", "attacks"),
    [
        ("Linf", ("pgd5", "margin5", "mim", "square", "autoattack")),
        ("L2", ("pgd5", "margin5", "square", "apgd-ce")),
    ],
)
def test_without_a_radius_robust_is_clean(norm: str, attacks: tuple[str, ...], victim: Any) -> None:
    found = run(victim, eps=0, attacks=attacks, norm=norm, max_samples=8)
    for name in attacks:
        assert torch.equal(found.under(0, name), found.clean)
    assert found.clean.any()


@pytest.mark.parametrize(("norm", "radii"), [("Linf", (0.02, 0.09, 0.3)), ("L2", (0.1, 0.5, 1.5))])
@pytest.mark.parametrize("attack", ["pgd5", "margin5"])
def test_a_larger_ball_is_no_easier(
    norm: str, radii: tuple[float, ...], attack: str, victim: Any
) -> None:
    robust = [
        share(run(victim, eps=eps, attacks=(attack,), norm=norm).robust(eps)) for eps in radii
    ]
    assert robust[0] > robust[1] > robust[2]


@pytest.mark.parametrize("attack", ["pgd5", "fgsm", "margin5", "cw", "square"])
def test_a_model_in_training_mode_is_evaluated_in_evaluation_mode(attack: str, victim: Any) -> None:
    own = config(victim, attacks=(attack, "pgd2"))
    with_dropout = nn.Sequential(victim.model, nn.Dropout(0.9)).train()
    found = evaluate(with_dropout, victim.images, own, 5, CPU)
    assert not any(module.training for module in with_dropout.modules())
    assert_same(found, evaluate(victim.model, victim.images, own, 5, CPU))


def test_verdicts_do_not_depend_on_the_batch_size(victim: Any) -> None:
    changes = {"attacks": ("pgd5", "mim", "cw", "apgd-ce"), "max_samples": 16}
    together = run(victim, batch_size=500, **changes)
    for batch_size in (1, 7):
        parts = run(victim, batch_size=batch_size, **changes)
        assert torch.equal(parts.clean, together.clean)
        for part, survived in together.survived.items():
            assert torch.equal(parts.survived[part], survived)
        torch.testing.assert_close(parts.distances, together.distances, rtol=1e-3, atol=1e-5)


def test_the_seed_reaches_the_attack(victim: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = []

    def spy(*arguments: Any) -> Tensor:
        seeds.append(arguments[-1])
        return attack_images(*arguments)

    monkeypatch.setattr(guard.robustness.evaluate, "attack_images", spy)
    for seed in (0, 0, 1):
        run(victim, seed=seed)
    assert seeds == [0, 0, 1]


def test_max_samples_draws_a_subset_by_the_seed(victim: Any) -> None:
    subsets = [
        chosen(victim.images, config(victim, max_samples=6, seed=seed)) for seed in (0, 0, 1)
    ]
    order = torch.randperm(24, generator=generator(0, "samples"))[:6].sort().values
    assert torch.equal(subsets[0].x, victim.images.x[order])
    assert torch.equal(subsets[0].x, subsets[1].x)
    assert not torch.equal(subsets[0].x, subsets[2].x)
    found = run(victim, max_samples=6)
    assert torch.equal(found.clean, run(victim).clean[order])


@pytest.mark.parametrize("max_samples", [None, 24, 1000])
def test_all_samples_where_there_are_no_more(max_samples: int | None, victim: Any) -> None:
    assert chosen(victim.images, config(victim, max_samples=max_samples)) is victim.images


@pytest.mark.parametrize("attacks", [SUITE, ("deepfool", "pgd5"), ("margin5",)])
@pytest.mark.parametrize("cascade", [True, False])
def test_an_evaluation_of_a_model_that_is_always_wrong(
    attacks: tuple[str, ...], cascade: bool, victim: Any
) -> None:
    images = dataclasses.replace(victim.images, y=(victim.model(victim.x).argmax(dim=1) + 1) % 5)
    own = config(victim, attacks=attacks, cascade=cascade)
    found = metrics(evaluate(victim.model, images, own, 5, CPU), own)
    assert found.pop("num_samples") == 24
    assert not any(name.startswith("distance") for name in found)
    assert len(found) >= 4 and set(found.values()) == {0.0}


def displaced(
    victim: Any, lengths: Tensor, norm: str, monkeypatch: pytest.MonkeyPatch, **changes: Any
) -> Verdicts:
    """Verdicts where an attack moves the samples by these lengths, and the model is wrong about any
    that was moved."""
    size = 1.0 if norm == "Linf" else math.sqrt(36)

    def attack(name: str, model: Any, x: Tensor, y: Tensor, *rest: Any) -> Tensor:
        return x + lengths[:, None, None, None] / size

    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            is_moved = x[:, 0, 0, 0] > 0.251
            return torch.stack([~is_moved, is_moved], dim=1).float()

    monkeypatch.setattr(guard.robustness.evaluate, "attack_images", attack)
    x = torch.full((len(lengths), 1, 6, 6), 64, dtype=torch.uint8)
    images = dataclasses.replace(victim.images, x=x, y=torch.zeros(len(lengths)).long())
    own = EvaluationConfig(eps=0.1, norm=norm, cascade=False, **changes)
    return evaluate(Broken(), images, own, 2, CPU)


LENGTHS = torch.tensor([0.0, 0.05, 0.0999, 0.1, 0.1002, 0.3])


@NORMS
@pytest.mark.parametrize("attack", ["pgd5", "square"])
def test_a_perturbation_outside_of_the_ball_breaks_nothing(
    attack: str, norm: str, victim: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = displaced(victim, LENGTHS, norm, monkeypatch, attacks=(attack,))
    assert found.clean.all()
    assert found.under(0.1, attack).tolist() == [True, False, False, False, True, True]
    assert found.distances == {}


@NORMS
@pytest.mark.parametrize("attack", ["cw", "deepfool"])
def test_an_unbounded_attack_counts_at_any_distance_but_in_a_ball_only_within_it(
    attack: str, norm: str, victim: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = displaced(victim, LENGTHS, norm, monkeypatch, attacks=(attack,))
    assert found.under(0.1, attack).tolist() == [True] + [False] * 5
    assert found.robust(0.15).tolist() == [True] + [False] * 4 + [True]
    assert found.robust(0.05 - 1e-3).all()
    lengths = found.distances[attack]
    torch.testing.assert_close(lengths[1:], LENGTHS[1:], rtol=1e-5, atol=1e-6)
    assert lengths[0] == math.inf


@pytest.mark.parametrize("attack", ["cw", "deepfool"])
@NORMS
def test_an_unbounded_attack_knows_how_far_it_went(attack: str, norm: str, victim: Any) -> None:
    own = config(victim, attacks=(attack,), norm=norm, max_samples=14)
    found = evaluate(victim.model, chosen(victim.images, own), own, 5, CPU)
    broken = found.clean & ~found.survived[math.inf, attack]
    lengths = found.distances[attack]
    assert broken.sum() > 0.8 * found.clean.sum()
    assert bool((lengths[broken] > 0).all()) and bool(lengths[broken].isfinite().all())
    assert bool((lengths[~found.clean] == 0).all()) and not found.clean.all()
    assert bool((lengths[found.survived[math.inf, attack]] == math.inf).all())
    median = metrics(found, own)[f"distance/{attack}"]
    assert share(found.robust(median * 1.01)) < share(found.clean) / 2 + 0.05
    assert share(found.robust(median * 0.99)) > share(found.clean) / 2 - 0.05


def test_a_cascade_spares_what_an_unbounded_attack_broke_within_the_ball(victim: Any) -> None:
    own = config(victim, eps=0.12, attacks=("deepfool", "pgd5"))
    few = SimpleNamespace(model=victim.model, images=victim.images.subset(torch.arange(2, 12)))
    links = [link for link, _ in chain(few, own)]
    within = links[0].clean & (links[0].distances["deepfool"] <= 0.12)
    assert within.any()
    assert not (links[1].survived[0.12, "pgd5"] & within).any()


@pytest.fixture
def chained(trial: SimpleNamespace) -> SimpleNamespace:
    """config, stages, store, student and splits of a chain of five attacks on the tiny student."""
    changes = {"attacks": ["pgd2", "margin2", "cw"], "more_eps": [0.02], "max_samples": 30}
    tried = trial.config.override({f"evaluation.{name}": v for name, v in changes.items()})
    student = Steps.of(tried).student
    return SimpleNamespace(
        config=tried,
        student=student,
        store=trial.store,
        stages=evaluation_chain(tried, student, "validation"),
        model=load_model(trial.store.path(student.address)),
        splits=load_data(tried.data),
    )


def verdicts_of(artifact: Artifact) -> Verdicts:
    return Verdicts.load(artifact.path / "verdicts.safetensors")


def at_once(chained: Any, own: EvaluationConfig) -> Verdicts:
    splits: Splits = chained.splits
    return evaluate(chained.model, chosen(splits.validation, own), own, 10, CPU)


def test_a_chain_of_stages_gives_the_verdicts_of_one_evaluation(chained: Any) -> None:
    own = chained.config.evaluation
    made = local_runner(chained.store)(*chained.stages)
    expected = at_once(chained, own)
    assert len(made) == 5
    assert_same(verdicts_of(made[-1]), expected)
    for number, artifact in enumerate(made[:-1]):
        so_far = verdicts_of(artifact)
        assert list(artifact.summary["passes"]) == [
            "clean",
            *(f"{eps!r} {name}" for eps, name in parts_of(own)[: number + 1]),
        ]
        assert set(so_far.survived) == set(parts_of(own)[: number + 1])
        assert artifact.summary["metrics"] == {"clean_accuracy": share(expected.clean)}
    found = dict(made[-1].summary["metrics"])
    passes = made[-1].summary["passes"].values()
    assert found.pop("forward_passes") == sum(forward for forward, _ in passes)
    assert found.pop("backward_passes") == sum(backward for _, backward in passes)
    assert found == metrics(expected, own)
    assert share(expected.robust(own.eps)) < share(expected.clean)


def test_an_interrupted_chain_goes_on_where_it_was(
    chained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = chained.config.override({"evaluation.seed": 7})
    stages = evaluation_chain(tried, chained.student, "validation")
    run_stage, parts = local_runner(chained.store), parts_of(tried.evaluation)
    called: list[Part] = []
    stop: set[Part] = {parts[2]}

    def counting(model: Any, images: Any, part: Part, *rest: Any) -> Any:
        called.append(part)
        if part in stop:
            raise KeyboardInterrupt
        return attack_part(model, images, part, *rest)

    monkeypatch.setattr(guard.robustness.evaluate, "attack_part", counting)
    with pytest.raises(KeyboardInterrupt):
        run_stage(*stages)
    assert called == parts[:3]
    stop.clear()
    made = run_stage(*stages)
    assert called[3:] == parts[2:]
    assert [artifact.built for artifact in made] == [False, False, True, True, True]
    assert_same(verdicts_of(made[-1]), at_once(chained, tried.evaluation))


def keys(base: TrialConfig, **changes: Any) -> list[str]:
    tried = base.override({f"evaluation.{name}": value for name, value in changes.items()})
    return [stage.key for stage in evaluation_chain(tried, Steps.of(tried).student, "validation")]


def test_only_the_last_stage_depends_on_what_is_reported(tiny_config: TrialConfig) -> None:
    named, single = keys(tiny_config, attacks=["autoattack"]), keys(tiny_config, attacks=AUTOATTACK)
    assert named[:-1] == single[:-1] and len(named) == 4
    assert named[-1] != single[-1]


def test_suites_with_the_same_beginning_share_it(tiny_config: TrialConfig) -> None:
    one, other = (keys(tiny_config, attacks=["pgd2", "mim", last]) for last in ("vmi", "square"))
    assert one[:2] == other[:2] and one[2] != other[2]
    small = keys(tiny_config, attacks=["pgd2", "mim"], eps=0.05)
    large = keys(tiny_config, attacks=["pgd2", "mim"], eps=0.05, more_eps=[0.1])
    assert small[0] == large[0] and small[1] != large[1] and len(large) == 4


@pytest.mark.parametrize(
    ("change", "is_shared"),
    [
        ({"diagnose": False}, True),
        ({"splits": ["test"]}, True),
        ({"seed": 1}, False),
        ({"batch_size": 9}, False),
        ({"max_samples": 9}, False),
        ({"cascade": False}, False),
        ({"norm": "L2"}, False),
        ({"eps": 0.07}, False),
    ],
)
def test_every_stage_depends_on_how_it_attacks(
    change: dict[str, Any], is_shared: bool, tiny_config: TrialConfig
) -> None:
    base = tiny_config.override({"evaluation.attacks": ["pgd2", "margin2", "square"]})
    pairs = zip(keys(base), keys(base, **change), strict=True)
    assert {one == other for one, other in pairs} == {is_shared}


def test_a_stage_says_which_attack_it_is(tiny_config: TrialConfig) -> None:
    tried = tiny_config.override({"evaluation.attacks": ["pgd2", "cw"]})
    student: Stage = Steps.of(tried).student
    first, last = evaluation_chain(tried, student, "test")
    assert (first.config["attack"], first.config["eps"], first.config["is_last"]) == (
        "cw",
        None,
        False,
    )
    assert (last.config["attack"], last.config["eps"], last.config["is_last"]) == (
        "pgd2",
        0.05,
        True,
    )
    assert first.inputs == {"model": student.address}
    assert last.inputs == {"model": student.address, "before": first.address}
