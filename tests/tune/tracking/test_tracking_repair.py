"""The same command makes MLflow right again, whatever has become of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from tracked import artifact_folders, change, content, deliver, finished, models_of, rows, runs_of

from builders import configured, record
from tune.results.folder import StudyFolder
from tune.tracking.opening import open_store
from tune.tracking.tracker import Tracker

Wreck = Callable[[StudyFolder, str], None]
"""Done to the run of a label."""
EVERYTHING = ("metrics", "latest_metrics", "params", "tags")


def of(label: str) -> str:
    return f"(SELECT run_uuid FROM tags WHERE key = 'guard.trial' AND value = '{label}')"


OF_A_RUN = {"inputs": "destination_id", "logged_model_metrics": "run_id"}


def without(condition: str = "1", *tables: str) -> Wreck:
    def remove(folder: StudyFolder, label: str) -> None:
        for table in tables:
            run = OF_A_RUN.get(table, "run_uuid")
            change(folder, f"DELETE FROM {table} WHERE {run} IN {of(label)} AND {condition}")

    return remove


def with_status(status: str) -> Wreck:
    return lambda folder, label: change(
        folder, f"UPDATE runs SET status = '{status}' WHERE run_uuid IN {of(label)}"
    )


def gone(folder: StudyFolder, label: str) -> None:
    """As `mlflow gc` leaves it, or a delivery that never began."""
    run_id = runs_of(folder)[label].info.run_id
    tables = (*EVERYTHING, "runs")
    change(folder, *(f"DELETE FROM {table} WHERE run_uuid = '{run_id}'" for table in tables))


def artifact(folder: StudyFolder, label: str, name: str) -> Path:
    run_id = runs_of(folder)[label].info.run_id
    return folder.output / "mlflow" / run_id / "artifacts" / name


def deleted(folder: StudyFolder, label: str) -> None:
    """In the UI."""
    MlflowClient(folder.tracking_uri).delete_run(runs_of(folder)[label].info.run_id)


def doubled(folder: StudyFolder, label: str) -> None:
    """By a call that was carried out, though its answer was lost."""
    run = runs_of(folder)[label]
    client = MlflowClient(folder.tracking_uri)
    client.create_run(run.info.experiment_id, tags=dict(run.data.tags), run_name=run.info.run_name)


def student(folder: StudyFolder, label: str) -> str:
    return models_of(folder)[runs_of(folder)[label].info.run_id].model_id


def without_student(folder: StudyFolder, label: str) -> None:
    """Deleted in the UI."""
    MlflowClient(folder.tracking_uri).delete_logged_model(student(folder, label))


def with_two_students(folder: StudyFolder, label: str) -> None:
    """By a call that was carried out, though its answer was lost."""
    run, own = runs_of(folder)[label].info, models_of(folder)
    made = own[run.run_id]
    MlflowClient(folder.tracking_uri).create_logged_model(
        run.experiment_id, made.name, run.run_id, made.tags, made.params, made.model_type
    )


BOTH = ("metrics", "latest_metrics")
OF_A_TRIAL: tuple[Wreck, ...] = (
    gone,
    deleted,
    without("1", *BOTH),
    without("key LIKE 'test/%'", *BOTH),
    without("key = 'student/epoch_lr'", *BOTH),
    without("1", "params"),
    without("key = 'ipc'", "params"),
    without("key IN ('guard.status', 'seed', 'guard.flags')", "tags"),
    with_status("RUNNING"),
    with_status("KILLED"),
    lambda folder, label: artifact(folder, label, "distilled/images.png").unlink(),
    lambda folder, label: artifact(folder, label, "config.json").write_text("{") and None,
    without("source_type = 'DATASET'", "inputs"),
    without("1", "logged_model_metrics"),
    lambda folder, label: MlflowClient(folder.tracking_uri).delete_logged_model(
        student(folder, label)
    ),
    lambda folder, label: change(
        folder, f"UPDATE logged_models SET status = 1 WHERE model_id = '{student(folder, label)}'"
    ),
    lambda folder, label: change(
        folder,
        f"DELETE FROM logged_model_tags WHERE model_id = '{student(folder, label)}' "
        "AND tag_key = 'guard.fingerprint'",
    ),
    lambda folder, label: change(
        folder, f"DELETE FROM inputs WHERE destination_id = '{student(folder, label)}'"
    ),
    with_two_students,
    doubled,
)


def test_the_same_command_repairs_what_has_become_of_a_trials_run(study: StudyFolder) -> None:
    finished(study, 1 + len(OF_A_TRIAL))
    assert deliver(study).trouble == ""
    whole, count = content(study), rows(study, "metrics")
    assert len(whole["0"]["files"]) == 4 and len(whole) == 2 + len(OF_A_TRIAL)
    for number, wreck in enumerate(OF_A_TRIAL):
        wreck(study, str(number))
    assert deliver(study).trouble == ""
    found = content(study)
    assert {label: found[label] for label in whole} == whole
    assert rows(study, "metrics") == count


def deleted_experiment(folder: StudyFolder, label: str) -> None:
    """In the UI."""
    client = MlflowClient(folder.tracking_uri)
    client.delete_experiment(runs_of(folder)[label].info.experiment_id)


OF_A_STUDY: dict[str, Wreck] = {
    "gone": gone,
    "deleted": deleted,
    "left running": with_status("RUNNING"),
    "unknown to its children": lambda folder, label: change(
        folder, "UPDATE tags SET value = 'x' WHERE key = 'mlflow.parentRunId'"
    ),
    "without any artifacts": lambda folder, label: shutil.rmtree(folder.output / "mlflow"),
    "with its experiment deleted": deleted_experiment,
}


@pytest.mark.parametrize("wreck", OF_A_STUDY.values(), ids=OF_A_STUDY)
def test_the_same_command_repairs_what_has_become_of_a_studys_run(
    study: StudyFolder, wreck: Wreck
) -> None:
    finished(study)
    deliver(study)
    whole, count = content(study), rows(study, "metrics")
    wreck(study, "parent")
    assert deliver(study).trouble == ""
    assert content(study) == whole
    assert rows(study, "metrics") == count


def test_what_is_whole_is_left_alone(study: StudyFolder) -> None:
    finished(study)
    deliver(study)
    whole, counts = content(study), [rows(study, table) for table in EVERYTHING]
    deliver(study)
    assert content(study) == whole
    assert [rows(study, table) for table in EVERYTHING] == counts


def test_the_same_command_writes_all_of_it_anew(study: StudyFolder, empty_database: Path) -> None:
    finished(study)
    deliver(study)
    whole = content(study)
    shutil.copy(empty_database, study.output / "mlflow.db")
    deliver(study)
    assert content(study) == whole
    shutil.copy(empty_database, study.output.parent / "other.db")
    uri = f"sqlite:///{study.output.parent}/other.db"
    deliver(study, uri)
    assert content(study, uri) == whole


def test_what_has_become_other_is_written_over(study: StudyFolder) -> None:
    records = finished(study)
    deliver(study)
    values = {**records[0].metrics, "test/robust_accuracy": 0.25}
    study.write(record(0, config=configured({"seed": 0}), metrics=values, reason="read again"))
    deliver(study)
    run = runs_of(study)["0"]
    assert run.data.metrics["test/robust_accuracy"] == 0.25
    assert run.data.tags["guard.reason"] == "read again"
    before = rows(study, "metrics")
    deliver(study)
    assert rows(study, "metrics") == before


def test_an_interrupted_study_is_said_to_be(study: StudyFolder) -> None:
    records = finished(study, 1)
    tracker = Tracker(study, open_store(study.tracking_uri, study), "note")
    tracker.start()
    tracker.stage(1, configured({"seed": 5}), {}, {"a": 1.0})
    tracker.close(records, "KILLED")
    runs = runs_of(study)
    assert {label: run.info.status for label, run in runs.items()} == {
        "0": "FINISHED",
        "1": "KILLED",
        "parent": "KILLED",
    }
    deliver(study)
    assert runs_of(study)["parent"].info.status == "FINISHED"


def test_a_trial_without_its_artifacts_is_delivered_all_the_same(study: StudyFolder) -> None:
    paths = artifact_folders(study.artifacts)
    (study.artifacts / "teacher" / "stage.json").write_text("{")
    shutil.rmtree(study.artifacts / "distilled")
    study.write(record(0, config=configured(), paths=paths))
    assert deliver(study).trouble == ""
    said = content(study)["0"]
    assert said["files"] == {"config.json"}
    assert "student/epoch_loss" in said["rows"] and "teacher/epoch_loss" not in said["rows"]
