"""Studies that are tracked, and runs as MLflow has them."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from mlflow.entities import LoggedModel, Run
from mlflow.tracking import MlflowClient

from builders import configured, record
from tune.results.folder import StudyFolder
from tune.results.records import Record
from tune.tracking.identity import EXPERIMENT
from tune.tracking.opening import open_store
from tune.tracking.tracker import Tracker
from tune.tracking.wanted import TRIAL


def artifact_folders(root: Path) -> dict[str, str]:
    """What the stages of a trial leave, as far as MLflow gets it."""
    history = [{"epoch": e, "lr": 0.1, "loss": 2.0 - e, "accuracy": e / 2} for e in range(2)]
    for part in ("teacher", "student", "distilled"):
        (root / part).mkdir(parents=True, exist_ok=True)
        summary = {"summary": {"history": history}}
        (root / part / "stage.json").write_text(json.dumps(summary))
    for name in ("images.png", "images.safetensors", "card.json"):
        (root / "distilled" / name).write_text('{"method": "sre2l"}')
    return {part: str(root / part) for part in ("teacher", "student", "distilled")}


def finished(folder: StudyFolder, count: int = 2) -> list[Record]:
    """Trials with records and artifacts, in the folder."""
    records = []
    for number in range(count):
        paths = artifact_folders(folder.artifacts / f"{folder.name}-{number}")
        config = configured({"seed": number})
        records.append(record(number, config=config, paths=paths, seconds=2.0))
        folder.write(records[-1])
    return records


def deliver(folder: StudyFolder, uri: str = "", name: str = "") -> Tracker:
    """What a command does for a study whose trials are finished."""
    tracker = Tracker(folder, open_store(uri or folder.tracking_uri, folder), "note")
    tracker.close(folder.records())
    return tracker


def wait_for(tracker: Tracker) -> None:
    """Until MLflow has every trial that the tracker was told of."""
    while tracker.backlog:
        time.sleep(0.01)


def runs_of(folder: StudyFolder, uri: str = "") -> dict[str, Run]:
    """Of the lab's experiment, by label; each label once."""
    client = MlflowClient(uri or folder.tracking_uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None and experiment.lifecycle_stage == "active"
    found = client.search_runs([experiment.experiment_id])
    assert len({run.data.tags[TRIAL] for run in found}) == len(found)
    return {run.data.tags[TRIAL]: run for run in found}


def artifacts(run: Run, uri: str) -> set[str]:
    client, run_id = MlflowClient(uri), run.info.run_id
    top = client.list_artifacts(run_id)
    folders = [file.path for file in top if file.is_dir]
    inside = [file for path in folders for file in client.list_artifacts(run_id, path)]
    return {file.path for file in [*top, *inside] if not file.is_dir}


def content(folder: StudyFolder, uri: str = "") -> dict[str, Any]:
    """All that MLflow says of a study, but for times, and for identities that are made anew."""
    place = uri or folder.tracking_uri
    client, found = MlflowClient(place), runs_of(folder, place)
    parent = found["parent"].info.run_id
    models = models_of(folder, place)
    said = {}
    for label, run in found.items():
        tags = {
            k: re.sub("Key=[0-9a-f]{32}", "Key=…", v.replace(run.info.run_id, "…"))
            for k, v in run.data.tags.items()
            if k != "guard.id"
        }
        assert tags.pop("mlflow.parentRunId", parent) == parent
        rows = {
            name: [(p.step, p.value) for p in client.get_metric_history(run.info.run_id, name)]
            for name in run.data.metrics
        }
        said[label] = {
            "status": run.info.status,
            "name": run.info.run_name,
            "rows": rows,
            "params": run.data.params,
            "tags": tags,
            "files": artifacts(run, place),
            "images": images_of(run),
            "student": student_of(run, models),
        }
    return said


def models_of(folder: StudyFolder, uri: str = "") -> dict[str, LoggedModel]:
    """Every student in the lab's experiment, by the run that it is of; each run once."""
    client = MlflowClient(uri or folder.tracking_uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    found = client.search_logged_models([experiment.experiment_id], max_results=1000)
    assert len({model.source_run_id for model in found}) == len(found)
    return {str(model.source_run_id): model for model in found}


def images_of(run: Run) -> dict[str, Any]:
    """Digest, and where they are, of a run's data by name and by what they are to it."""
    return {
        f"{own.dataset.name} ({tag.value})": (
            own.dataset.digest,
            re.sub("runs:/[0-9a-f]{32}", "runs:/…", own.dataset.source),
        )
        for own in run.inputs.dataset_inputs
        for tag in own.tags
        if tag.key == "mlflow.data.context"
    }


def student_of(run: Run, models: dict[str, LoggedModel]) -> Any:
    """What is said of a run's student; None without one."""
    model = models.get(run.info.run_id)
    linked = [output.model_id for output in run.outputs.model_outputs]
    if model is None:
        assert linked == []
        return None
    assert linked.count(model.model_id) == (run.info.status == "FINISHED")
    rows = model.metrics or []
    metrics = {(row.key, row.value, row.dataset_name, row.dataset_digest) for row in rows}
    assert len(metrics) == len(rows)
    tags = {k: v for k, v in model.tags.items() if k not in ("guard.id", "mlflow.parentRunId")}
    return model.name, str(model.status), model.params, tags, metrics


def change(folder: StudyFolder, *statements: str) -> None:
    """Change the output's database behind MLflow's back."""
    with closing(sqlite3.connect(folder.output / "mlflow.db")) as database, database:
        for statement in statements:
            database.execute(statement)


def rows(folder: StudyFolder, table: str) -> int:
    with closing(sqlite3.connect(folder.output / "mlflow.db")) as database:
        return int(database.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
