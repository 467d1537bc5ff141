from __future__ import annotations

from pathlib import Path

import pytest

from guard.errors import StudyError
from studies import gallery, overhead, sensitivity, sweep
from studies.driver import trials_job
from studies.driver.flags import parsed
from studies.driver.options import RunConfig
from studies.driver.request import Request, settled
from tune.results.folder import StudyFolder


def sweep_of(*argv: str) -> Request:
    return settled(parsed(sweep.parser(), argv))


def test_a_sweep_without_flags_is_the_presets() -> None:
    request = sweep_of()
    assert request.folder == StudyFolder(Path("runs").absolute(), "digits")
    assert (request.num_trials, request.sampler, request.seeds) == (None, "auto", 1)
    assert (request.address, request.resources, request.data) == (None, (), None)
    assert request.settings == {} and not request.dry_run
    assert request.tracking is None
    assert request.tracking_uri == request.folder.tracking_uri
    assert request.command == "uv run python -m studies.sweep"


def test_every_flag_has_its_place(tmp_path: Path) -> None:
    argv = ["--preset", "cifar10-small", "--data", "/x y", "--device", "cpu", "--name", "n"]
    argv += ["--output", str(tmp_path), "--num-trials", "5", "--sampler", "grid"]
    argv += ["--address", "auto", "--resources", "all=1", "--resources", "squeeze=2,1"]
    argv += ["--tracking-uri", "sqlite:///x.db", "--dry-run"]
    argv += ["--set", "run.concurrent=3", "--set", "ipc=4"]
    request = sweep_of(*argv)
    assert request.folder == StudyFolder(tmp_path, "n")
    assert request.preset.config.data.name == "cifar10"
    assert (request.data, request.device, request.address) == ("/x y", "cpu", "auto")
    assert (request.num_trials, request.sampler) == (5, "grid")
    assert request.resources == ("all=1", "squeeze=2,1")
    assert request.tracking == request.tracking_uri == "sqlite:///x.db"
    assert request.dry_run
    assert request.settings == {"ipc": 4}
    assert request.options.run == RunConfig(concurrent=3)
    assert request.command.startswith("uv run python -m studies.sweep --preset cifar10-small ")
    assert "--data '/x y'" in request.command


def test_the_name_of_a_sweep_is_its_presets_and_that_of_others_their_own() -> None:
    assert sweep_of("--preset", "cifar10").folder.name == "cifar10"
    study = settled(parsed(trials_job.parser(gallery.STUDY), ["--preset", "cifar10"]))
    assert study.folder.name == "gallery" and study.seeds == gallery.STUDY.seeds
    assert settled(parsed(overhead.parser(), [])).folder.name == "overhead"
    assert settled(parsed(sensitivity.parser(), [])).folder.name == "digits"


@pytest.mark.parametrize("number", ["0", "-2"])
def test_a_number_out_of_range_is_refused(number: str) -> None:
    with pytest.raises(StudyError, match=f"--num-trials: must be at least 1, got {number}"):
        sweep_of("--num-trials", number)
    with pytest.raises(StudyError, match=f"--seeds: .* 1 and at most 1000, got {number}"):
        settled(parsed(trials_job.parser(gallery.STUDY), ["--seeds", number]))


def test_tracking_is_the_flags_or_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:secret@host/db")
    assert sweep_of().tracking == "postgresql://me:secret@host/db"
    assert sweep_of("--tracking-uri", "http://host").tracking == "http://host"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "mlruns")
    with pytest.raises(StudyError, match="MLFLOW_TRACKING_URI: must be sqlite"):
        sweep_of()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert sweep_of().tracking is None


def test_an_experiment_is_the_settings_or_the_environments(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert sweep_of().options.tracking.experiment == ""
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "theirs")
    assert sweep_of().options.tracking.experiment == "theirs"
    assert settled(parsed(sensitivity.parser(), [])).options.tracking.experiment == "theirs"
    mine = sweep_of("--set", "tracking.experiment=mine")
    assert mine.options.tracking.experiment == "mine"
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", " x")
    with pytest.raises(StudyError, match="MLFLOW_EXPERIMENT_NAME: must have at most 500"):
        sweep_of()


@pytest.mark.parametrize("variable", ["MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID"])
def test_a_variable_of_mlflows_that_means_nothing_here_is_refused(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "1")
    with pytest.raises(StudyError, match=f"^{variable}: .*; unset it$"):
        sweep_of()


def test_a_command_is_kept_without_its_password(capsys: pytest.CaptureFixture[str]) -> None:
    uri = "postgresql://me:secret@host/db"
    for argv in (["--tracking-uri", uri], [f"--tracking-uri={uri}"]):
        request = sweep_of(*argv)
        assert request.tracking == uri
        assert "secret" not in request.command and "me:***@host/db" in request.command
    with pytest.raises(SystemExit):
        sweep_of("--track", uri, "--x", uri)
    assert "secret" not in capsys.readouterr().err
