from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from builders import judged
from guard.errors import UserError
from studies import ablation, adversarial, compare, curvature, gallery
from studies.design.stories import stories
from studies.design.study import Study
from studies.driver import flags
from studies.driver.request import settled
from studies.driver.trials_job import TrialsJob, main, parser, prepared
from tune.results.folder import StudyFolder
from tune.runs import Run

pytestmark = pytest.mark.usefixtures("empty_database")
STUDIES = [story for story in stories().values() if isinstance(story, Study)]


def job_of(study: Study, argv: list[str]) -> TrialsJob:
    return prepared(study, settled(flags.parsed(parser(study), argv)))


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.init", lambda *a, **k: pytest.fail("Ray was started"))


BAD = [
    (["--seeds", "0"], "--seeds: must be at least 1 and at most 1000, got 0"),
    (["--seeds", "1000000000"], "--seeds: must be at least 1 and at most 1000, got 1000000000"),
    (["--seeds", "-3"], "--seeds: must be at least 1 and at most 1000, got -3"),
    (["--set", "run.concurrent=-1"], "run.concurrent: must be at least 0 and at most 10000, got"),
    (["--set", "run.concurent=1"], "run.concurent: no such field (did you mean 'concurrent'?)"),
    (["--set", "run.verbose=choice(true, false)"], "run.verbose: takes a plain value"),
    (["--set", "run=1"], "run: is set field by field; there are: run.concurrent, run.stage_limit"),
    (["--set", "confirm.seeds=2"], "confirm.seeds: nothing is searched here that could be"),
    (["--set", "search.seed=2"], "search.seed: nothing is searched here"),
    (["--max-concurrent", "2"], "--max-concurrent is now --set run.concurrent=N"),
    (["--verbose"], "--verbose is now --set run.verbose=true"),
    (["--preset", "nope"], "--preset: no preset is named 'nope'; there are: digits"),
    (["--name", "a/b"], "--name: must be letters, digits"),
    (["--name", "artifacts"], "--name: must be letters, digits"),
    (["--set", "nonsense"], "--set: must be PATH=VALUE, got 'nonsense'"),
    (["--set", "regularizer.h=uniform(0, 1)"], "regularizer.h takes a value or choice(…) here"),
    (["--set", "regularizer.h=nope(0, 1)"], "no distribution is named 'nope'"),
    (["--set", "regularizer.hh=1"], "regularizer.hh: no such field (did you mean 'h'?)"),
    (["--set", "sre2l.bn_wait=choice(1, 2)"], "sre2l.bn_wait: no such field"),
    (["--set", "method=dd"], "method: must be one of sre2l, cda, dc"),
    (["--set", "ipc=choice(0, 1)"], "ipc: must be at least 1 and at most 100000, got 0"),
    (["--set", "model.name=convnet"], "model.norm: sre2l matches BatchNorm statistics"),
    (["--set", "method=dsa", "--set", "ipc=500"], "ipc: dsa starts from real images and the"),
    (["--data", "/no/such/data.npz"], "data.path: /no/such/data.npz does not exist"),
    (["--device", "tpu"], "--device: no device 'tpu' on this machine; there are:"),
    (["--resources", "squeese=1"], "--resources: no stage is named 'squeese'"),
    (["--resources", "all=9999"], "--resources: a stage wants 9999 CPUs"),
    (["--address", "ray://x:1"], "--address: must be host:port"),
    (["--address", "host:²"], "--address: must be host:port"),
    (["--address", "..:6379"], "--address: no Ray answers at ..:6379"),
    (["--tracking-uri", "mlruns"], "--tracking-uri: must be sqlite"),
]


@pytest.mark.parametrize(("flags", "message"), BAD)
def test_bad_input_is_one_line_and_leaves_nothing(
    flags: list[str], message: str, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    with pytest.raises(UserError) as caught:
        main(gallery.STUDY, ["--output", str(output), *flags])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not output.exists()


def test_a_dry_run_prints_every_trial_and_starts_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    flags = ["--output", str(output), "--dry-run", "--seeds", "2"]
    assert main(gallery.STUDY, flags) == 0
    text = capsys.readouterr().out
    assert "8 trials, 2 seeds:" in text
    for number in range(8):
        ipc, seed = (1, 1, 5, 5)[number % 4], number // 4
        penalty = "curvature (λ = 0.3, h = 0.1)" if number % 2 else "none"
        assert f"  {number:>3} sre2l, IPC {ipc}, {penalty}, seed = {seed}\n" in text
    assert "ipc ~ 1, 5" in text and "squeeze.epochs = 20" in text
    assert 'evaluation.splits = ["test"]' in text
    assert "stages of all trials: " in text and "image passes" in text
    assert "run.concurrent = 0" in text and "run.verbose = false" in text
    assert "confirm." not in text and "search." not in text
    assert not output.exists()


def test_a_dry_run_of_arms_names_what_each_one_changes(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    flags = ["--output", str(tmp_path / "out"), "--dry-run", "--seeds", "1"]
    assert main(ablation.STUDY, flags) == 0
    text = capsys.readouterr().out
    assert "16 trials, 1 seeds:" in text
    assert "gradient-norm (λ = 0.0001)" in text and "regularizer.bn = train" in text


def test_a_choice_of_a_user_s_is_an_axis_of_the_dry_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    flags = ["--output", str(tmp_path / "out"), "--dry-run", "--set", "ipc=choice(2, 3, 4)"]
    assert main(gallery.STUDY, flags) == 0
    text = capsys.readouterr().out
    assert "ipc ~ 2, 3, 4" in text and "6 trials, 1 seeds:" in text


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_a_study_is_prepared_with_its_name_its_data_and_its_command(
    study: Study, tmp_path: Path
) -> None:
    argv = ["--output", str(tmp_path), "--set", "compute.num_threads=2"]
    job = job_of(study, argv)
    assert job.request.folder == StudyFolder(tmp_path, study.name)
    assert job.request.seeds == study.seeds
    assert len(job.base.data.sha256) == 64
    assert {run.config.compute.num_threads for run in job.runs} == {2}
    assert {run.config.data.sha256 for run in job.runs} == {job.base.data.sha256}
    assert job.request.command == (
        f"uv run python -m studies.{study.name} --output {tmp_path} --set compute.num_threads=2"
    )
    assert not job.request.folder.path.exists()


def test_what_varies_is_said_in_words(tmp_path: Path) -> None:
    argv = ["--output", str(tmp_path)]
    varied = job_of(compare.STUDY, argv).varied
    assert varied["axis ipc"] == "[5]"
    assert varied["arms"].startswith('{"method": "sre2l"} {"method": "cda"} {"method": "mtt"')
    assert varied["arms"].endswith('{"method": "whole"}')


def test_a_lone_attack_is_a_list(tmp_path: Path) -> None:
    argv = ["--output", str(tmp_path), "--set", "evaluation.attacks=pgd5"]
    (attacks,) = {run.config.evaluation.attacks for run in job_of(gallery.STUDY, argv).runs}
    assert attacks == ("pgd5",)


def finish(study: Study, argv: list[str]) -> StudyFolder:
    """The study's folder with a record of every trial."""
    job = job_of(study, argv)
    folder = job.request.folder
    for run in job.runs:
        robust = 0.4 if run.control else 0.7
        folder.write(judged(folder.artifacts, run, 0.9, robust))
    return folder


def test_a_finished_study_is_told_without_ray(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    argv = ["--output", str(tmp_path), "--seeds", "1", "--set", "ipc=10"]
    folder = finish(adversarial.STUDY, argv)
    assert main(adversarial.STUDY, argv) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "5 of 5 trials are finished" in text and "5 trials: 5 complete" in text
    assert "starting Ray" not in text
    made = {path.name for path in folder.path.iterdir()}
    assert {"report.html", "results.csv", "comparison.csv", "comparison.md"} <= made
    assert {"accuracy.png", "about.json", "study.json"} <= made


def test_telling_a_study_again_changes_no_figure_of_it(tmp_path: Path) -> None:
    argv = ["--output", str(tmp_path)]
    folder = finish(gallery.STUDY, argv)
    tables = ("comparison.csv", "comparison.md", "results.csv", "study.json")
    told = []
    for _ in range(2):
        assert main(gallery.STUDY, argv) == 0
        told.append([(folder.path / name).read_bytes() for name in tables])
    assert told[0] == told[1]


def test_what_was_measured_of_fewer_trials_is_measured_anew(tmp_path: Path) -> None:
    argv = ["--output", str(tmp_path), "--seeds", "1"]
    folder = finish(curvature.STUDY, argv)
    (folder.path / "measured.csv").write_text("x\n1\n")
    assert job_of(curvature.STUDY, argv).unfinished() == ""
    more = job_of(curvature.STUDY, [*argv[:-1], "2"])

    def interrupted(runs: Sequence[Run]) -> None:
        for run in runs:
            folder.write(judged(folder.artifacts, run, 0.9, 0.7))
        raise KeyboardInterrupt

    session = SimpleNamespace(run=interrupted, progress=SimpleNamespace(begin=lambda *of: None))
    with pytest.raises(KeyboardInterrupt):
        more.work(session)  # type: ignore[arg-type]
    assert more.unfinished() == "measurements"


@pytest.mark.parametrize(
    ("study", "flags", "difference"),
    [
        (adversarial.STUDY, [], "study = gallery, not adversarial"),
        (gallery.STUDY, ["--set", "squeeze.epochs=3"], "squeeze.epochs = 20, not 3"),
        (gallery.STUDY, ["--set", "ipc=choice(1, 10)"], "axis ipc = [1, 5], not [1, 10]"),
    ],
)
def test_another_study_does_not_get_into_a_folder_that_is_taken(
    study: Study, flags: list[str], difference: str, tmp_path: Path
) -> None:
    argv = ["--output", str(tmp_path), "--name", "taken"]
    folder = finish(gallery.STUDY, argv)
    assert main(gallery.STUDY, argv) == 0
    records = folder.records()
    with pytest.raises(UserError) as caught:
        main(study, [*argv, *flags])
    assert difference in str(caught.value) and "\n" not in str(caught.value)
    assert folder.records() == records
