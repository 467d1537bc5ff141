"""MLflow at a URI: the one place that calls it. Each method is one request to a server, but where
it says otherwise."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

from tune.results.folder import StudyFolder
from tune.tracking import database
from tune.tracking.errors import refusal
from tune.tracking.held import CONTEXT, THIS_RUN, Held, HeldModel, Images, Point, Student, metric
from tune.tracking.identity import experiment_of
from tune.tracking.options import TrackingConfig
from tune.uris import is_database

if TYPE_CHECKING:
    from mlflow.entities import Experiment
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

MODEL_TYPE = "student"
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""The UI opens on the table of training runs."""
PAGE, MODELS_PAGE = 200, 100


class Store:
    """MLflow at a URI. Every method may raise whatever MLflow does."""

    def __init__(self, uri: str, folder: StudyFolder, options: TrackingConfig) -> None:
        from mlflow.tracking import MlflowClient

        self.uri, self.options = uri, options
        self.name = experiment_of(folder, options.experiment)
        """Of the experiment."""
        self.news: list[str] = []
        """What a person should know, a line each."""
        self.is_own = uri == folder.tracking_uri
        """Whether it lies in the study's output, where a study's name is the only one."""
        self._artifacts = (folder.output / "mlflow").as_uri() if is_database(uri) else None
        self._client = MlflowClient(tracking_uri=uri)
        self._experiment = ""
        self._tags: dict[str, str] = {}
        """Of the experiment, as they were last."""

    def experiment(self) -> Experiment:
        """The study's, which is made if it is not there and restored if it was deleted: one
        request, or three."""
        from mlflow.exceptions import MlflowException

        name = self.name
        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                self._client.create_experiment(name, self._artifacts, EXPERIMENT_TAGS)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":  # by another study meanwhile
                    raise
            found = self._client.get_experiment_by_name(name)
        assert found is not None
        if found.lifecycle_stage == "deleted":
            self._client.restore_experiment(found.experiment_id)
            self.news.append(
                f"MLflow: the experiment {name} was deleted and is restored; "
                "--set tracking.experiment=NAME takes another"
            )
        self._experiment, self._tags = found.experiment_id, dict(found.tags)
        return found

    @property
    def experiment_id(self) -> str:
        """Once `experiment` has been asked."""
        return self._experiment

    def tag_experiment(self, name: str, value: str) -> None:
        """Nothing where it is so."""
        if self._tags.get(name) != value:
            self._client.set_experiment_tag(self._experiment, name, value)
            self._tags[name] = value

    def follow_output(self, experiment: Experiment) -> None:
        """Artifacts of a database in the output lie where the output does, also when it moved.
        Raises StudyError for a folder of artifacts that cannot be written here."""
        place, wanted = experiment.artifact_location, self._artifacts
        if self.is_own and wanted and place != wanted and is_file(place):
            database.move_artifacts(self.uri, experiment.experiment_id, place, wanted)
            place = wanted
        if is_file(place):
            path = Path(url2pathname(urlsplit(place).path))
            there = next(parent for parent in (path, *path.parents) if parent.exists())
            if not os.access(there, os.W_OK):
                raise refusal(self.uri, f"keeps artifacts in {path}, which cannot be written here")

    def check_age(self) -> None:
        """Raises StudyError for a server without logged models, which came with MLflow 3."""
        from mlflow.exceptions import MlflowException

        try:
            self._client.search_logged_models([self._experiment], max_results=1)
        except MlflowException as error:
            if error.get_http_status_code() == 404:
                raise refusal(self.uri, "is older than MLflow 3, which this needs") from None
            raise

    def runs(self, tags: Mapping[str, str]) -> Iterator[Held]:
        """Every run with these tags, deleted ones too, with its last metrics: a request for each
        200."""
        from mlflow.entities import ViewType

        token: str | None = None
        while True:
            page = self._client.search_runs(
                [self._experiment], with_tags(tags), ViewType.ALL, PAGE, page_token=token
            )
            yield from map(Held.of, page)
            token = page.token
            if not token:
                return

    def models(self, tags: Mapping[str, str]) -> Iterator[tuple[str, HeldModel]]:
        """Every logged model with these tags, after the run that made it: a request for each
        100."""
        token: str | None = None
        while True:
            page = self._client.search_logged_models(
                [self._experiment], with_tags(tags), max_results=MODELS_PAGE, page_token=token
            )
            yield from ((model.source_run_id or "", HeldModel.of(model)) for model in page)
            token = page.token
            if not token:
                return

    def last_step(self, run: Held, name: str) -> int:
        """Of a metric that the run has."""
        history = self._client.get_metric_history(run.run_id, name)
        return max((point.step for point in history), default=0)

    def create(self, name: str, tags: Mapping[str, str], start: int) -> Held:
        return Held.of(self._client.create_run(self._experiment, start, dict(tags), name))

    def log(
        self,
        run: Held,
        at: int,
        points: Iterable[Point] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Metrics at a time in milliseconds, parameters and tags; nothing for nothing. A request
        takes 1,000 values, and 100 parameters; more take more."""
        from mlflow.entities import Param, RunTag

        self._client.log_batch(
            run.run_id,
            [metric(point, run, at) for point in points],
            [Param(name, value) for name, value in (params or {}).items()],
            [RunTag(name, value) for name, value in (tags or {}).items()],
        )

    def read(self, run: Held, images: Iterable[Images]) -> None:
        """Say which data a run reads or makes; nothing for none."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = [
            DatasetInput(
                Dataset(own.name, own.digest, own.source_type, source),
                [InputTag(CONTEXT, own.context)],
            )
            for own in images
            if (source := own.source.replace(THIS_RUN, run.run_id))
        ]
        if inputs:
            self._client.log_inputs(run.run_id, inputs)

    def create_model(self, run: Held, student: Student) -> HeldModel:
        made = self._client.create_logged_model(
            self._experiment,
            student.name,
            run.run_id,
            dict(student.tags),
            dict(student.params),
            MODEL_TYPE,
        )
        return HeldModel.of(made)

    def tag_model(self, model: HeldModel, tags: Mapping[str, str]) -> None:
        self._client.set_logged_model_tags(model.model_id, dict(tags))

    def link(self, run: Held, model: HeldModel) -> None:
        """A run has made a model."""
        from mlflow.entities import LoggedModelOutput

        self._client.log_outputs(run.run_id, [LoggedModelOutput(model.model_id, 0)])

    def finish_model(self, model: HeldModel) -> None:
        self._client.finalize_logged_model(model.model_id, "READY")

    def delete_model(self, model: HeldModel) -> None:
        self._client.delete_logged_model(model.model_id)

    def end(self, run: Held, status: str, at: int) -> None:
        self._client.set_terminated(run.run_id, status, at)

    def resume(self, run: Held, name: str) -> None:
        """Two requests."""
        self._client.update_run(run.run_id, "RUNNING", name)

    def delete(self, run: Held) -> None:
        """It can be restored."""
        self._client.delete_run(run.run_id)

    def restore(self, run: Held) -> None:
        self._client.restore_run(run.run_id)

    def sizes(self, run: Held, folders: Iterable[str]) -> dict[str, int]:
        """Bytes of each artifact in these folders ("" is the top) by path: a request a folder."""
        files = self._repository(run)
        found = [file for folder in folders for file in files.list_artifacts(folder or None)]
        return {file.path: file.file_size or 0 for file in found if not file.is_dir}

    def upload(self, run: Held, files: Mapping[str, Path | bytes]) -> None:
        """Artifacts by path: a request a file."""
        repository = self._repository(run)
        for name, content in files.items():
            path = PurePosixPath(name)
            folder = str(path.parent) if path.parent.name else None
            if isinstance(content, Path):
                repository.log_artifact(str(content), folder)
                continue
            with tempfile.TemporaryDirectory() as scratch:
                file = Path(scratch) / path.name
                file.write_bytes(content)
                repository.log_artifact(str(file), folder)

    def _repository(self, run: Held) -> ArtifactRepository:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        return get_artifact_repository(run.artifact_uri, tracking_uri=self.uri)


def with_tags(tags: Mapping[str, str]) -> str:
    """A query."""
    return " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())


def is_file(place: str) -> bool:
    return urlsplit(place).scheme in ("", "file")
