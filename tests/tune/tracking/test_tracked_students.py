"""Data sets, students and sources as MLflow's pages know them."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from mlflow.tracking import MlflowClient
from tracked import artifact_folders, artifacts, deliver, finished, models_of, runs_of

from builders import TINY, configured, record
from guard.artifacts import ArtifactStore
from guard.distilled import DistilledSet
from guard.errors import ConfigError
from guard.pipeline import local_runner
from guard.stage import Stage
from guard.trial import TrialConfig
from guard.trial_stages import TrialStages
from tune.results.folder import StudyFolder
from tune.tracking import provenance
from tune.tracking.opening import open_store
from tune.tracking.options import TrackingConfig
from tune.tracking.products import digest
from tune.tracking.tracker import Tracker
from tune.tracking.view import BARRED


def test_students_are_ranked_over_studies(
    study: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = StudyFolder(study.output, "other")
    for folder, robust in ((study, (0.5, 0.7)), (other, (0.6, 0.8))):
        for number, value in enumerate(robust):
            paths = artifact_folders(folder.artifacts / f"{folder.name}-{number}")
            config = configured({"seed": number, "ipc": 5})
            folder.write(record(number, robust=value, config=config, paths=paths))
        deliver(folder)
    best = MlflowClient(study.tracking_uri).search_logged_models(
        ["1"], order_by=[{"field_name": "metrics.test/robust_accuracy", "ascending": False}]
    )
    assert [model.tags["guard.study"] for model in best] == ["other", "s", "other", "s"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", study.tracking_uri)
    mlflow.set_experiment("robust-distillation")
    ranked = mlflow.search_logged_models(  # as README has it
        filter_string="params.phase = 'search'",
        order_by=[{"field_name": "metrics.test/robust_accuracy", "ascending": False}],
    )
    assert list(ranked["model_id"]) == [model.model_id for model in best]
    first = best[0]
    assert first.params["attacks"] and float(first.params["eps"]) > 0
    assert first.name == "sre2l, IPC 5, curvature (λ = 0·1, h = 0·1) (1)"
    assert first.params["ipc"] == "5" and first.params["method"] == "sre2l"
    assert first.model_type == "student" and str(first.status) == "READY"
    on = {row.key: (row.dataset_name, row.dataset_digest) for row in first.metrics}
    real = configured().data
    assert on["test/robust_accuracy"] == ("digits", real.fingerprint()[:32])
    assert not [name for name in on if name.startswith(("teacher/", "student/", "seconds"))]


def test_the_distilled_set_is_what_the_data_say(
    study: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    (one,) = finished(study, 1)
    deliver(study)
    inputs = runs_of(study)["0"].inputs.dataset_inputs
    found = {own.dataset.name: own for own in inputs}
    assert set(found) == {"digits", "digits by sre2l, IPC 10"}
    made = found["digits by sre2l, IPC 10"]
    assert made.tags[0].value == "distilled" and found["digits"].tags[0].value == "real"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", study.tracking_uri)
    place = Path(mlflow.data.get_source(made.dataset).load())
    assert (place / "card.json").is_file()
    assert made.dataset.digest == digest(Path(one.paths["distilled"])) == "distilled"
    assert json.loads(found["digits"].dataset.source) == {"tags": {"source": "sklearn:digits"}}


@pytest.mark.parametrize("labels", ["budget", "soft"])
def test_the_two_lines_of_readme_load_a_real_set(
    labels: str, study: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrialConfig().override({**TINY, "student.labels": labels, "student.budget": 2})
    stage = TrialStages.of(config).distilled
    assert stage is not None
    (made,) = local_runner(ArtifactStore(study.artifacts))(stage)
    study.write(record(0, config=config, paths={"distilled": str(made.path)}))
    deliver(study)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", study.tracking_uri)
    run_id = runs_of(study)["0"].info.run_id
    folder = mlflow.artifacts.download_artifacts(f"runs:/{run_id}/distilled")
    loaded = DistilledSet.load(folder)
    assert torch.equal(loaded.images, DistilledSet.load(made.path).images)
    assert (loaded.portable is not None) == (labels != "soft")


def test_the_study_says_which_data_and_which_student(study: StudyFolder) -> None:
    paths = [artifact_folders(study.artifacts / str(number)) for number in range(3)]
    study.write(record(0, 0.9, 0.1, configured(control=True), paths=paths[0]))
    study.write(record(1, 0.89, 0.5, paths=paths[1]))
    study.write(record(2, 0.5, 0.9, configured({"regularizer.weight": 9}), paths=paths[2]))
    for _ in range(2):
        deliver(study)
        runs = runs_of(study)
        parent = runs["parent"]
        assert [own.dataset.name for own in parent.inputs.dataset_inputs] == ["digits"]
        made = [model.model_id for model in parent.outputs.model_outputs]
        assert made == [model.model_id for model in runs["1"].outputs.model_outputs]


def test_a_trial_that_must_not_be_chosen_says_why(study: StudyFolder) -> None:
    study.write(record(0, 0.9, 0.1, configured(control=True)))
    study.write(record(1, 0.89, 0.5))
    study.write(record(2, 0.5, 0.9, configured({"regularizer.weight": 9})))

    def said() -> dict[str, str]:
        return {label: run.data.tags.get(BARRED, "") for label, run in runs_of(study).items()}

    deliver(study)
    why = "loses 0.400 of its control's clean accuracy, 0.030 is allowed"
    assert said() == {"parent": "", "0": "", "1": "", "2": why}
    study.write(record(0, 0.5, 0.1, configured(control=True)))
    deliver(study)
    assert said() == dict.fromkeys(said(), ""), "its control has been run again"


def test_a_digest_is_of_the_images(tmp_path: Path) -> None:
    stage = TrialStages.of(configured()).distilled
    assert stage is not None

    def save(stage: Stage, store: ArtifactStore, folder: Path) -> dict[str, Any]:
        (folder / "images.safetensors").write_bytes(b"images")
        return {}

    place = ArtifactStore(tmp_path).get_or_build(stage, save).path
    assert digest(place) == hashlib.sha256(b"images").hexdigest()[:32]


def test_a_trial_that_has_no_student_has_none_in_mlflow(study: StudyFolder) -> None:
    study.write(record(0, config=configured(), status="failed"))
    study.write(record(1, config=configured({"method": "whole"}, control=True), paths={}))
    deliver(study)
    assert models_of(study) == {}
    runs = runs_of(study)
    assert [own.dataset.name for own in runs["0"].inputs.dataset_inputs] == ["digits"]
    assert [own.dataset.name for own in runs["1"].inputs.dataset_inputs] == ["digits"]


def test_a_large_set_stays_where_it_is(study: StudyFolder) -> None:
    (one,) = finished(study, 1)
    options = TrackingConfig(largest_set=0)
    Tracker(study, open_store(study.tracking_uri, study, options)).close([one])
    run = runs_of(study)["0"]
    names = artifacts(run, study.tracking_uri)
    assert names == {"config.json", "distilled/images.png", "distilled/card.json"}
    made = run.inputs.dataset_inputs[1].dataset
    assert json.loads(made.source) == {"uri": one.paths["distilled"]}
    note = run.data.tags["mlflow.note.content"]
    assert note == f"Distilled set: `{one.paths['distilled']}`."


def test_a_run_says_where_it_comes_from(study: StudyFolder) -> None:
    (one,) = finished(study, 1)
    Tracker(study, open_store(study.tracking_uri, study), "", "studies.sweep").close([one])
    for run in runs_of(study).values():
        tags = run.data.tags
        assert tags["mlflow.source.name"] == "studies.sweep" and tags["mlflow.source.type"]
        assert tags["guard.commit"].removesuffix("+") == tags["mlflow.source.git.commit"]
        is_dirty = tags["mlflow.source.git.dirty"] == "true"
        assert is_dirty == tags["guard.commit"].endswith("+")


def test_without_a_repository_there_is_no_commit(tmp_path: Path) -> None:
    assert provenance.source_tags("studies.sweep", "", tmp_path) == {
        "mlflow.source.name": "studies.sweep",
        "mlflow.source.type": "LOCAL",
    }
    assert provenance.source_tags("", "", tmp_path) == {}


def test_a_branch_is_named(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", "-b", "trunk", tmp_path], check=True)
    tags = provenance.source_tags("x", "abc+", tmp_path)
    assert tags["mlflow.source.git.branch"] == "trunk"
    assert tags["mlflow.source.git.commit"] == "abc"
    assert tags["mlflow.source.git.dirty"] == "true"


def test_an_experiment_of_ones_own_is_kept(study: StudyFolder) -> None:
    finished(study, 1)
    options = TrackingConfig(experiment="mine")
    Tracker(study, open_store(study.tracking_uri, study, options)).close(study.records())
    client = MlflowClient(study.tracking_uri)

    def names() -> dict[str, int]:
        found = client.search_experiments()
        return {e.name: len(client.search_runs([e.experiment_id])) for e in found}

    assert names() == {"Default": 0, "mine": 2}
    Tracker(study, open_store(study.tracking_uri, study)).close(study.records())
    assert names() == {"Default": 0, "mine": 2}
    back = TrackingConfig(experiment="robust-distillation")
    Tracker(study, open_store(study.tracking_uri, study, back)).close(study.records())
    assert names() == {"Default": 0, "mine": 2, "robust-distillation": 2}


def test_an_experiment_that_was_deleted_is_restored_and_said(study: StudyFolder) -> None:
    finished(study, 1)
    deliver(study)
    client = MlflowClient(study.tracking_uri)
    client.delete_experiment(runs_of(study)["parent"].info.experiment_id)
    opened = open_store(study.tracking_uri, study)
    assert opened.news == [
        "MLflow: the experiment robust-distillation was deleted and is restored; "
        "--set tracking.experiment=NAME takes another"
    ]
    assert open_store(study.tracking_uri, study).news == []


@pytest.mark.parametrize("name", [" x", "x" * 501])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="experiment: must have at most 500 characters"):
        TrackingConfig(experiment=name)
