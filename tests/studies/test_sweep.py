"""One small study on a real Ray, looked at from all sides."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import optuna
import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from guard.artifacts import ArtifactStore
from guard.distilled import DistilledSet
from guard.errors import StudyError
from guard.trial import TrialConfig
from guard.trial_stages import plan
from helpers import run_python
from studies import sweep, trial
from tune.results.folder import StudyFolder
from tune.results.front import choose
from tune.settling import REPEATS
from tune.tracking.identity import EXPERIMENT
from tune.tracking.wanted import TRIAL

SMALL = [
    "method=sre2l",
    "model.width=8",
    "squeeze.epochs=4",
    "sre2l.iterations=30",
    "student.train.epochs=20",
    "student.train.augment=crop",
    "evaluation.attacks=pgd3",
    "regularizer.weight=choice(0.1, 1e6)",
    "regularizer.h=0.1",
]
CONFIRM = ["confirm.seeds=2", "confirm.configurations=1", "confirm.attacks=pgd3,fgsm"]
METRICS = ("clean_accuracy", "robust_accuracy", "robust_accuracy/pgd3")


def flags(output: Path, num_trials: int) -> list[str]:
    settings = [part for setting in (*SMALL, *CONFIRM) for part in ("--set", setting)]
    where = ["--output", str(output), "--num-trials", str(num_trials), "--name", "small"]
    return ["--sampler", "grid", *where, *settings]


def command(output: Path, num_trials: int) -> list[str]:
    return [sys.executable, "-m", "studies.sweep", *flags(output, num_trials)]


@dataclass(frozen=True)
class Study:
    folder: StudyFolder
    killed: str
    """What the first sitting printed, which was interrupted."""
    left: Mapping[str, str]
    """Status of each run in MLflow after it."""
    text: str

    def phase(self, name: str) -> list[dict[str, str]]:
        with (self.folder.path / "results.csv").open(newline="") as file:
            return [row for row in csv.DictReader(file) if row["phase"] == name]

    @property
    def rows(self) -> list[dict[str, str]]:
        return self.phase("search")


@pytest.fixture(scope="module")
def study(interrupted: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A grid of 2 controls and 4 trials, ended by SIGTERM after the first, then finished."""
    output = tmp_path_factory.mktemp("sweep")
    folder = StudyFolder(output, "small")
    killed = interrupted(command(output, 6), "[1/6]", signal.SIGTERM, signal.SIGTERM)
    assert (folder.path / "report.html").is_file()
    left = {name: run.info.status for name, run in tracked(folder).items()}
    done = subprocess.run(command(output, 6), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    assert done.stderr == ""
    return Study(folder, killed, left, done.stdout)


def tracked(folder: StudyFolder) -> dict[str, Run]:
    """The runs in MLflow, by trial."""
    client = MlflowClient(folder.tracking_uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    return {r.data.tags[TRIAL]: r for r in client.search_runs([experiment.experiment_id])}


def test_an_interrupted_study_says_how_to_go_on(study: Study) -> None:
    assert "python -m studies.sweep --sampler grid" in study.killed
    assert "study" in study.text and ": 0 of 6 trials" not in study.text


def test_an_interrupted_study_is_closed_in_mlflow(study: Study) -> None:
    assert study.left["parent"] == "KILLED"
    assert "FINISHED" in study.left.values() and "RUNNING" not in study.left.values()


def test_the_table_has_every_trial_once_and_its_controls(study: Study) -> None:
    kinds = sorted((row["regularizer"], row["ipc"], row["weight"]) for row in study.rows)
    assert kinds == [
        ("curvature", "1", "0.1"),
        ("curvature", "1", "1000000.0"),
        ("curvature", "10", "0.1"),
        ("curvature", "10", "1000000.0"),
        ("none", "1", ""),
        ("none", "10", ""),
    ]
    assert len({row["fingerprint"] for row in study.rows}) == 6


def test_a_collapsed_teacher_ends_its_trials_early_and_says_so(study: Study) -> None:
    collapsed = [row for row in study.rows if row["weight"] == "1000000.0"]
    assert [row["status"] for row in collapsed] == ["diverged", "diverged"]
    assert all(row["reason"].startswith("squeeze: ") for row in collapsed)
    assert all(row["test/clean_accuracy"] == "" for row in collapsed)
    assert "diverged" in study.text


def test_accuracies_are_shares_and_robust_is_at_most_clean(study: Study) -> None:
    for row in study.rows:
        if row["status"] == "complete":
            for split in ("validation", "test"):
                clean, robust, _ = (float(row[f"{split}/{name}"]) for name in METRICS)
                assert 0 <= robust <= clean <= 1


def test_what_was_found_is_confirmed_with_new_seeds_on_test_images_alone(study: Study) -> None:
    confirmed = study.phase("confirmation")
    best = choose(study.folder.records(), 0.03)
    assert best is not None
    assert {row["seed"] for row in confirmed} == {"1", "2"}
    assert str(best.trial) in {row["trial"] for row in confirmed}
    assert "none" in {row["regularizer"] for row in confirmed}
    for row in confirmed:
        assert row["validation/clean_accuracy"] == ""
        clean, robust, pgd = (float(row[f"test/{name}"]) for name in METRICS)
        assert 0 <= robust <= pgd <= clean <= 1
        assert robust <= float(row["test/robust_accuracy/fgsm"])


def test_the_comparison_is_of_the_confirmation(study: Study) -> None:
    with (study.folder.path / "comparison.csv").open(newline="") as file:
        found = {row["regularizer"]: row for row in csv.DictReader(file)}
    for kind, row in found.items():
        runs = [r for r in study.phase("confirmation") if r["regularizer"] == kind]
        assert int(row["seeds"]) == len(runs) == 2
        mean = sum(float(r["test/robust_accuracy"]) for r in runs) / 2
        assert float(row["robust"]) == pytest.approx(mean)
        assert float(row["robust_low"]) <= mean <= float(row["robust_high"])
    assert "confirming with new seeds" in study.text
    assert (study.folder.path / "comparison.md").read_text().startswith("| method | IPC |")


def test_trials_share_their_teacher(study: Study) -> None:
    keys = [
        stage["key"]
        for record in study.folder.records()
        for stage in record.stages
        if stage["name"] == "squeeze"
    ]
    assert len(keys) == 6 and len(set(keys)) == 3
    built = [
        stage["key"]
        for record in study.folder.records()
        for stage in record.stages
        if stage["name"] == "squeeze" and stage["built"]
    ]
    assert len(built) == len(set(built)) <= 3


def test_nothing_half_made_is_left(study: Study) -> None:
    published = [path for path in study.folder.artifacts.glob("*/[!.]*")]
    assert published and all((path / "stage.json").is_file() for path in published)


def test_optuna_holds_what_the_table_says(study: Study) -> None:
    (name,) = optuna.get_all_study_names(study.folder.storage_uri)
    stored = optuna.load_study(study_name=name, storage=study.folder.storage_uri)
    told = {  # a repetition has a number of its own, and the record that of the trial it repeats
        t.user_attrs.get(REPEATS, t.number): tuple(t.values)
        for t in stored.trials
        if t.values is not None
    }
    searched = [record for record in study.folder.records() if not record.control]
    assert told == {record.trial: record.objectives for record in searched}


def test_mlflow_has_one_run_a_trial_with_the_tables_values(study: Study) -> None:
    runs = tracked(study.folder)
    confirmed = [record.label for record in study.folder.confirmations()]
    assert sorted(runs) == sorted(["parent", *(row["trial"] for row in study.rows), *confirmed])
    assert all(run.info.status == "FINISHED" for run in runs.values())
    for row in study.rows:
        for name in METRICS if row["status"] == "complete" else ():
            logged = runs[row["trial"]].data.metrics[f"test/{name}"]
            assert logged == float(row[f"test/{name}"])


def test_a_trial_alone_gives_the_same_figures_to_the_last_digit(
    study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = study.folder.path / "best.json"
    chosen = choose(study.folder.records(), 0.03)
    assert chosen is not None
    row = next(row for row in study.rows if row["trial"] == str(chosen.trial))
    assert trial.main([str(best), "--fresh", "--export", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    printed = dict(line.split() for line in text.splitlines() if "accuracy" in line)
    for split in ("validation", "test"):
        for name in METRICS:
            assert printed[f"{split}/{name}"] == row[f"{split}/{name}"]
    assert len(list((tmp_path / "out").rglob("*.png"))) == 10 * int(row["ipc"])
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    for name in METRICS[:2]:
        assert repr(card["teacher"][name]) == printed[f"teacher/{name}"]


def test_a_stage_has_the_same_bytes_with_and_without_ray(study: Study, tmp_path: Path) -> None:
    from guard.artifacts import build

    best = TrialConfig.from_json((study.folder.path / "best.json").read_text())
    fresh, ray_store = ArtifactStore(tmp_path), ArtifactStore(study.folder.artifacts)
    for stage in plan(best):
        alone, shared = fresh.get_or_build(stage, build), ray_store.get(stage)
        assert shared is not None
        files = sorted(path.name for path in alone.path.iterdir() if path.name != "stage.json")
        assert files == sorted(p.name for p in shared.path.iterdir() if p.name != "stage.json")
        for name in files:
            assert (alone.path / name).read_bytes() == (shared.path / name).read_bytes()
        assert alone.summary == shared.summary


def test_the_product_loads_in_one_line(study: Study) -> None:
    chosen = choose(study.folder.records(), 0.03)
    assert chosen is not None
    dataset = DistilledSet.load(chosen.paths["distilled"]).dataset()
    assert len(dataset) == 10 * chosen.config["ipc"]


def test_a_finished_study_runs_nothing_again(
    study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep.main(flags(study.folder.output, 6)) == 0
    text = capsys.readouterr().out
    assert f"study {study.folder}" in text
    assert "starting Ray" not in text
    assert "mlflow ui --backend-store-uri sqlite:///" in text


def test_a_finished_study_is_told_again_without_what_made_it(study: Study) -> None:
    sweep.main(flags(study.folder.output, 6))  # other tests may have asked MLflow
    code = f"""
import sys
from studies import sweep
assert sweep.main({flags(study.folder.output, 6)!r}) == 0
heavy = ("ray", "mlflow", "matplotlib", "plotly", "pandas", "sklearn", "sqlalchemy", "alembic")
print([name for name in heavy if name in sys.modules])
"""
    told = run_python(code)
    assert told.stdout.splitlines()[-1] == "[]", told.stdout + told.stderr


def test_a_study_with_other_settings_needs_another_name(study: Study) -> None:
    told = "was made with squeeze.epochs = 4, not 5; choose another --name"
    with pytest.raises(StudyError, match=told):
        sweep.main([*flags(study.folder.output, 6), "--set", "squeeze.epochs=5"])


def test_the_record_says_how_long_the_trial_waited(study: Study) -> None:
    for record in study.folder.records():
        assert 0 <= record.waiting_seconds <= record.seconds
    settings = json.loads((study.folder.path / "study.json").read_text())
    assert settings["search regularizer.weight"] == "choice(0.1, 1000000.0)"
