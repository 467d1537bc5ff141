"""What MLflow has of a study that was told of its trials in two sittings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import mlflow
import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from tracked import artifact_folders, artifacts, deliver, runs_of, wait_for

from builders import configured, record
from guard.trial import TrialConfig, methods
from studies.presets import PRESETS
from tune.results.folder import StudyFolder
from tune.results.wording import title
from tune.tracking.opening import open_store
from tune.tracking.tracker import Tracker
from tune.tracking.wanted import params_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> StudyFolder:
    """Trial 1 was interrupted and came back as trial 2."""
    folder = StudyFolder(tmp_path_factory.mktemp("tracking"), "s")
    folder.path.mkdir()
    shutil.copy(empty_database, folder.output / "mlflow.db")
    second = configured({"seed": 1})
    done = record(0, paths=artifact_folders(folder.artifacts), seconds=2.0)
    (folder.path / "results.csv").write_text("trial\n0\n")

    tracker = Tracker(folder, open_store(folder.tracking_uri, folder), "a note")
    tracker.start()
    tracker.stage(0, configured(), {}, {"teacher/clean_accuracy": 0.8})
    folder.write(done)
    tracker.finish(done)
    tracker.stage(1, second, {}, {"teacher/clean_accuracy": 0.7}, seconds=100.0)
    tracker.close([done], "KILLED")
    assert tracker.trouble == ""
    assert runs_of(folder)["1"].info.status == "KILLED"

    again = Tracker(folder, open_store(folder.tracking_uri, folder), "a note")
    later = [record(2, config=second), record(3, config=configured({"seed": 2}), status="failed")]
    for one in later:
        folder.write(one)
        again.finish(one)
        wait_for(again)  # what is in the folder when it first looks has one step together
    again.close([done, *later], answer="It is so.")
    assert again.trouble == ""
    return folder


@pytest.fixture(scope="module")
def runs(folder: StudyFolder) -> dict[str, Run]:
    return runs_of(folder)


def test_a_study_has_one_parent_and_one_child_a_trial(runs: dict[str, Run]) -> None:
    assert sorted(runs) == ["0", "2", "3", "parent"]
    parent = runs["parent"].info.run_id
    children = [run for label, run in runs.items() if label != "parent"]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent}
    note = runs["parent"].data.tags["mlflow.note.content"]
    assert note.startswith("[Its trials with charts](#/experiments/")
    assert note.endswith(")\n\nIt is so.\n\na note")
    assert runs["parent"].info.run_name == "study s"


def test_an_interrupted_trials_run_goes_on_instead_of_a_second_one(runs: dict[str, Run]) -> None:
    assert runs["2"].data.metrics["teacher/clean_accuracy"] == 0.7
    assert runs["2"].data.metrics["validation/clean_accuracy"] == 0.9


def test_statuses_are_true(runs: dict[str, Run]) -> None:
    statuses = {trial: run.info.status for trial, run in runs.items()}
    assert statuses == {"0": "FINISHED", "2": "FINISHED", "3": "FAILED", "parent": "FINISHED"}
    assert runs["3"].data.tags["guard.status"] == "failed"


def test_a_run_lasts_as_long_as_its_trial(runs: dict[str, Run]) -> None:
    info = runs["0"].info
    assert info.end_time - info.start_time == 2000


def test_metrics_are_the_records_numbers(runs: dict[str, Run]) -> None:
    assert record().metrics.items() <= runs["0"].data.metrics.items()


def test_parameters_are_what_the_trial_reads(folder: StudyFolder, runs: dict[str, Run]) -> None:
    params, flat = runs["0"].data.params, configured().stated()
    assert params.items() <= {path: str(value) for path, value in flat.items()}.items()
    assert {"regularizer.h", "sre2l.lr", "squeeze.epochs", "student.train.lr"} <= params.keys()
    assert not [path for path in params if path.startswith(("cda.", "mtt.", "dc."))]
    unset = {path for path, value in flat.items() if value is None}
    own = ("data", "model", "regularizer", "squeeze", "sre2l", "student", "evaluation", "compute")
    read = {path for path in flat if path.partition(".")[0] in own or "." not in path}
    used = configured().regularizer.fields_used() | {"kind"}
    unread = {p for p in read if p.startswith("regularizer.") and p.partition(".")[2] not in used}
    assert params.keys() == read - unset - unread
    assert {"regularizer.h", "regularizer.weight"} <= params.keys() and unread
    client = MlflowClient(folder.tracking_uri)
    whole = client.download_artifacts(runs["0"].info.run_id, "config.json")
    assert TrialConfig.from_json(Path(whole).read_text()) == configured()


@pytest.mark.parametrize("preset", PRESETS)
def test_parameters_fit_into_one_request(preset: str) -> None:
    config = PRESETS[preset]().config.unregularized()
    counts = {name: len(params_of(config.override({"method": name}))) for name in methods()}
    assert 40 < min(counts.values()) and max(counts.values()) <= 100


def test_the_searchs_own_parameters_come_first() -> None:
    own = ["regularizer.h", "ipc", "regularizer", "sre2l.lr"]
    assert list(params_of(configured(), own))[:3] == ["regularizer.h", "ipc", "sre2l.lr"]
    assert set(params_of(configured(), own)) == set(params_of(configured()))


def test_a_trial_without_a_penalty_reads_nothing_of_one() -> None:
    params = params_of(configured(control=True))
    assert [path for path in params if path.startswith("regularizer.")] == ["regularizer.kind"]


def test_soft_labels_read_the_teachers_training() -> None:
    hard = configured({"method": "dc", "student.labels": "hard"})
    assert "squeeze.epochs" not in params_of(hard)
    assert "squeeze.epochs" in params_of(hard.override({"student.labels": "soft"}))


def test_a_run_is_named_by_its_configuration(runs: dict[str, Run]) -> None:
    assert runs["0"].info.run_name == "sre2l, IPC 10, curvature (λ = 0.1, h = 0.1)"
    assert runs["2"].info.run_name == title(configured({"seed": 1}))


def test_the_parents_metrics_grow_by_step(folder: StudyFolder, runs: dict[str, Run]) -> None:
    assert runs["parent"].data.metrics == {
        "trials/complete": 2,
        "trials/diverged": 0,
        "trials/stopped": 0,
        "trials/failed": 1,
        "num_trials": 3,
        "stage_seconds": 0,
        "hypervolume": pytest.approx(0.36),
    }
    client, run_id = MlflowClient(folder.tracking_uri), runs["parent"].info.run_id
    history = client.get_metric_history(run_id, "trials/complete")
    assert [(point.step, point.value) for point in history] == [(1, 1), (2, 2), (3, 2)]


def test_curves_are_logged_by_epoch(folder: StudyFolder, runs: dict[str, Run]) -> None:
    client = MlflowClient(folder.tracking_uri)
    history = client.get_metric_history(runs["0"].info.run_id, "teacher/epoch_loss")
    assert [(point.step, point.value) for point in history] == [(0, 2.0), (1, 1.0)]


def test_tags_name_fingerprint_seed_commit_and_versions(runs: dict[str, Run]) -> None:
    tags = runs["0"].data.tags
    assert tags["guard.fingerprint"] == configured().fingerprint()
    assert tags["seed"] == "0" and tags["guard.study"] == "s"
    assert {"version.torch", "version.ray", "guard.commit"} <= tags.keys()
    assert all(tags.values())


def test_the_distilled_set_and_the_tables_are_artifacts(
    folder: StudyFolder, runs: dict[str, Run]
) -> None:
    distilled = {f"distilled/{n}" for n in ("images.png", "images.safetensors", "card.json")}
    assert artifacts(runs["0"], folder.tracking_uri) == {"config.json", *distilled}
    assert artifacts(runs["parent"], folder.tracking_uri) == {"results.csv"}
    assert (folder.output / "mlflow").is_dir()


def test_a_run_says_how_its_set_is_had(
    folder: StudyFolder, runs: dict[str, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lines of the note, as the README has them."""
    run = runs["0"]
    note = run.data.tags["mlflow.note.content"]
    lines = note.split("```python\n")[1].split("\n```")[0].splitlines()
    assert len(lines) == 2 and f"runs:/{run.info.run_id}/distilled" in lines[0]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", folder.tracking_uri)
    loaded: list[str] = []
    guard = SimpleNamespace(DistilledSet=SimpleNamespace(load=loaded.append))
    exec("\n".join(lines), {"mlflow": mlflow, "guard": guard})
    assert {path.name for path in Path(loaded[0]).iterdir()} == {
        "images.png",
        "images.safetensors",
        "card.json",
    }
    assert runs["3"].data.tags["mlflow.note.content"] == "**failed**: why"


def test_the_card_says_how_good_the_teacher_is(study: StudyFolder) -> None:
    paths, found = artifact_folders(study.artifacts), {"clean": 0.9, "robust": 0.5}
    metrics = {f"teacher/{name}_accuracy": value for name, value in found.items()}
    metrics["teacher/num_samples"] = 7.0
    study.write(record(0, paths=paths, metrics=metrics))
    deliver(study)
    client, run = MlflowClient(study.tracking_uri), runs_of(study)["0"].info
    card = json.loads(
        Path(client.download_artifacts(run.run_id, "distilled/card.json")).read_text()
    )
    assert card["method"] == "sre2l" and card["teacher"]["num_samples"] == 7
    assert {name: card["teacher"][f"{name}_accuracy"] for name in found} == found
