"""What every base method must keep to, on four classes of digits."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from guard.config.trial import LEARNS_RATE
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from torch import Tensor

from guard.artifacts import ArtifactStore, build
from guard.config import RegularizerConfig
from guard.config.schema import field_names, type_hints
from guard.data.datasets import load_data, resolve
from guard.data.images import load_images
from guard.distilled import DistilledSet
from guard.errors import ConfigError, DataError
from guard.models.saving import load_model
from guard.pipeline import STAGES, TrialResult, local_runner, plan, run_trial
from guard.stage import Stage
from guard.trial import TrialConfig

CLASSES, IPC = 4, 2
RECOVERS, MATCHES_GRADIENTS = ("sre2l", "cda"), ("dc", "dsa")
MATCHES_TRAJECTORIES, PICKS = LEARNS_RATE, ("random", "herding")
DISTILS = (*RECOVERS, *MATCHES_GRADIENTS, *MATCHES_TRAJECTORIES, *PICKS)
REGULARIZED = tuple(name for name in METHODS if name not in PICKS)
MATCHING = {
    "iterations": 2,
    "student_steps": 2,
    "expert_epochs": 1,
    "max_start": 2,
    "lr_images": 10.0,
    "lr_rate": 1e-3,
    "experts": {"count": 2, "train.epochs": 3, "train.lr": 0.3, "train.batch_size": 32},
}
TINY: dict[str, Any] = {
    "data": {"name": "npz", "validation_fraction": 0.25},
    "model": {"name": "convnet", "width": 6, "depth": 2},
    "ipc": IPC,
    "regularizer": "none",
    "squeeze": {"epochs": 3, "optimizer": "adamw", "lr": 0.02, "batch_size": 16},
    **{f"{name}.iterations": 3 for name in RECOVERS},
    **{f"{name}.chunk": 1 for name in RECOVERS},
    **{f"{name}.jitter": 1 for name in RECOVERS},
    **{
        f"{name}.{path}": value
        for name in MATCHES_GRADIENTS
        for path, value in {"iterations": 2, "inner_epochs": 1, "batch_size": 8}.items()
    },
    **{f"mat.experts.adversary.{path}": value for path, value in {"steps": 1}.items()},
    "mat.experts.ema": 0.5,
    "student.train": {"epochs": 2, "batch_size": 5, "lr": 0.02, "augment": ["flip"]},
    "evaluation": {"attacks": ["pgd1"], "max_samples": 20, "eps": 0.05, "diagnose": False},
    "compute.num_threads": 1,
}
for name in MATCHES_TRAJECTORIES:
    for path, value in MATCHING.items():
        pairs = value.items() if isinstance(value, dict) else [("", value)]
        TINY |= {f"{name}.{path}.{rest}".rstrip("."): given for rest, given in pairs}
PENALTY = {"regularizer": {"kind": "gradient-norm", "weight": 0.5}}


def subset(path: Path) -> Path:
    """Forty training and eight test digits of each of four classes."""
    digits = load_digits()
    rows = [np.flatnonzero(digits.target == label)[:48] for label in range(CLASSES)]
    x = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    arrays = {}
    for part, chosen in (("train", slice(0, 40)), ("test", slice(40, 48))):
        indices = np.concatenate([row[chosen] for row in rows])
        arrays |= {f"x_{part}": x[indices], f"y_{part}": digits.target[indices]}
    np.savez(path, **arrays)
    return path


@dataclass
class Lab:
    """Trials by their config, each run once in a shared store."""

    data: Path
    store: ArtifactStore
    results: dict[str, TrialResult] = field(default_factory=dict)
    noise: dict[str, bool] = field(default_factory=dict)
    """Whether the global random state was the same after a trial."""

    def config(self, method: str, **changes: Any) -> TrialConfig:
        base = {**TINY, "data.path": str(self.data), "method": method}
        if method in RECOVERS:
            base["model.norm"] = "batch"
        config = TrialConfig().override({**base, **changes})
        return replace(config, data=resolve(config.data))

    def run(self, config: TrialConfig) -> TrialResult:
        name = config.fingerprint()
        if name not in self.results:
            before = random_states()
            self.results[name] = run_trial(config, local_runner(self.store))
            self.noise[name] = random_states() != before
        return self.results[name]

    def made(self, config: TrialConfig) -> DistilledSet:
        return DistilledSet.load(self.run(config).paths["distilled"])

    def built(self, stage: Stage) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """(summary, tensors) of one stage."""
        artifact = self.store.get_or_build(stage, build)
        tensors: dict[str, Tensor] = {}
        for file in artifact.path.glob("*.safetensors"):
            tensors |= load_file(file)
        return dict(artifact.summary), tensors


def random_states() -> tuple[Any, ...]:
    numpy_state = np.random.get_state()[1]
    return (torch.get_rng_state().tolist(), np.asarray(numpy_state).tolist(), random.getstate())


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    root = tmp_path_factory.mktemp("methods")
    return Lab(subset(root / "four.npz"), ArtifactStore(root / "store"))


def stages(config: TrialConfig, name: str) -> list[Stage]:
    return [stage for stage in plan(config) if stage.name == name]


def keys(config: TrialConfig, name: str | None = None) -> list[str]:
    return [stage.key for stage in plan(config) if name in (None, stage.name)]


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    assert set(ours) == set(theirs)
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_groups_are_all_methods() -> None:
    assert set(METHODS) == {*DISTILS, "whole"} == set(type_hints(TrialConfig)["method"].__args__)
    for name in METHODS:
        config = TrialConfig().override({"method": name, "regularizer": "none"})
        assert config.takes_regularizer is (name in REGULARIZED)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_reads_sections_that_there_are(name: str) -> None:
    sections = METHODS[name].sections
    assert set(sections) <= set(field_names(TrialConfig))
    assert (name in sections) is (name in field_names(TrialConfig))


@pytest.mark.parametrize("name", METHODS)
def test_a_section_that_is_not_named_changes_nothing(name: str, lab: Lab) -> None:
    config = lab.config(name)
    changes = {
        "squeeze": {"squeeze.lr": 0.03},
        **{section: {f"{section}.iterations": 7} for section in DISTILS if section not in PICKS},
    }
    for section, change in changes.items():
        same_keys = keys(config) == keys(config.override(change))
        assert same_keys is (section not in METHODS[name].sections)


@pytest.mark.parametrize("model_input", ["normalize", "zca"])
@pytest.mark.parametrize("labels", ["auto", "soft", "hard"])
@pytest.mark.parametrize("name", METHODS)
def test_a_stage_reads_only_what_was_planned_before_it(
    name: str, labels: str, model_input: str, lab: Lab
) -> None:
    config = lab.config(name, **{"student.labels": labels, "model.input": model_input})
    known: set[str] = set()
    for stage in plan(config):
        assert set(stage.inputs.values()) <= known, stage.name
        known.add(stage.address)
    assert len(known) == len(plan(config))
    assert len(stages(config, "whitening")) == (model_input == "zca")


@pytest.mark.parametrize("name", METHODS)
def test_a_trial_completes(name: str, lab: Lab) -> None:
    config = lab.config(name)
    result = lab.run(config)
    assert (result.status, result.reason) == ("complete", "")
    assert [record.key for record in result.stages] == keys(config)
    assert {record.name for record in result.stages} <= set(STAGES)
    assert set(result.paths) - {"student", "validation verdicts", "test verdicts"} == (
        (set() if name == "whole" else {"distilled"})
        | ({"teacher"} if METHODS[name].teachers(config) else set())
    )
    assert all(np.isfinite(value) for value in result.metrics.values())
    for split in ("validation", "test"):
        clean = result.metrics[f"{split}/clean_accuracy"]
        assert 0 <= result.metrics[f"{split}/robust_accuracy"] <= clean <= 1
    assert load_model(result.paths["student"])(torch.rand(3, 1, 8, 8)).shape == (3, CLASSES)


@pytest.mark.parametrize("name", DISTILS)
def test_a_set_is_balanced_pixels_in_prefix_order(name: str, lab: Lab) -> None:
    made = lab.made(lab.config(name))
    assert made.images.shape == (CLASSES * IPC, 1, 8, 8)
    assert made.images.dtype == torch.float32
    assert made.images.isfinite().all()
    assert 0 <= made.images.min() and made.images.max() <= 1
    assert len(made.images.flatten(1).unique(dim=0)) == CLASSES * IPC
    assert made.labels.dtype == torch.int64
    assert made.labels.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert (made.ipc, made.spec.num_classes) == (IPC, CLASSES)


@pytest.mark.parametrize("name", DISTILS)
def test_a_card_says_where_a_set_comes_from(name: str, lab: Lab) -> None:
    config = lab.config(name)
    card = lab.made(config).card
    (stage,) = stages(config, "distilled")
    assert (card["format"], card["method"], card["ipc"]) == (2, name, IPC)
    assert card["inputs"] == stage.inputs
    by_address = {stage.address: stage for stage in plan(config)}
    for role, origin in card["made_by"].items():
        assert origin["config"] == by_address[stage.inputs[role]].config
    assert ("teacher" in card["made_by"]) is (name in RECOVERS)
    assert "part-0000" in card["made_by"]
    rate = card.get("learned_lr")
    assert (rate is not None and rate > 0 and rate != 0.01) is (name in LEARNS_RATE)


def exact(name: str) -> dict[str, Any]:
    """Changes that leave each image recognisable as one of its class."""
    if name in RECOVERS:
        plain = {"crop": "none", "curriculum": "none", "jitter": 0, "flip": False, "bn_weight": 0}
        return {f"{name}.{path}": value for path, value in {**plain, "iterations": 40}.items()}
    if name in PICKS:
        return {}
    return {f"{name}.lr_images": 1e-12, f"{name}.init": "real"}


@pytest.mark.parametrize("name", DISTILS)
def test_image_i_of_class_c_has_number_i_times_k_plus_c(name: str, lab: Lab) -> None:
    config = lab.config(name, **exact(name))
    made = lab.made(config)
    if name in RECOVERS:
        teacher = load_model(lab.run(config).paths["teacher"])
        assert teacher(made.images).argmax(dim=1).tolist() == made.labels.tolist()
        return
    train = load_data(config.data).train
    real = load_images(train, torch.arange(len(train)), torch.device("cpu"))
    distances = (made.images[:, None] - real).abs().amax(dim=(2, 3, 4))
    assert float(distances.amin(dim=1).max()) < 1e-6
    assert train.y[distances.argmin(dim=1)].tolist() == made.labels.tolist()


@pytest.mark.parametrize("name", DISTILS)
def test_soft_labels_are_distributions_where_there_are_any(name: str, lab: Lab) -> None:
    soft = lab.made(lab.config(name)).soft_labels
    assert (soft is not None) is (name in (*RECOVERS, "tesla"))
    if soft is not None:
        assert soft.shape == (CLASSES * IPC, CLASSES) and soft.dtype == torch.float32
        torch.testing.assert_close(soft.sum(dim=1), torch.ones(CLASSES * IPC))
        assert soft.min() >= 0
        assert len(soft.unique(dim=0)) == CLASSES * IPC


def files(root: Path) -> dict[str, Any]:
    """Every file of a store; of stage.json all but the time and where the data lies."""
    found: dict[str, Any] = {}
    for path in root.rglob("*"):
        if path.is_file():
            found[str(path.relative_to(root))] = path.read_bytes()
        if path.name == "stage.json":
            record = json.loads(path.read_text())
            del record["seconds"], record["stage"]["places"]
            found[str(path.relative_to(root))] = record
    return found


@pytest.mark.parametrize("name", METHODS)
def test_another_store_gets_the_same_bytes(name: str, lab: Lab, tmp_path: Path) -> None:
    """Also where the data lies somewhere else, and whatever the global generators hold."""
    config = lab.config(name)
    lab.run(config)
    elsewhere = config.override({"data.path": str(subset(tmp_path / "moved.npz"))})
    torch.manual_seed(99)
    fresh = ArtifactStore(tmp_path / "store")
    result = run_trial(elsewhere, local_runner(fresh))
    assert result.metrics == lab.run(config).metrics
    again, first = files(fresh.root), files(lab.store.root)
    assert len({path.split("/")[1] for path in again}) == len(set(keys(config)))
    assert [path for path in again if again[path] != first[path]] == []


@pytest.mark.parametrize("name", METHODS)
def test_a_second_run_builds_nothing(name: str, lab: Lab) -> None:
    config = lab.config(name)
    first, again = lab.run(config), run_trial(config, local_runner(lab.store))
    assert not any(record.built for record in again.stages)
    assert (again.metrics, again.paths) == (first.metrics, first.paths)


@pytest.mark.parametrize("name", METHODS)
def test_a_trial_leaves_the_global_random_states_alone(name: str, lab: Lab) -> None:
    config = lab.config(name)
    lab.run(config)
    assert lab.noise[config.fingerprint()] is False


def made_by(config: TrialConfig) -> list[Stage]:
    """The stages that make networks and images: teachers, parts, and the network of `whole`."""
    names = {"squeeze", "expert", "recover", "gradient-matching", "trajectory-matching", "subset"}
    return [stage for stage in plan(config) if stage.name in names]


@pytest.mark.parametrize("name", METHODS)
def test_another_seed_gives_other_networks_and_images(name: str, lab: Lab) -> None:
    """Herding draws nothing but its network, so its choice may be the same."""
    config = lab.config(name)
    pairs = zip(made_by(config), made_by(config.override({"seed": 1})), strict=True)
    changed = [not same(lab.built(ours)[1], lab.built(theirs)[1]) for ours, theirs in pairs]
    assert changed and all(changed[:1] if name == "herding" else changed)


@pytest.mark.parametrize("name", [*RECOVERS, *LEARNS_RATE])
def test_stages_of_one_kind_are_drawn_apart(name: str, lab: Lab) -> None:
    kind, tensor = ("recover", "images") if name in RECOVERS else ("expert", "theta")
    first, second = (lab.built(stage)[1][tensor] for stage in stages(lab.config(name), kind))
    assert not torch.equal(first[0], second[0])


OFF = ({"regularizer.weight": 0}, {"regularizer": {"kind": "trades", "weight": 0, "eps": 0.3}})


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("off", OFF, ids=["penalty", "attack"])
def test_a_weight_of_zero_is_the_unregularized_trial(
    off: dict[str, Any], name: str, lab: Lab
) -> None:
    config = lab.config(name, **{**PENALTY, **off} if name in REGULARIZED else off)
    assert keys(config) == keys(config.unregularized()) == keys(lab.config(name))


def where_it_acts(config: TrialConfig) -> Stage:
    """The first stage that the regularizer acts in."""
    return next(stage for stage in plan(config) if "regularizer" in stage.config)


@pytest.mark.parametrize("name", REGULARIZED)
def test_the_work_itself_gives_the_same_bytes_at_a_weight_of_zero(name: str, lab: Lab) -> None:
    """Whatever the plan says: the stage is built with the penalty of weight 0 in its config."""
    stage = where_it_acts(lab.config(name))
    zero = RegularizerConfig(kind="curvature", weight=0, h=3, fraction=0.5).to_dict()
    forced = replace(stage, config={**stage.config, "regularizer": zero})
    assert forced.key != stage.key
    plain, idle = (lab.built(either) for either in (stage, forced))
    assert same(plain[1], idle[1])
    assert plain[0] == idle[0]


@pytest.mark.parametrize("name", REGULARIZED)
def test_a_penalty_changes_what_is_made(name: str, lab: Lab) -> None:
    plain, penalised = lab.config(name), lab.config(name, **PENALTY)
    assert lab.run(penalised).status == "complete"
    if name == "whole":
        student = [lab.run(c).paths["student"] / "model.safetensors" for c in (plain, penalised)]
        assert not same(*(load_file(path) for path in student))
        return
    ours, theirs = lab.made(plain).images, lab.made(penalised).images
    assert not torch.equal(ours, theirs)
    assert [record.built for record in lab.run(penalised).stages].count(True) > 3


PLACES: dict[str, Callable[[TrialConfig], Stage]] = {
    "squeeze": squeeze_stage,
    "gradient-matching": lambda config: METHODS["dc"].parts(config, [])[0],
    "gradient-matching-at-once": lambda config: METHODS["dsa"].parts(config, [])[0],
    "expert": lambda config: METHODS["mtt"].teachers(config)[0],
}
ACTIVE = sorted(set(RegularizerConfig.NAMED) - {"none"})


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("setting", ACTIVE)
def test_every_named_regularizer_acts_in_every_place(setting: str, place: str, lab: Lab) -> None:
    named = RegularizerConfig.named(setting)
    milder = replace(named, weight=min(named.weight, 1), steps=min(named.steps, 2))
    config = lab.config("whole", regularizer=milder)
    once = {"dc.iterations": 1, "dsa.iterations": 1, "dsa.outer_loops": 1, "squeeze.epochs": 2}
    config = config.override({"dsa.classes_at_once": 3, **once})
    stage = PLACES[place](config)
    assert stage.name == place.removesuffix("-at-once")
    assert stage.config["regularizer"] == config.regularizer.to_dict()
    uses_radius = config.regularizer.uses_threat_model
    assert stage.config["eps"] == (config.evaluation.eps if uses_radius else 0)
    summary, tensors = lab.built(stage)
    assert "diverged" not in summary
    assert all(np.isfinite(value) for value in summary["metrics"].values())
    _, plain = lab.built(PLACES[place](config.unregularized()))
    assert not same(tensors, plain)
    if stage.name == "gradient-matching":
        assert summary["metrics"]["penalty_ratio"] > 0


@pytest.mark.parametrize("setting", ["trades", "mart"])
@pytest.mark.parametrize("name", ["mtt", "tesla", "mat"])
def test_any_adversary_trains_the_experts_under_a_penalty(
    name: str, setting: str, lab: Lab
) -> None:
    config = lab.config(name, **{f"{name}.experts.adversary": setting, **PENALTY})
    expert = METHODS[name].teachers(config)[0]
    assert expert.config["eps"] == config.evaluation.eps
    summary, tensors = lab.built(expert)
    assert "diverged" not in summary
    _, without = lab.built(METHODS[name].teachers(config.unregularized())[0])
    assert not same(tensors, without)


def refused(changes: dict[str, Any]) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        TrialConfig().override(changes)
    assert "\n" not in str(caught.value)
    return caught.value


CONV = {"model.name": "convnet"}
ZCA = {"model.input": "zca", "regularizer.units": "normalized"}


@pytest.mark.parametrize(
    ("changes", "path", "rule"),
    [
        ({"method": "random"}, "regularizer", "random picks real images .* curvature"),
        ({"method": "herding"}, "regularizer", "herding picks real images .* curvature"),
        (
            {"method": "random", "regularizer": "pgd-at", "student.labels": "hard"},
            "regularizer",
            "random .* adversarial",
        ),
        *[
            ({"method": "mat", "regularizer": name}, "regularizer.kind", f"mat .* got {kind}")
            for name, kind in (("pgd-at", "adversarial"), ("trades", "trades"), ("mart", "mart"))
        ],
        (
            {"method": "mtt", "mtt.experts.adversary": "trades", "regularizer": "fgsm-rs"},
            "regularizer.kind",
            "mtt .* already .trades.; got adversarial",
        ),
        ({"mtt.experts.adversary": "curvature"}, "mtt.experts.adversary.kind", "one of none, adv"),
        ({"method": "sre2l", **CONV}, "model.norm", "sre2l matches BatchNorm"),
        ({"method": "cda", **CONV}, "model.norm", "cda matches BatchNorm"),
        ({"cda.crop": "none"}, "cda.curriculum", "needs crop"),
        ({"sre2l.curriculum": "linear"}, "sre2l.curriculum", "needs crop .* got crop = none"),
        ({"mtt.max_start": 50}, "mtt.experts.train.epochs", "starts at epoch 49 .* 51, got 50"),
        ({"tesla.expert_epochs": 32}, "tesla.experts.train.epochs", "of 32 epochs .* 51, got 50"),
        ({"mat.experts.train.epochs": 20}, "mat.experts.train.epochs", "least 21, got 20"),
        ({"mtt.published_half": True}, "mtt.published_half", "got gradient = adjoint"),
        (
            {"tesla.published_half": True, "tesla.gradient": "unroll"},
            "tesla.published_half",
            "got gradient = unroll",
        ),
        *[
            (
                {"method": name, "regularizer": "none", "student.learned_lr": True},
                "student.learned_lr",
                f"{name} learns no learning rate",
            )
            for name in METHODS
            if name not in LEARNS_RATE
        ],
        *[
            ({"method": name, **ZCA}, "regularizer.units", "needs model.input = normalize")
            for name in REGULARIZED
        ],
        (
            {"method": "dc", **ZCA, "dc.model": {}, "student.labels": "soft"},
            "regularizer.units",
            "needs model.input = normalize",
        ),
        (
            {"method": "whole", **ZCA, "model.input": "normalize", "student.model.input": "zca"},
            "regularizer.units",
            "needs model.input = normalize",
        ),
    ],
)
def test_what_has_no_meaning_is_refused_in_one_line(
    changes: dict[str, Any], path: str, rule: str
) -> None:
    error = refused(changes)
    assert error.path == path
    assert re.search(rule, error.rule), error.rule


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "random", "student.labels": "soft"},
        {"method": "herding", "regularizer": "trades", "student.labels": "soft"},
        {"method": "random", "regularizer.weight": 0},
        {"method": "mat", "regularizer": "curvature"},
        {"method": "mat", "mat.experts.adversary": "none", "regularizer": "trades"},
        {"method": "dc", **CONV},
        {"method": "cda", "cda.crop": "none", "cda.curriculum": "none"},
        {"mtt.max_start": 49},
        {"tesla.published_half": True},
        {"method": "mtt", "mtt.model": {}, **ZCA},
        {"method": "sre2l", **ZCA, "model.input": "normalize", "student.model.input": "zca"},
        {"method": "tesla", "student.learned_lr": True},
    ],
)
def test_what_has_a_meaning_is_not_refused(changes: dict[str, Any]) -> None:
    assert plan(TrialConfig().override(changes))


@pytest.mark.parametrize("name", [name for name in DISTILS if name not in RECOVERS])
def test_a_class_with_too_few_images_is_named_in_one_line(name: str, lab: Lab) -> None:
    init = {} if name in PICKS else {f"{name}.init": "real"}
    config = lab.config(name, ipc=31, **init)
    assert METHODS[name].needs_real_images(config)
    with pytest.raises(DataError, match=r"^ipc: class 0 has 30 training images.* ipc = 31$"):
        run_trial(config, local_runner(lab.store))


@pytest.mark.parametrize("name", [*RECOVERS, "dc", "whole"])
def test_a_method_that_starts_from_noise_takes_any_number_of_images(name: str, lab: Lab) -> None:
    assert not METHODS[name].needs_real_images(lab.config(name, ipc=31))


STEEP = {"train.lr": 1e10, "train.optimizer": "sgd"}
STEEP_SQUEEZE = {"squeeze.optimizer": "sgd", "squeeze.lr": 1e10}


@pytest.mark.parametrize(
    ("name", "changes", "stage"),
    [
        *[(name, STEEP_SQUEEZE, "squeeze") for name in ("sre2l", "cda", "herding", "whole")],
        *[(name, {f"{name}.lr_network": 1e30}, "gradient-matching") for name in MATCHES_GRADIENTS],
        *[(name, {f"{name}.experts.train.lr": 1e10}, "expert") for name in LEARNS_RATE],
        *[(name, {f"{name}.rate": 1e30}, "trajectory-matching") for name in LEARNS_RATE],
        *[
            (name, {f"student.{path}": value for path, value in STEEP.items()}, "student")
            for name in ("random", "dc", "mtt")
        ],
    ],
)
def test_a_learning_rate_that_is_far_too_large_ends_a_trial_as_diverged(
    name: str, changes: dict[str, Any], stage: str, lab: Lab
) -> None:
    result = lab.run(lab.config(name, **changes))
    assert result.status == "diverged"
    assert result.reason.startswith(f"{stage}: ") and "\n" not in result.reason
    assert result.stages[-1].name == stage
    assert "test/clean_accuracy" not in result.metrics


@pytest.mark.parametrize("whitened", [False, True])
@pytest.mark.parametrize("name", [*MATCHES_GRADIENTS, *LEARNS_RATE])
def test_images_stay_pixels_at_any_learning_rate(name: str, whitened: bool, lab: Lab) -> None:
    """Also after the last step; or the stage that makes them says that it diverged."""
    once = {f"{name}.lr_images": 3e38, f"{name}.iterations": 1}
    once |= {f"{name}.outer_loops": 1} if name in MATCHES_GRADIENTS else {}
    result = lab.run(lab.config(name, **once, **({"model.input": "zca"} if whitened else {})))
    if result.status == "complete":
        images = DistilledSet.load(result.paths["distilled"]).images
        assert images.isfinite().all() and 0 <= images.min() and images.max() <= 1
    else:
        assert result.reason.startswith(("gradient-matching: ", "trajectory-matching: "))


def test_the_whole_set_shares_its_network_with_the_teacher_of_sre2l(lab: Lab) -> None:
    whole, sre2l = lab.config("whole", **{"model.norm": "batch"}), lab.config("sre2l")
    assert keys(whole, "squeeze") == keys(sre2l, "squeeze") and len(keys(whole, "squeeze")) == 1
    other = whole.override({"student.model": {"name": "convnet", "width": 3, "depth": 2}})
    assert keys(other, "squeeze") != keys(sre2l, "squeeze")
    assert stages(other, "squeeze")[0].config["model"]["width"] == 3


def test_the_whole_set_is_no_set(lab: Lab) -> None:
    names = [stage.name for stage in plan(lab.config("whole"))]
    assert names == ["squeeze", "evaluate", "evaluate"]


def test_experts_are_shared_by_methods_and_sizes(lab: Lab) -> None:
    mtt = lab.config("mtt")
    experts = keys(mtt, "expert")
    assert len(set(experts)) == 2
    assert keys(lab.config("tesla"), "expert") == experts
    assert keys(lab.config("mtt", ipc=5), "expert") == experts
    assert keys(lab.config("mtt", **{"mtt.lr_images": 3.0}), "expert") == experts
    assert keys(lab.config("mtt", **{"mtt.experts.count": 3}), "expert")[:2] == experts
    longer = lab.config("mtt", **{"mtt.experts.train.epochs": 4})
    assert not set(keys(longer, "expert")) & set(experts)
    assert not set(keys(lab.config("mat"), "expert")) & set(experts)


def test_matching_depends_on_the_experts_that_it_reads(lab: Lab) -> None:
    mtt, more = lab.config("mtt"), lab.config("mtt", **{"mtt.experts.count": 3})
    (first,), (second,) = (stages(config, "trajectory-matching") for config in (mtt, more))
    assert list(first.inputs.values()) == [stage.address for stage in stages(mtt, "expert")]
    assert len(second.inputs) == 3 and first.key != second.key


@pytest.mark.parametrize("name", [name for name in DISTILS if name not in RECOVERS])
def test_soft_labels_of_a_method_without_a_teacher_need_one(
    name: str, lab: Lab, tmp_path: Path
) -> None:
    config = lab.config(name, **{"student.labels": "soft"})
    fresh = replace(lab, store=ArtifactStore(tmp_path), results={})
    result = fresh.run(config)
    assert result.status == "complete"
    assert [record.key for record in result.stages] == keys(config)
    assert "teacher" not in result.paths or name == "herding" or name in LEARNS_RATE
    (relabel,), (distilled,) = stages(config, "relabel"), stages(config, "distilled")
    teacher = squeeze_stage(config).address
    assert relabel.inputs == {"teacher": teacher, "distilled": distilled.address}
    assert keys(config, "squeeze") == [squeeze_stage(config).key]
    made = fresh.made(config)
    with torch.no_grad():
        answers = load_model(fresh.store.path(teacher))(made.images).softmax(dim=1)
    assert made.soft_labels is not None
    torch.testing.assert_close(made.soft_labels, answers)
    assert torch.equal(made.images, lab.made(lab.config(name)).images)


@pytest.mark.parametrize("name", RECOVERS)
def test_hard_labels_need_no_teachers_answers(name: str, lab: Lab) -> None:
    config = lab.config(name, **{"student.labels": "hard"})
    assert lab.run(config).status == "complete"
    assert keys(config, "relabel") == []
    assert lab.made(config).soft_labels is None
    assert torch.equal(lab.made(config).images, lab.made(lab.config(name)).images)


@pytest.mark.parametrize("name", LEARNS_RATE)
def test_a_student_trains_at_the_rate_that_was_learned(name: str, lab: Lab) -> None:
    config = lab.config(name, **{"student.learned_lr": True, "student.train.schedule": "constant"})
    rate = lab.made(config).card["learned_lr"]
    summary, _ = lab.built(stages(config, "student")[0])
    assert [epoch["lr"] for epoch in summary["history"]] == [rate] * 2
    assert lab.run(config).metrics["distilled/learned_lr"] == rate
    assert keys(config, "distilled") == keys(lab.config(name), "distilled")


@pytest.mark.parametrize("name", ["random", "herding", *RECOVERS])
def test_a_smaller_set_is_a_prefix_of_a_larger_one(name: str, lab: Lab) -> None:
    small, large = (lab.made(lab.config(name, ipc=ipc)) for ipc in (IPC, 4))
    assert torch.equal(large.images[: CLASSES * IPC], small.images)
    assert torch.equal(large.labels[: CLASSES * IPC], small.labels)
