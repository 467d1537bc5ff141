"""DSA acts on what a network sees: under ZCA on whitened images, wherever networks are trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import guard.methods.dc.matching as dc
from guard.artifacts import ArtifactStore
from guard.config import DSA_OPS, TrainConfig
from guard.data.augment import Augmenter, in_space, mix
from guard.data.datasets import load_data
from guard.data.dsa import apply_dsa, draw_dsa
from guard.distilled import DistilledSet
from guard.methods.mtt import MTT
from guard.methods.mtt.matching import Matching
from guard.methods.mtt.trajectory import call, flat_parameters
from guard.models.input_layer import Zca, first_layer, fit_zca
from guard.models.networks import Classifier
from guard.models.saving import load_model
from guard.seeding import generator
from guard.stage import Stage, closure
from guard.stages import WHITENED, Relabel, Student
from guard.training.labels import SoftLabels
from guard.training.loop import image_batches
from guard.trial import TrialConfig
from guard.trial_stages import plan
from helpers import CPU, draws

ZCA = {
    "model.input": "zca",
    "student.train.augment": ["dsa"],
    "evaluation.diagnose": False,
    "regularizer": "none",
}


@pytest.fixture(scope="module")
def layer() -> Zca:
    splits = load_data(TrialConfig().data)
    layer = Zca(splits.spec)
    layer.load_state_dict(fit_zca(splits.train, splits.spec, CPU))
    return layer


def digits(count: int) -> torch.Tensor:
    return next(load_data(TrialConfig().data).train.batches(count, CPU))[0]


@pytest.mark.parametrize("op", DSA_OPS)
def test_an_operation_hits_the_whitened_image(op: Any, layer: Zca) -> None:
    x, draw = digits(6), draw_dsa([op], 6, draws(1))
    torch.testing.assert_close(
        layer(in_space(x, draw, layer)), apply_dsa(layer(x), draw), rtol=0, atol=1e-4
    )


def test_real_images_are_augmented_whitened(layer: Zca) -> None:
    images = load_data(TrialConfig().data).train.subset(torch.arange(9))
    config = TrainConfig(batch_size=9, augment=("dsa",))
    ((x, _),) = image_batches(images, config, layer, CPU, draws(1))
    own = draws(1)
    ((plain, _),) = images.batches(9, CPU, own)
    expected = apply_dsa(layer(plain), draw_dsa(DSA_OPS, 9, own))
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-4)


def test_a_student_step_of_mtt_is_augmented_whitened(layer: Zca) -> None:
    spec = load_data(TrialConfig().data).spec
    model = Classifier(layer, torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)))
    config = MTT(student_steps=8, augment=DSA_OPS)
    run = Matching(config=config, model=model, experts=[], spec=spec, ipc=1, seed=0, device=CPU)
    labels, u, theta = torch.arange(10), layer(digits(10)), flat_parameters(model)
    loss, own = run.step_loss(labels, draws(3)), draws(3)
    for number in range(8):
        order = torch.randperm(10, generator=own)
        seen = apply_dsa(u[order], draw_dsa(DSA_OPS, 10, own))
        expected = F.cross_entropy(call(model.network, theta, seen), labels[order])
        assert float(loss(theta, u, number)) == pytest.approx(float(expected), rel=1e-4)


def test_siamese_operations_of_dc_hit_whitened_images(
    layer: Zca, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(dc, "in_space", lambda x, draw, space: seen.append(space) or x)
    config = TrialConfig().override({"method": "dsa", "ipc": 1, "dsa.batch_size": 4})
    run = dc.Matching(
        config=config.dsa,
        model_config=config.model,
        loss=dc.TrainingLoss(config.regularizer),
        splits=load_data(config.data),
        layer=layer,
        ipc=1,
        seed=0,
        device=CPU,
    )
    u = torch.zeros(10, 1, 1, 8, 8)
    run.batches(u, torch.arange(2), 0)
    assert seen == [layer] * 4


def made_of(config: TrialConfig) -> dict[str, Stage]:
    return {stage.name: stage for stage in plan(config)}


def test_labels_are_of_the_batches_that_the_student_sees(
    tiny_config: TrialConfig, tmp_path: Path
) -> None:
    """Also where the teacher's own first layer is another."""
    student = {**tiny_config.model.to_dict(), "input": "zca"}
    config = tiny_config.override({**ZCA, "model.input": "normalize", "student.model": student})
    store, made = ArtifactStore(tmp_path), made_of(config)
    relabel, trained = made["relabel"], made["student"]
    assert isinstance(relabel, Relabel) and isinstance(trained, Student)
    assert relabel.whitening == trained.whitening is not None
    for needed in closure(relabel):
        store.get_or_build(needed)
    labels = SoftLabels.of([store.read(relabel)])
    distilled = DistilledSet.load(store.path(relabel.distilled))
    layer = first_layer(trained.whitening, distilled.spec, store)
    own = generator(config.student.seed, "student-batches", 0)
    teacher, logits = load_model(store.path(relabel.teacher)), []
    for indices in torch.randperm(len(distilled.images), generator=own).split(7):
        x = Augmenter.of(config.student.train, layer)(distilled.images[indices], own)
        x, _, _ = mix(x, config.student.mix, config.student.mix_alpha, own)
        logits.append(teacher(x).detach())
    torch.testing.assert_close(labels.epoch(0), torch.cat(logits), rtol=1e-3, atol=1e-2)


def test_only_what_it_changes_has_another_address() -> None:
    for augment, input_layer, mended in (
        (["dsa"], "zca", (WHITENED,)),
        (["crop"], "zca", ()),
        (["dsa"], "normalize", ()),
    ):
        changes = {"student.train.augment": augment, "model.input": input_layer}
        config = TrialConfig().override({**ZCA, **changes, "squeeze.augment": augment})
        stages = made_of(config)
        for name in ("squeeze", "student"):
            assert (WHITENED in stages[name].mended) is bool(mended), name
            assert (WHITENED in str(stages[name].description)) is bool(mended)
        experts = {"mtt.experts.count": 1, "mtt.experts.train.augment": augment, "method": "mtt"}
        stages = made_of(config.override({**experts, "mtt.augment": ["color"]}))
        assert (WHITENED in stages["expert"].mended) is bool(mended)
