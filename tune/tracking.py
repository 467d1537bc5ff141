"""MLflow, on the driver only: one parent run a study, one child run a trial.

Every call goes through one background thread, so one writer touches the database, a slow server
does not slow a study, and an error never reaches a trial. Runs are found by tag, so a study that
goes on writes no second run for a trial.
"""

from __future__ import annotations

import http.client
import json
import os
import queue
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from guard.errors import StudyError
from guard.trial import TrialConfig
from tune.commit import lab_commit
from tune.results import wording
from tune.results.folder import StudyFolder
from tune.results.front import pareto_front
from tune.results.records import OBJECTIVES, Record

EXPERIMENT = "robust-distillation"
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""The UI opens on the table of training runs."""
STUDY, TRIAL, FINGERPRINT = "guard.study", "guard.trial", "guard.fingerprint"
STATUS = "guard.status"
PARENT, NOTE = "mlflow.parentRunId", "mlflow.note.content"
SERVER_TIMEOUT_S = 5.0
CLOSE_TIMEOUT_S = 60.0
MAX_PARAM_LENGTH = 500
STUDY_FILES = ("*.csv", "*.md", "*.png", "*.html", "best.json")
"""What of a study's folder the parent run has."""
PACKAGES = ("torch", "torchvision", "torchattacks", "ray", "optuna", "mlflow", "numpy")


def check_tracking(uri: str) -> None:
    """Raises StudyError if a tracking URI is none, if its http(s) server does not answer within 5
    seconds, or if its SQLite file cannot be written."""
    if uri.startswith(("http://", "https://")):
        try:
            urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=SERVER_TIMEOUT_S).close()
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise StudyError(f"--tracking-uri: {uri} does not answer ({reason})") from None
    elif uri.startswith("sqlite:///"):
        file = Path(uri.removeprefix("sqlite:///"))
        place = file if file.exists() else file.parent
        if not os.access(place, os.W_OK):
            raise StudyError(f"--tracking-uri: cannot write {file}")
    elif "://" not in uri:
        raise StudyError(f"--tracking-uri: must be sqlite:///FILE or http(s)://…, got {uri!r}")


@dataclass
class Tracker:
    """Writes a study to MLflow. `close` it to wait for what is queued."""

    folder: StudyFolder
    uri: str
    note: str = ""
    errors: list[str] = field(default_factory=list)
    """One line for each call that failed."""

    def __post_init__(self) -> None:
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._runs: dict[str, str] = {}
        self._tags = {f"version.{name}": version(name) for name in PACKAGES}
        self._tags["guard.commit"] = lab_commit()
        self._thread = threading.Thread(target=self._work, daemon=True, name="mlflow")
        self._thread.start()
        self._queue.put(self._open)

    def stage(
        self,
        number: int,
        config: TrialConfig,
        params: Mapping[str, Any],
        metrics: Mapping[str, float],
    ) -> None:
        """Metrics of one heading of a running trial."""
        self._queue.put(lambda: self._log_metrics(self._run(str(number), config, params), metrics))

    def finish(self, record: Record) -> None:
        """Everything about a finished trial."""
        self._queue.put(lambda: self._finish(record))

    def close(self, records: list[Record], status: str = "FINISHED", answer: str = "") -> None:
        """Complete the parent run, add runs that are missing, and wait (a bounded time). The
        answer goes before the study's note."""
        if answer:
            self.note = f"{answer}\n\n{self.note}"
        self._queue.put(lambda: self._close(records, status))
        self._queue.put(None)
        self._thread.join(CLOSE_TIMEOUT_S)
        if self._thread.is_alive():
            self.errors.append(f"gave up after {CLOSE_TIMEOUT_S:g} s with calls still queued")

    def _work(self) -> None:
        while (call := self._queue.get()) is not None:
            try:
                call()
            except Exception as error:  # a tracking failure never fails a trial
                self.errors.append(f"{type(error).__name__}: {str(error).strip().splitlines()[0]}")

    def _open(self) -> None:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(tracking_uri=self.uri)
        experiment = self._client.get_experiment_by_name(EXPERIMENT)
        local = self.uri.startswith("sqlite:")
        place = (self.folder.output / "mlflow").as_uri() if local else None
        self._experiment = (
            experiment.experiment_id
            if experiment
            else self._client.create_experiment(EXPERIMENT, place, EXPERIMENT_TAGS)
        )
        self._parent = self._find({STUDY: self.folder.name, TRIAL: "parent"}) or self._create(
            f"study {self.folder.name}", {TRIAL: "parent", NOTE: self.note}
        )
        self._client.update_run(self._parent, status="RUNNING")

    def _find(self, tags: Mapping[str, str]) -> str | None:
        query = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
        found = self._client.search_runs([self._experiment], query, max_results=1)
        return found[0].info.run_id if found else None

    def _create(self, name: str, tags: Mapping[str, str], start: int | None = None) -> str:
        every = {**self._tags, STUDY: self.folder.name, **tags}
        run = self._client.create_run(self._experiment, start, every, name)
        run_id: str = run.info.run_id
        return run_id

    def _run(
        self, label: str, config: TrialConfig, params: Mapping[str, Any], seconds: float = 0
    ) -> str:
        """The child run of a trial: known, found by tag, or new, begun so many seconds ago."""
        if label not in self._runs:
            fingerprint = config.fingerprint()
            self._runs[label] = (
                self._find({STUDY: self.folder.name, TRIAL: label})
                or self._interrupted(fingerprint)
                or self._create_child(config, params, seconds)
            )
            self._client.set_tag(self._runs[label], TRIAL, label)
        return self._runs[label]

    def _interrupted(self, fingerprint: str) -> str | None:
        """An unfinished run of the same config, which the study left when it was stopped."""
        query = f"tags.`{STUDY}` = '{self.folder.name}' and tags.`{FINGERPRINT}` = '{fingerprint}'"
        for run in self._client.search_runs([self._experiment], query):
            run_id: str = run.info.run_id
            if run.info.status != "FINISHED" and run_id not in self._runs.values():
                return run_id
        return None

    def _create_child(self, config: TrialConfig, params: Mapping[str, Any], seconds: float) -> str:
        from mlflow.entities import Param

        tags = {PARENT: self._parent, FINGERPRINT: config.fingerprint(), "seed": str(config.seed)}
        run_id = self._create(
            wording.title(config, params), tags, _milliseconds() - round(1000 * seconds)
        )
        fields = [Param(k, str(v)[:MAX_PARAM_LENGTH]) for k, v in config.flat().items()]
        self._client.log_batch(run_id, params=fields)
        return run_id

    def _log_metrics(self, run_id: str, metrics: Mapping[str, float], step: int = 0) -> None:
        from mlflow.entities import Metric

        now = _milliseconds()
        rows = [Metric(name, value, now, step) for name, value in metrics.items()]
        self._client.log_batch(run_id, metrics=rows)

    def _finish(self, record: Record) -> None:
        config = TrialConfig.from_dict(record.config)
        run_id = self._run(record.label, config, record.params, record.seconds)
        seconds = {"seconds": record.seconds, "stage_seconds": record.stage_seconds}
        self._log_metrics(run_id, {**record.metrics, **seconds} if record.finished else {})
        for part in ("teacher", "student"):
            self._log_history(run_id, part, record.paths.get(part))
        self._client.log_text(run_id, config.to_json(), "config.json")
        if "distilled" in record.paths:
            for name in ("images.png", "images.safetensors", "card.json"):
                self._client.log_artifact(
                    run_id, str(Path(record.paths["distilled"]) / name), "distilled"
                )
        tags = {
            STATUS: record.status,
            "guard.reason": record.reason,
            "guard.phase": record.phase,
            "guard.flags": "; ".join(record.flags),
        }
        for tag, value in tags.items():
            self._client.set_tag(run_id, tag, value[:MAX_PARAM_LENGTH])
        self._client.set_terminated(run_id, "FINISHED" if record.finished else "FAILED")

    def _log_history(self, run_id: str, part: str, path: str | None) -> None:
        """Curves over epochs of a stage that trained."""
        from mlflow.entities import Metric

        if path is None:
            return
        history = json.loads((Path(path) / "stage.json").read_text(encoding="utf-8"))["summary"][
            "history"
        ]
        now = _milliseconds()
        names = ("loss", "accuracy", "lr")
        rows = [
            Metric(f"{part}/epoch_{name}", float(epoch[name]), now, epoch["epoch"])
            for epoch in history
            for name in names
        ]
        for first in range(0, len(rows), 1000):
            self._client.log_batch(run_id, metrics=rows[first : first + 1000])

    def _settled(self) -> set[str]:
        """Trials of the study whose runs say how they ended."""
        settled: set[str] = set()
        query, token = f"tags.`{STUDY}` = '{self.folder.name}' and tags.`{STATUS}` != ''", None
        while True:
            page = self._client.search_runs([self._experiment], query, page_token=token)
            settled |= {run.data.tags[TRIAL] for run in page}
            token = page.token
            if not token:
                return settled

    def _close(self, records: list[Record], status: str) -> None:
        self._client.set_tag(self._parent, NOTE, self.note)
        settled = self._settled()
        for record in records:
            if record.label not in settled:
                self._finish(record)
        for file in sorted(f for pattern in STUDY_FILES for f in self.folder.path.glob(pattern)):
            self._client.log_artifact(self._parent, str(file))
        search = [record for record in records if record.is_search]
        best = _best(pareto_front(search))
        self._log_metrics(self._parent, {**best, "num_trials": float(len(search))})
        query = f"tags.`{STUDY}` = '{self.folder.name}' and attributes.status = 'RUNNING'"
        for run in self._client.search_runs([self._experiment], query):
            if run.info.run_id != self._parent:
                self._client.set_terminated(run.info.run_id, "KILLED")
        self._client.set_terminated(self._parent, status)


def _best(front: list[Record]) -> dict[str, float]:
    """The highest clean and robust validation accuracy; empty without any."""
    found = {name: [r.metrics[name] for r in front if name in r.metrics] for name in OBJECTIVES}
    return {f"best/{name}": max(values) for name, values in found.items() if values}


def _milliseconds() -> int:
    return int(time.time() * 1000)
