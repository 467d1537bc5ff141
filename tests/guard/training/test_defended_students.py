"""A student that is trained against attacks, or under a penalty, on its own labels."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from attacked import EPS, bn_net, config, samples, smooth_net
from safetensors.torch import load_file
from torch.nn import functional as F

import guard.checkpoint
from guard.artifacts import ArtifactStore
from guard.config import RegularizerConfig, StudentConfig
from guard.errors import ConfigError
from guard.stages import Squeeze
from guard.training.average import WeightAverage
from guard.training.distillation import LabelLoss
from guard.training.losses import TrainingLoss, attack_batch, divergences, rslad
from guard.trial import TrialConfig
from guard.trial_stages import TrialStages
from helpers import draws, number


def moved(x: torch.Tensor) -> torch.Tensor:
    noise = torch.rand(x.shape, generator=draws(7), dtype=x.dtype)
    return (x + EPS * (2 * noise - 1)).clamp(0, 1)


LABELS = torch.rand(6, 4, generator=draws(5), dtype=torch.float64).mul(4).log_softmax(dim=1)


def label_loss(**fields: Any) -> LabelLoss:
    return LabelLoss(config=StudentConfig().override({"temperature": 3, **fields}))


def test_rslad_by_hand() -> None:
    """With T = 1 the distance is the divergence of the paper."""
    model, (x, _) = smooth_net(), samples()
    attacked, near = moved(x), partial(label_loss(temperature=1), target=LABELS)
    loss, logits = rslad(model, x, attacked, LABELS.softmax(dim=1), 5 / 6, near)
    clean = number(divergences(LABELS, model(x)).mean())
    moved_off = number(divergences(LABELS, model(attacked)).mean())
    assert number(loss) == pytest.approx(clean / 6 + moved_off * 5 / 6)
    assert torch.equal(logits, model(x))


def test_rslads_attack_moves_away_from_the_teachers_answer_and_not_from_a_class() -> None:
    model, (x, y), p = smooth_net(), samples(), LABELS.softmax(dim=1)
    own = config("rslad", steps=10)
    attacked = attack_batch(model, x, p, own, EPS, draws())
    start = attack_batch(model, x, p, config("rslad", steps=1, step_size=1e-9), EPS, draws())
    assert (divergences(LABELS, model(attacked)) > divergences(LABELS, model(start))).all()
    other = attack_batch(model, x, y, own, EPS, draws())
    assert not torch.equal(attacked, other)
    assert (attacked - x).abs().max() <= EPS + 1e-12


@pytest.mark.parametrize("kind", ["adversarial", "trades", "mart", "rslad"])
@pytest.mark.parametrize("loss", ["kl", "mse", "cosine"])
def test_a_defence_is_of_the_students_own_loss(kind: str, loss: str) -> None:
    """What is minimised at λ = 0 is the student's loss, of attacked images where there is no λ."""
    model, (x, _), own = bn_net().eval(), samples(), label_loss(loss=loss)
    classes = F.one_hot(torch.arange(6) % 4, 4).double()
    target = own.target(LABELS, classes)
    regularizer = config(kind, weight=1e-12, steps=2)
    distribution = own.distribution(target)
    torch.testing.assert_close(distribution, LABELS.softmax(dim=1))
    found, _ = TrainingLoss(regularizer, EPS)(
        model, x, distribution, 0, draws(), partial(own, target=target)
    )
    attacked = attack_batch(model, x, distribution, regularizer, EPS, draws())
    seen = attacked if kind in ("adversarial", "mart") else x
    expected = own(model(seen), target)
    if kind == "mart":
        p = model(attacked).softmax(dim=1)
        labels = distribution.argmax(dim=1)
        best = p.scatter(1, labels[:, None], 0).amax(dim=1)
        expected = expected - torch.log1p(-best).mean()
    assert number(found) == pytest.approx(number(expected), rel=1e-9)


def test_a_penalty_of_a_student_is_of_the_cross_entropy_of_its_labels() -> None:
    model, (x, _), own = smooth_net(), samples(), label_loss()
    penalty = RegularizerConfig(kind="gradient-norm", weight=2.0)
    p = own.distribution(LABELS)
    found, logits = TrainingLoss(penalty)(model, x, p, 0, draws(), partial(own, target=LABELS))
    x = x.requires_grad_()
    total = -(p * model(x).log_softmax(dim=1)).sum()
    (gradient,) = torch.autograd.grad(total, x)
    by_hand = 2 * gradient.flatten(1).square().sum(dim=1).mean()
    assert number(found) == pytest.approx(number(own(logits, LABELS) + by_hand))


@pytest.mark.parametrize("labels", ["soft", "hard", "fixed", "budget"])
def test_a_defended_student_is_another_student_of_the_same_set(
    labels: str, tiny_config: TrialConfig
) -> None:
    plain = tiny_config.override({"student.labels": labels})
    defended = plain.override({"student.regularizer": "pgd-at"})
    one, two = (TrialStages.of(config).student for config in (plain, defended))
    assert one.inputs == two.inputs and one.key != two.key
    assert two.eps == tiny_config.evaluation.eps  # type: ignore[attr-defined]


def test_an_interrupted_defended_average_ends_in_the_same_bytes(
    trial: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"student.regularizer": "pgd-at", "student.ema": 0.9}
    stages, made = TrialStages.of(trial.config.override(changes)), []
    plain = TrainingLoss.__call__

    def killed(self: TrainingLoss, model: Any, x: Any, y: Any, epoch: int, *rest: Any) -> Any:
        if epoch == 2:
            raise KeyboardInterrupt
        return plain(self, model, x, y, epoch, *rest)

    for name in ("whole", "broken"):
        store = ArtifactStore(tmp_path / name)
        for needed in stages.student.inputs.values():
            shutil.copytree(trial.store.path(needed), store.path(needed))
        if name == "broken":
            monkeypatch.setattr(guard.checkpoint, "EVERY_S", 0.0)
            with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
                patched.setattr(TrainingLoss, "__call__", killed)
                store.get_or_build(stages.student)
            assert list(store.scratch(stages.student).iterdir())
        made.append(load_file(store.get_or_build(stages.student).path / "model.safetensors"))
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])


def test_an_average_follows_the_weights() -> None:
    model = bn_net()
    average, expected = WeightAverage(model, 0.75), model.state_dict()["0.weight"].clone()
    for _ in range(3):
        with torch.no_grad():
            model[0].weight.add_(1.0)
        average.update(model)
        expected = 0.75 * expected + 0.25 * model[0].weight
    average.give_to(model)
    torch.testing.assert_close(model[0].weight, expected)


def test_near_a_teacher_needs_one() -> None:
    with pytest.raises(ConfigError, match=r"regularizer\.kind: rslad .* of students alone"):
        TrialConfig().override({"regularizer": "rslad"})
    with pytest.raises(ConfigError, match=r"student\.regularizer\.kind: rslad .* got hard"):
        TrialConfig().override({"student.regularizer": "rslad", "student.labels": "hard"})
    with pytest.raises(ConfigError, match=r"student\.regularizer\.kind: rslad .*mtt needs"):
        TrialConfig().override({"method": "mtt", "student.regularizer": "rslad"})


def test_where_nothing_is_distilled_it_acts_in_the_training_on_all_images() -> None:
    base = TrialConfig().override({"method": "whole", "regularizer": "none"})
    judged = TrialStages.of(base.override({"student.regularizer": "pgd-at"})).student
    assert judged == Squeeze.of(base.override({"regularizer": "pgd-at"}).shared, base.student_model)
    with pytest.raises(ConfigError, match="whole trains one network, on which"):
        base.override({"student.regularizer": "pgd-at", "regularizer": "curvature"})


def test_a_single_field_of_a_students_regularizer_leaves_it_off() -> None:
    config = TrialConfig().override({"student.regularizer.steps": 3})
    assert not config.student.regularizer.active
