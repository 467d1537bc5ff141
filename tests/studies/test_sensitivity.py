from __future__ import annotations

import csv
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path

import mlflow
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from builders import record
from guard.errors import StudyError
from guard.trial import TrialConfig
from studies import sensitivity
from studies.reporting import searches
from studies.reporting.series import Search
from tune.places import held
from tune.results.folder import StudyFolder
from tune.space import CONTROL
from tune.tracking.opening import open_store
from tune.tracking.tracker import Tracker

pytestmark = pytest.mark.usefixtures("empty_database")
SPACE = {
    "regularizer.weight": FloatDistribution(1e-3, 100, log=True),
    "regularizer.h": FloatDistribution(1e-2, 3, log=True),
    "method": CategoricalDistribution(("sre2l", "cda")),
}
WEIGHTS, STEPS, METHODS = (0.01, 0.1, 1.0), (0.02, 0.1, 0.5, 2.0), ("sre2l", "cda")
POINTS = list(itertools.product(WEIGHTS, STEPS, METHODS))
Score = Callable[[float, float, str], float]


@pytest.fixture(autouse=True)
def few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the intervals of importances."""
    monkeypatch.setattr(searches, "RESAMPLES", 4)


def by_h(weight: float, h: float, method: str) -> float:
    return 0.5 + 0.1 * math.log10(h)


def write_sweep(folder: StudyFolder, points: list[tuple[float, float, str]], score: Score) -> None:
    """A sweep's records and storage: the points, two controls, and a trial that failed."""
    folder.path.mkdir(parents=True)
    about = {"study": "sweep", "command": "uv run python -m studies.sweep"}
    (folder.path / "about.json").write_text(json.dumps(about))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=folder.storage_uri, study_name=folder.name, directions=["maximize", "maximize"]
    )
    trials = [
        create_trial(
            values=(0.9, score(*point)),
            params=dict(zip(SPACE, point, strict=True)),
            distributions=SPACE,
        )
        for point in points
    ]
    for robust in (0.0, 1.0):
        trials.append(create_trial(values=(0.9, robust), user_attrs={CONTROL: True}))
    trials.append(create_trial(state=TrialState.FAIL))
    study.add_trials(trials)
    for number, point in enumerate(points):
        params = dict(zip(SPACE, point, strict=True))
        config = TrialConfig().override(params)
        folder.write(record(number, 0.9, score(*point), config, params=params))


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[StudyFolder]:
    """The folders whose report would be written and tracked."""
    told: list[StudyFolder] = []
    monkeypatch.setattr(
        sensitivity,
        "publish",
        lambda console, story, folder, *others, done: told.append(folder),
    )
    return told


def read(folder: StudyFolder) -> list[dict[str, str]]:
    with (folder.path / "sensitivity.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_folder_without_a_sweep_is_refused_in_one_line(
    tmp_path: Path, published: list[StudyFolder]
) -> None:
    for name in ("missing", "empty"):
        if name == "empty":
            (tmp_path / name).mkdir()
        with pytest.raises(StudyError) as caught:
            sensitivity.main(["--output", str(tmp_path), "--name", name])
        assert str(caught.value) == (
            f"--name: {tmp_path / name} holds no sweep; run python -m studies.sweep first"
        )
    assert not (tmp_path / "missing").exists() and published == []


@pytest.mark.parametrize(
    ("count", "score"),
    [(0, by_h), (1, by_h), (3, by_h), (8, lambda *point: 0.5)],
    ids=["none", "one", "three", "all alike"],
)
def test_too_few_trials_that_differ_are_refused_in_one_line(
    count: int, score: Score, tmp_path: Path, published: list[StudyFolder]
) -> None:
    folder = StudyFolder(tmp_path, "few")
    write_sweep(folder, POINTS[:count], score)
    before = sorted(folder.path.glob("[!.]*"))
    with pytest.raises(StudyError) as caught:
        sensitivity.main(["--output", str(tmp_path), "--name", "few"])
    assert str(caught.value) == (
        f"--name: {folder.path} must have at least 4 regularized trials that differ, got {count}"
    )
    assert sorted(folder.path.glob("[!.]*")) == before and published == []


def test_what_robustness_depends_on_comes_first(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, published: list[StudyFolder]
) -> None:
    folder = StudyFolder(tmp_path, "s")
    write_sweep(folder, POINTS, by_h)
    assert sensitivity.main(["--output", str(tmp_path), "--name", "s"]) == 0
    first, *others = read(folder)
    assert first["field"] == "regularizer.h"
    assert {row["field"] for row in others} == {"regularizer.weight", "method"}
    assert float(first["importance"]) > 0.9
    assert sum(float(row["importance"]) for row in (first, *others)) == pytest.approx(1)
    assert {row["trials"] for row in (first, *others)} == {str(len(POINTS))}
    assert "(fANOVA, 24 regularized trials)" in " ".join(capsys.readouterr().out.split())
    assert published == [folder]


def test_the_direction_of_numbers_is_told_and_that_of_names_is_not(
    tmp_path: Path, published: list[StudyFolder]
) -> None:
    folder = StudyFolder(tmp_path, "s")
    write_sweep(folder, POINTS, lambda weight, h, method: 0.5 - 0.1 * math.log10(h))
    sensitivity.main(["--output", str(tmp_path), "--name", "s"])
    rows = {row["field"]: row for row in read(folder)}
    assert float(rows["regularizer.h"]["rank_correlation"]) == pytest.approx(-1)
    assert float(rows["regularizer.h"]["p_value"]) < 1e-6
    assert float(rows["regularizer.weight"]["rank_correlation"]) == pytest.approx(0, abs=1e-9)
    assert (rows["method"]["rank_correlation"], rows["method"]["p_value"]) == ("", "")


def test_tables_and_figures_are_written(tmp_path: Path, published: list[StudyFolder]) -> None:
    folder = StudyFolder(tmp_path, "s")
    write_sweep(folder, POINTS, by_h)
    sensitivity.main(["--output", str(tmp_path), "--name", "s"])
    header, _, *lines = (folder.path / "sensitivity.md").read_text().splitlines()
    assert header == "| field | importance | of 90 % | rank correlation | p |"
    assert lines[0].startswith("| regularizer.h | ") and len(lines) == 3
    for name in ("importance.png", "map.png"):
        assert (folder.path / name).read_bytes().startswith(b"\x89PNG")


def test_the_interval_of_an_importance_holds_it(
    tmp_path: Path, published: list[StudyFolder], capsys: pytest.CaptureFixture[str]
) -> None:
    for name, count in (("many", len(POINTS)), ("few", 8)):
        write_sweep(StudyFolder(tmp_path, name), POINTS[:count], by_h)
        sensitivity.main(["--output", str(tmp_path), "--name", name])
        for row in read(StudyFolder(tmp_path, name)):
            low, high = float(row["low"]), float(row["high"])
            assert 0 <= low <= high <= 1
        told = " ".join("".join(capsys.readouterr()).split())
        is_said = "matter cannot be told from 8 complete regularized trials; it takes 20" in told
        assert is_said == (name == "few")


def test_each_method_and_ipc_has_a_map_of_its_own(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, "s")
    write_sweep(folder, POINTS, by_h)
    about = {"params": {"regularizer.weight": 50.0, "regularizer.h": 1.0}, "status": "stopped"}
    folder.write(record(90, config=TrialConfig(), reason="at rung 1 of 2", **about))
    found = sensitivity.map_figure(Search.of(folder.records()))
    titles = [axes.get_title() for axes in found.axes if axes.get_title()]
    assert titles == ["cda, IPC 10: 12 trials", "sre2l, IPC 10: 12 trials"]
    crosses = [len(axes.collections[2].get_offsets()) for axes in found.axes[:2]]
    assert crosses == [0, 1]


def test_the_same_sweep_says_the_same_twice(tmp_path: Path, published: list[StudyFolder]) -> None:
    folder = StudyFolder(tmp_path, "s")
    write_sweep(folder, POINTS[:8], by_h)
    told = []
    for _ in range(2):
        sensitivity.main(["--output", str(tmp_path), "--name", "s"])
        told.append((folder.path / "sensitivity.csv").read_bytes())
    assert told[0] == told[1]


def test_a_sweep_without_the_penalty_s_numbers_has_no_map(
    tmp_path: Path, published: list[StudyFolder]
) -> None:
    folder = StudyFolder(tmp_path, "s")
    folder.path.mkdir()
    (folder.path / "about.json").write_text(json.dumps({"study": "sweep", "command": ""}))
    study = optuna.create_study(
        storage=folder.storage_uri, study_name="s", directions=["maximize", "maximize"]
    )
    weights = FloatDistribution(0.01, 1)
    for value in (0.1, 0.2, 0.4, 0.8):
        study.add_trial(
            create_trial(
                values=(0.9, value),
                params={"sre2l.bn_weight": value},
                distributions={"sre2l.bn_weight": weights},
            )
        )
    sensitivity.main(["--output", str(tmp_path), "--name", "s"])
    assert [row["field"] for row in read(folder)] == ["sre2l.bn_weight"]
    assert (folder.path / "importance.png").is_file()
    assert not (folder.path / "map.png").exists()


def test_a_sweep_that_is_running_is_left_alone(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, "s")
    write_sweep(folder, POINTS, by_h)
    with held(folder.path), pytest.raises(StudyError, match="is running already"):
        sensitivity.main(["--output", str(tmp_path), "--name", "s"])
    assert not (folder.path / "sensitivity.csv").exists()


def test_a_sweep_that_was_ended_is_not_called_finished(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, "s")
    write_sweep(folder, POINTS, by_h)
    store = open_store(folder.tracking_uri, folder)
    Tracker(folder, store, max_clean_drop=0.03).close([], status="KILLED")
    sensitivity.main(["--output", str(tmp_path), "--name", "s"])
    client = mlflow.MlflowClient(folder.tracking_uri)
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert [run.info.status for run in parents] == ["KILLED"]


def test_the_report_is_written_and_tracked_anew(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = StudyFolder(tmp_path, "s")
    write_sweep(folder, POINTS, by_h)
    assert sensitivity.main(["--output", str(tmp_path), "--name", "s"]) == 0
    assert "MLflow:" not in capsys.readouterr().out
    page = (folder.path / "report.html").read_text()
    assert "Which hyper-parameters matter" in page
    tracked = {path.name for path in (tmp_path / "mlflow").rglob("*.*")}
    assert {"sensitivity.csv", "sensitivity.md", "importance.png", "report.html"} <= tracked
