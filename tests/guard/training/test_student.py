from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import guard.training.labels
import guard.training.student
from guard.artifacts import ArtifactStore
from guard.checkpoint import Checkpoint
from guard.config import StudentConfig, TrainConfig
from guard.data.augment import Augmenter
from guard.data.spec import ImageSpec
from guard.distilled import DistilledSet
from guard.models.input_layer import Normalize
from guard.models.networks import build_model
from guard.models.saving import load_model
from guard.seeding import derive
from guard.stage import Stage
from guard.stages import Relabel, Student
from guard.training.distillation import distillation_loss
from guard.training.labels import SoftLabels
from guard.training.loop import Epoch
from guard.training.recipe import Recipe
from guard.trial import TrialConfig
from guard.trial_stages import plan
from helpers import draws

SPACE = Normalize((0.3,), (0.25,))


def stage_named(config: TrialConfig, name: str) -> Stage:
    return next(stage for stage in plan(config) if stage.name == name)


def logits(seed: int, count: int = 6, classes: int = 5) -> Tensor:
    return 4 * torch.randn(count, classes, generator=draws(seed), dtype=torch.float64)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 20.0])
def test_the_distillation_loss_is_the_kl_divergence(temperature: float) -> None:
    student, teacher = logits(0), logits(1)
    p, q = (teacher / temperature).softmax(dim=1), (student / temperature).softmax(dim=1)
    expected = float((p * (p.log() - q.log())).sum(dim=1).mean())
    assert float(distillation_loss(student, teacher, temperature)) == pytest.approx(expected)
    assert expected > 1e-4


def test_the_distillation_loss_vanishes_at_the_teachers_answer() -> None:
    teacher = logits(1)
    assert float(distillation_loss(teacher + 3, teacher, 2.0)) == pytest.approx(0, abs=1e-12)


def test_the_distillation_loss_pulls_towards_the_teacher() -> None:
    student, teacher = logits(0).requires_grad_(), logits(1)
    (gradient,) = torch.autograd.grad(distillation_loss(student, teacher, 3.0), student)
    pull = (student / 3).softmax(dim=1) - (teacher / 3).softmax(dim=1)
    torch.testing.assert_close(gradient, pull / 3 / len(teacher))


def test_a_mean_over_the_batch() -> None:
    student, teacher = logits(0), logits(1)
    alone = [float(distillation_loss(student[i : i + 1], teacher[i : i + 1], 4)) for i in range(6)]
    assert float(distillation_loss(student, teacher, 4)) == pytest.approx(sum(alone) / 6)


def recipe(**changes: Any) -> Recipe:
    config = StudentConfig().override(
        {"train.batch_size": 4, "train.augment": ["crop", "flip"], "mix": "mixup", **changes}
    )
    return Recipe.of(config, SPACE)


def targets(count: int = 10, seed: int = 7) -> Tensor:
    """Distributions over five classes, (count, 5)."""
    return logits(seed, count).float().softmax(dim=1)


def inputs(batches: Iterator[tuple[Tensor, Tensor]]) -> list[Tensor]:
    return [x for x, _ in batches]


def test_batches_are_a_function_of_recipe_and_epoch() -> None:
    images = torch.rand(10, 1, 8, 8, generator=draws())
    before = torch.get_rng_state()
    first, again = (list(recipe().batches(images, targets(), 1)) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert [(len(x), len(y)) for x, y in first] == [(4, 4), (4, 4), (2, 2)]
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])
    others = [recipe().batches(images, targets(), 2)]
    others += [recipe(**c).batches(images, targets(), 1) for c in ({"seed": 1}, {"mix": "cutmix"})]
    for other in others:
        for x, changed in zip(first, other, strict=True):
            assert not torch.equal(x[0], changed[0])
            assert not torch.equal(x[1], changed[1])


def test_plain_batches_show_every_image_once_in_a_new_order() -> None:
    images = torch.arange(10.0).view(10, 1, 1, 1)
    plain = recipe(**{"train.augment": [], "mix": "none"})
    made = [list(plain.batches(images, targets(), epoch)) for epoch in range(3)]
    orders = [torch.cat([x for x, _ in epoch]).flatten().long().tolist() for epoch in made]
    for order, epoch in zip(orders, made, strict=True):
        assert torch.equal(torch.cat([y for _, y in epoch]), targets()[order])
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_targets_are_mixed_like_their_images(kind: str) -> None:
    """Image i is one on channel i alone, so a mixed image says what it is made of."""
    images = torch.eye(10)[:, :, None, None].expand(10, 10, 16, 16)
    mixed = recipe(**{"train.augment": [], "mix": kind})
    shares, seen = [], []
    for x, target in mixed.batches(images, targets(), 3):
        share = x.mean(dim=(2, 3))
        torch.testing.assert_close(target, share @ targets())
        shares.append(share)
        seen += share.gt(0).sum(dim=1).tolist()
    torch.testing.assert_close(torch.cat(shares).sum(dim=1), torch.ones(10))
    assert set(seen) == {1, 2} or seen == [2] * 10


def test_a_recipe_holds_what_the_config_says() -> None:
    config = StudentConfig().override(
        {
            "seed": 4,
            "train": {
                "batch_size": 3,
                "augment": ["flip"],
                "crop_scale": 0.3,
                "dsa_ops": ["color"],
            },
            "mix": "cutmix",
            "mix_alpha": 0.7,
        }
    )
    augmenter = Augmenter(
        names=("flip",), crop_scale=0.3, dsa_ops=("color",), shuffle_patches=2, space=SPACE
    )
    assert Recipe.of(config, SPACE) == Recipe(
        seed=4, batch_size=3, augment=augmenter, mix="cutmix", mix_alpha=0.7
    )


def test_soft_labels_are_the_teachers_logits_in_half_precision(trial: SimpleNamespace) -> None:
    labels = SoftLabels.of(trial.store.read(stage_named(trial.config, "relabel")))
    made = DistilledSet.load(trial.result.paths["distilled"])
    teacher = load_model(trial.result.paths["teacher"])
    replayed = Recipe.of(trial.config.student, Normalize(made.spec.mean, made.spec.std))
    for epoch in range(3):
        batches = inputs(replayed.batches(made.images, made.one_hot(), epoch))
        with torch.no_grad():
            expected = torch.cat([teacher(x) for x in batches]).half().float()
        assert torch.equal(labels.epoch(epoch), expected)
    assert not torch.equal(labels.epoch(0), labels.epoch(1))


@pytest.mark.parametrize(
    ("file_bytes", "files"), [(1, [0, 1, 2]), (799, [0, 1, 2]), (800, [0, 2]), (1200, [0])]
)
def test_soft_labels_are_written_in_pieces_and_read_alike(
    file_bytes: int,
    files: list[int],
    trial: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An epoch of 20 images and 10 classes takes 400 bytes."""
    monkeypatch.setattr(guard.training.labels, "FILE_BYTES", file_bytes)
    stage, store = stage_named(trial.config, "relabel"), ArtifactStore(tmp_path)
    for needed in stage.inputs.values():
        shutil.copytree(trial.store.path(needed), store.path(needed))
    artifact = store.get_or_build(stage)
    written = sorted(path.name for path in artifact.path.glob("*.safetensors"))
    assert written == [f"logits-{first:05d}.safetensors" for first in files]
    pieces, whole = SoftLabels.of(artifact), SoftLabels.of(trial.store.read(stage))
    for epoch in range(3):
        assert torch.equal(pieces.epoch(epoch), whole.epoch(epoch))
    held = [load_file(artifact.path / name) for name in written]
    assert sorted(epoch for file in held for epoch in file) == ["0", "1", "2"]
    assert all(t.dtype == torch.float16 and t.shape == (20, 10) for f in held for t in f.values())


def replay(
    config: TrialConfig, trial: SimpleNamespace, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> SimpleNamespace:
    """What `train_student` gives to the training loop, which does not run."""
    given = SimpleNamespace()

    def take(
        model: Any,
        run: Any,
        batches: Any,
        objective: Any,
        after_step: Any,
        checkpoint: Checkpoint,
        also: Any,
    ) -> list[Epoch]:
        given.model, given.run, given.objective = model, run, objective
        given.initial = {name: value.clone() for name, value in model.state_dict().items()}
        given.epochs = [list(batches(epoch)) for epoch in range(run.epochs)]
        return [Epoch(epoch=0, lr=0.0, loss=0.0, accuracy=0.0)]

    monkeypatch.setattr(guard.training.student, "train", take)
    guard.training.student.train_student(stage_named(config, "student"), trial.store, folder)
    return given


def test_the_student_sees_the_images_that_its_labels_are_of(
    trial: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = replay(trial.config, trial, tmp_path, monkeypatch)
    teacher = load_model(trial.result.paths["teacher"])
    assert [len(epoch) for epoch in given.epochs] == [3, 3, 3]
    for epoch in given.epochs:
        for x, target in epoch:
            with torch.no_grad():
                assert torch.equal(teacher(x).half().float(), target)
    first, second = (torch.cat([x for x, _ in epoch]) for epoch in given.epochs[:2])
    assert first.shape == (20, 1, 8, 8)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("scale_by_t2", [False, True])
def test_the_students_loss_is_distillation_at_its_temperature(
    scale_by_t2: bool,
    trial: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    changed = {"student.temperature": 3, "student.scale_by_t2": scale_by_t2}
    given = replay(trial.config.override(changed), trial, tmp_path, monkeypatch)
    x, target = given.epochs[0][0]
    loss, answer = given.objective(given.model, x, target, 0)
    assert torch.equal(answer, given.model(x))
    factor = 9 if scale_by_t2 else 1
    expected = factor * distillation_loss(answer, target, 3.0)
    torch.testing.assert_close(loss, expected)


def planted(
    method: str, labels: str, config: TrialConfig, root: Path, soft: Tensor | None
) -> tuple[TrialConfig, SimpleNamespace]:
    """A trial of which only the distilled set is there: 20 images and a rate of 0.037."""
    config = config.override(
        {"method": method, "regularizer": "none", "student.labels": labels, "student.mix": "none"}
    )
    store, (stage,) = ArtifactStore(root), [s for s in plan(config) if s.name == "distilled"]
    spec = ImageSpec(
        channels=1,
        image_size=8,
        num_classes=10,
        mean=(0.3,),
        std=(0.25,),
        class_names=tuple("0123456789"),
    )
    images = torch.rand(20, 1, 8, 8, generator=draws())
    made = DistilledSet(
        images=images,
        labels=torch.arange(10).repeat(2),
        soft_labels=soft,
        spec=spec,
        card={"learned_lr": 0.037},
    )

    def save(stage: Stage, store: ArtifactStore, folder: Path) -> Mapping[str, Any]:
        made.save(folder)
        return {}

    store.get_or_build(stage, save)
    return config, SimpleNamespace(store=store, made=made)


SOFT = logits(3, 20, 10).float().softmax(dim=1)


@pytest.mark.parametrize(
    ("method", "labels", "soft", "uses_soft"),
    [
        ("tesla", "auto", SOFT, True),
        ("tesla", "hard", SOFT, False),
        ("mtt", "auto", None, False),
        ("random", "auto", None, False),
    ],
)
def test_without_a_teacher_a_student_learns_the_sets_own_labels(
    method: str,
    labels: str,
    soft: Tensor | None,
    uses_soft: bool,
    tiny_config: TrialConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config, trial = planted(method, labels, tiny_config, tmp_path / "store", soft)
    config = config.override({"student.train.augment": []})
    given = replay(config, trial, tmp_path, monkeypatch)
    hard = torch.eye(10)[trial.made.labels]
    expected = SOFT if uses_soft else hard
    for x, target in given.epochs[1]:
        same = (x[:, None] == trial.made.images).flatten(2).all(dim=2)
        assert torch.equal(target, expected[same.int().argmax(dim=1)])
    x, target = given.epochs[0][0]
    loss, answer = given.objective(given.model, x, target, 0)
    by_hand = -(target * answer.log_softmax(dim=1)).sum() / len(x)
    torch.testing.assert_close(loss, by_hand)


@pytest.mark.parametrize("learned", [True, False])
def test_a_student_may_train_at_the_learned_rate(
    learned: bool, tiny_config: TrialConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, trial = planted("mtt", "auto", tiny_config, tmp_path / "store", None)
    config = config.override({"student.learned_lr": learned})
    given = replay(config, trial, tmp_path, monkeypatch)
    run = config.student.train
    assert run.lr != 0.037
    assert given.run == (replace(run, lr=0.037) if learned else run)


def test_a_student_starts_from_its_own_seed(
    trial: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = replay(trial.config, trial, tmp_path, monkeypatch)
    spec = DistilledSet.load(trial.result.paths["distilled"]).spec
    fresh = build_model(trial.config.model, spec, derive(0, "student")).state_dict()
    assert all(torch.equal(given.initial[name], value) for name, value in fresh.items())
    assert given.run == trial.config.student.train


@pytest.mark.parametrize(
    ("change", "relabels"),
    [
        ({"student.temperature": 3}, False),
        ({"student.scale_by_t2": True}, False),
        ({"student.model.width": 5}, False),
        ({"student.train.lr": 0.5}, False),
        ({"student.train.epochs": 4}, True),
        ({"student.train.batch_size": 4}, True),
        ({"student.train.augment": ["flip"]}, True),
        ({"student.mix": "mixup"}, True),
        ({"student.mix_alpha": 0.3}, True),
        ({"student.seed": 1}, True),
    ],
)
def test_labels_are_made_anew_only_for_other_batches(
    change: dict[str, Any], relabels: bool, tiny_config: TrialConfig
) -> None:
    changed = tiny_config.override(change)
    for name, differs in (("relabel", relabels), ("student", True)):
        same = stage_named(changed, name).key == stage_named(tiny_config, name).key
        assert same is not differs
    assert stage_named(changed, "distilled").key == stage_named(tiny_config, "distilled").key


def test_the_relabel_stage_replays_the_students_recipe(tiny_config: TrialConfig) -> None:
    teacher, distilled, planned = (
        stage_named(tiny_config, name) for name in ("squeeze", "distilled", "student")
    )
    relabel = Relabel.of(teacher, distilled, tiny_config.student, None)
    student = Student(
        distilled=distilled,
        whitening=None,
        labels=relabel,
        model=tiny_config.student_model,
        student=tiny_config.student,
        compute=tiny_config.compute,
    )
    assert student == planned
    assert relabel.inputs == {"teacher": teacher, "distilled": distilled}
    assert student.inputs == {"distilled": distilled, "labels": relabel}
    replayed = Recipe.of(relabel.student, SPACE)
    assert replayed == Recipe.of(tiny_config.student, SPACE)
    run = relabel.config["student"]["train"]
    assert run["epochs"] == tiny_config.student.train.epochs


@pytest.mark.parametrize("names", [(), ("crop",), ("resized-crop", "flip"), ("dsa",)])
def test_batches_are_augmented_as_named(names: tuple[str, ...]) -> None:
    images = torch.rand(5, 1, 8, 8, generator=draws())
    made = recipe(**{"train.augment": list(names), "train.batch_size": 5, "mix": "none"})
    ((batch, _),) = made.batches(images, targets(5), 0)
    generator = draws(derive(0, "student-batches", 0))
    order = torch.randperm(5, generator=generator)
    augment = Augmenter.of(TrainConfig(augment=names), SPACE)
    assert torch.equal(batch, augment(images[order], generator))


def test_a_student_learns_the_teachers_answers(trial: SimpleNamespace, tmp_path: Path) -> None:
    record = trial.store.get(stage_named(trial.config, "student"))
    assert record is not None
    losses = [epoch["loss"] for epoch in record.summary["history"]]
    assert len(losses) == 3 and losses[-1] < losses[0]
    assert trial.result.metrics["student/train_loss"] == losses[-1]
