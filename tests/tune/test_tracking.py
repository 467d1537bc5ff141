from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from builders import configured, record
from guard.errors import StudyError
from guard.trial import TrialConfig
from tune.results.folder import StudyFolder
from tune.tracking import EXPERIMENT, TRIAL, Tracker, check_tracking


def artifact_folders(root: Path) -> dict[str, str]:
    history = [{"epoch": e, "lr": 0.1, "loss": 2.0 - e, "accuracy": e / 2} for e in range(2)]
    for part in ("teacher", "student", "distilled"):
        (root / part).mkdir()
        summary = {"summary": {"history": history}}
        (root / part / "stage.json").write_text(json.dumps(summary))
    for name in ("images.png", "images.safetensors", "card.json"):
        (root / "distilled" / name).write_text("x")
    return {part: str(root / part) for part in ("teacher", "student", "distilled")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    """A study tracked in two sittings: trial 1 was interrupted and came back as trial 2."""
    root = tmp_path_factory.mktemp("tracking")
    folder = StudyFolder(root, "s")
    first, second = TrialConfig(), TrialConfig().override({"seed": 1})
    done = record(0, config=first, paths=artifact_folders(root))
    (folder.path).mkdir()
    (folder.path / "results.csv").write_text("trial\n0\n")

    tracker = Tracker(folder, folder.tracking_uri, note="a note")
    tracker.stage(0, first, {}, {"teacher/clean_accuracy": 0.8})
    tracker.finish(done)
    tracker.stage(1, second, {}, {"teacher/clean_accuracy": 0.7})
    tracker.close([done], "KILLED")
    assert tracker.errors == []

    again = Tracker(folder, folder.tracking_uri, note="a note")
    failed = record(3, config=configured({"seed": 2}), status="failed")
    again.finish(record(2, config=second))
    again.finish(failed)
    again.close([done, record(2, config=second), failed])
    assert again.errors == []
    return folder


@pytest.fixture(scope="module")
def runs(folder: StudyFolder) -> dict[str, Run]:
    client = MlflowClient(folder.tracking_uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    assert len({run.data.tags[TRIAL] for run in found}) == len(found)
    return {run.data.tags[TRIAL]: run for run in found}


def test_a_study_has_one_parent_and_one_child_a_trial(runs: dict[str, Run]) -> None:
    assert sorted(runs) == ["0", "2", "3", "parent"]
    parent = runs["parent"].info.run_id
    assert all(
        run.data.tags["mlflow.parentRunId"] == parent for t, run in runs.items() if t != "parent"
    )
    assert runs["parent"].data.tags["mlflow.note.content"] == "a note"


def test_an_interrupted_trials_run_goes_on_instead_of_a_second_one(runs: dict[str, Run]) -> None:
    assert runs["2"].data.metrics["teacher/clean_accuracy"] == 0.7
    assert runs["2"].data.metrics["validation/clean_accuracy"] == 0.9


def test_statuses_are_true(runs: dict[str, Run]) -> None:
    statuses = {trial: run.info.status for trial, run in runs.items()}
    assert statuses == {"0": "FINISHED", "2": "FINISHED", "3": "FAILED", "parent": "FINISHED"}
    assert runs["3"].data.tags["guard.status"] == "failed"


def test_parameters_are_the_flat_config_and_metrics_numbers(runs: dict[str, Run]) -> None:
    params = runs["0"].data.params
    assert params == {path: str(value) for path, value in TrialConfig().flat().items()}
    assert record().metrics.items() <= runs["0"].data.metrics.items()


def test_a_run_is_named_by_its_configuration(runs: dict[str, Run]) -> None:
    assert runs["0"].info.run_name == "sre2l, IPC 10, curvature (λ = 0.1, h = 0.1)"


def test_the_parent_has_the_best_of_the_search(runs: dict[str, Run]) -> None:
    assert runs["parent"].data.metrics == {
        "best/validation/clean_accuracy": 0.9,
        "best/validation/robust_accuracy": 0.4,
        "num_trials": 3,
    }


def test_curves_are_logged_by_epoch(folder: StudyFolder, runs: dict[str, Run]) -> None:
    client = MlflowClient(folder.tracking_uri)
    history = client.get_metric_history(runs["0"].info.run_id, "teacher/epoch_loss")
    assert [(point.step, point.value) for point in history] == [(0, 2.0), (1, 1.0)]


def test_tags_name_fingerprint_seed_commit_and_versions(runs: dict[str, Run]) -> None:
    tags = runs["0"].data.tags
    assert tags["guard.fingerprint"] == TrialConfig().fingerprint()
    assert tags["seed"] == "0"
    assert {"version.torch", "version.ray", "guard.commit"} <= tags.keys()


def test_the_distilled_set_and_the_tables_are_artifacts(
    folder: StudyFolder, runs: dict[str, Run]
) -> None:
    client = MlflowClient(folder.tracking_uri)
    files = {file.path for file in client.list_artifacts(runs["0"].info.run_id, "distilled")}
    assert files == {f"distilled/{n}" for n in ("images.png", "images.safetensors", "card.json")}
    tables = {file.path for file in client.list_artifacts(runs["parent"].info.run_id)}
    assert tables == {"results.csv"}
    assert (folder.output / "mlflow").is_dir()


def test_a_tracker_that_cannot_write_raises_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    tracker = Tracker(StudyFolder(tmp_path, "s"), f"sqlite:///{tmp_path}/file/mlflow.db")
    tracker.stage(0, TrialConfig(), {}, {"a": 1.0})
    tracker.finish(record(0))
    tracker.close([])
    assert tracker.errors


def test_closing_adds_what_was_not_finished_and_leaves_the_rest(
    folder: StudyFolder, runs: dict[str, Run]
) -> None:
    late = TrialConfig().override({"seed": 9})
    tracker = Tracker(folder, folder.tracking_uri)
    tracker.stage(7, late, {}, {"teacher/clean_accuracy": 0.6})
    tracker.close([record(0, metrics={"new": 1.0}), record(7, config=late)])
    assert tracker.errors == []
    client = MlflowClient(folder.tracking_uri)
    found = client.search_runs([runs["0"].info.experiment_id])
    now = {run.data.tags[TRIAL]: run for run in found}
    assert now["7"].info.status == "FINISHED"
    assert now["7"].data.metrics["validation/clean_accuracy"] == 0.9
    assert now["0"].data.metrics == runs["0"].data.metrics


@pytest.fixture
def silent_server() -> Iterator[str]:
    """A server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_server_that_does_not_answer_is_refused_soon(
    silent_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tune.tracking.SERVER_TIMEOUT_S", 0.2)
    with pytest.raises(StudyError, match="does not answer"):
        check_tracking(silent_server)


def test_a_uri_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="must be sqlite"):
        check_tracking("mlruns")
    with pytest.raises(StudyError, match="cannot write"):
        check_tracking(f"sqlite:///{tmp_path}/none/mlflow.db")
    check_tracking(f"sqlite:///{tmp_path}/mlflow.db")
