"""The links of an evaluation: what each attack sees, breaks and takes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from evaluating import assert_same, config
from torch import Tensor

import guard.robustness.evaluate
from guard.config import EvaluationConfig
from guard.config.evaluation import attacks_at
from guard.robustness.attacks import attack_images
from guard.robustness.evaluate import attack_once, evaluate
from guard.robustness.verdicts import Verdicts
from helpers import CPU

pytestmark = pytest.mark.usefixtures("cheap_attacks")


def chain(victim: Any, own: EvaluationConfig) -> list[tuple[Verdicts, int]]:
    """The verdicts after each link and the passes of its own."""
    links: list[tuple[Verdicts, int]] = []
    for part in attacks_at(own):
        before = links[-1][0] if links else None
        found, counted = attack_once(victim.model, victim.images, part, before, own, 5, CPU)
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
    before = Verdicts(clean=victim.model(victim.x).argmax(dim=1) == victim.y)
    links = chain(victim, own)
    assert [name for name, _ in seen] == ["cw", "pgd5", "mim", "pgd5", "mim"]
    for (found, _), (eps, name), (_, x) in zip(links, attacks_at(own), seen, strict=True):
        alive = before.robust(eps) if cascade and name != "cw" else before.clean
        assert torch.equal(x, victim.x[alive])
        before = found
    assert (len(seen[-1][1]) < len(seen[0][1])) == cascade


def test_a_cascade_spares_what_an_unbounded_attack_broke_within_the_ball(victim: Any) -> None:
    own = config(victim, eps=0.12, attacks=("deepfool", "pgd5"))
    few = SimpleNamespace(model=victim.model, images=victim.images.subset(torch.arange(2, 12)))
    links = [link for link, _ in chain(few, own)]
    within = links[0].clean & (links[0].distances["deepfool"] <= 0.12)
    assert within.any()
    assert not (links[1].survived[0.12, "pgd5"] & within).any()
