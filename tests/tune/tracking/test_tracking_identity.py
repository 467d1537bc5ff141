"""Which of MLflow's runs are a study's, wherever it has moved and whatever it is called."""

from __future__ import annotations

import pytest
from mlflow.tracking import MlflowClient
from tracked import change, content, deliver, finished, rows, runs_of

from builders import configured, record
from guard.errors import StudyError
from tune.results.folder import StudyFolder


def test_a_trial_in_place_of_another_has_a_run_of_its_own(study: StudyFolder) -> None:
    finished(study)
    deliver(study)
    study.write(record(0, config=configured({"seed": 7})))
    deliver(study)
    assert runs_of(study)["0"].data.params["seed"] == "7"


def test_runs_of_before_studies_had_identities_are_the_studys(study: StudyFolder) -> None:
    finished(study)
    deliver(study)
    whole, counts = content(study), [rows(study, table) for table in ("runs", "metrics")]
    change(study, "DELETE FROM tags WHERE key = 'guard.id'")
    (study.path / "mlflow.json").unlink()
    deliver(study)
    assert content(study) == whole
    assert [rows(study, table) for table in ("runs", "metrics")] == counts


def test_a_renamed_study_keeps_its_runs(study: StudyFolder) -> None:
    finished(study)
    deliver(study)
    before = rows(study, "runs")
    renamed = StudyFolder(study.output, "t")
    study.path.rename(renamed.path)
    deliver(renamed)
    runs = runs_of(renamed)
    assert {run.data.tags["guard.study"] for run in runs.values()} == {"t"}
    assert rows(study, "runs") == before


def test_studies_of_one_name_share_a_store(study: StudyFolder) -> None:
    finished(study)
    deliver(study)
    whole = content(study)
    other = StudyFolder(study.output.parent / "theirs", "s")
    for one in finished(other, 1):
        other.write(record(0, clean=0.5, config=configured(), paths=one.paths))
    deliver(other, study.tracking_uri)
    client = MlflowClient(study.tracking_uri)
    for folder, count in ((study, 3), (other, 2)):
        identity = (folder.path / "mlflow.json").read_text().split('"')[3]
        runs = client.search_runs(["1"], f"tags.`guard.id` = '{identity}'")
        assert len(runs) == count
        assert {run.data.tags["guard.study"] for run in runs} == {"s"}
        if folder is other:
            for run in runs:
                client.delete_run(run.info.run_id)
    assert content(study) == whole


def test_artifacts_follow_an_output_that_has_moved(study: StudyFolder) -> None:
    finished(study)
    deliver(study)
    whole, before = content(study), rows(study, "metrics")
    moved = StudyFolder(study.output.parent / "else where", "s")
    study.output.rename(moved.output)
    for number, one in enumerate(moved.records()):
        paths = {part: path.replace("/runs/", "/else where/") for part, path in one.paths.items()}
        moved.write(record(number, config=configured({"seed": number}), paths=paths, seconds=2.0))
    deliver(moved)
    assert content(moved) == whole
    assert rows(moved, "metrics") == before
    uris = {run.info.artifact_uri for run in runs_of(moved).values()}
    assert all(uri.startswith((moved.output / "mlflow").as_uri() + "/") for uri in uris)
    assert not study.output.exists()


def test_an_identity_that_is_none_is_one_line(study: StudyFolder) -> None:
    (study.path / "mlflow.json").write_text("[]")
    with pytest.raises(StudyError, match="without it MLflow gets every run anew"):
        deliver(study)
