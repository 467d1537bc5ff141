"""Files of a study as a crash, a backup, another version or another hand leaves them."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from builders import configured, ended, judged, planned
from guard.config.schema import Config
from guard.errors import StudyError, UserError
from guard.pipeline import TrialResult
from guard.trial import TrialConfig
from studies import report, trial
from studies.design.about import About, claim
from studies.driver.flags import exit_code
from tune.results.findings import Results
from tune.results.folder import StudyFolder
from tune.results.rows import read_csv
from tune.runs import unfinished
from tune.timeline import FILE, Span, append

ABOUT = About(study="sweep", command="uv run python -m studies.sweep")


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    """A search of a control and a trial, on test images too."""
    made = StudyFolder(tmp_path / "out", "s")
    claim(made, ABOUT, TrialConfig(), {})
    splits = ("validation", "test")
    records = [
        judged(made.output, planned(number, config), 0.9, robust, splits=splits)
        for number, config, robust in ((0, configured(control=True), 0.2), (1, configured(), 0.5))
    ]
    for record in records:
        made.write(record)
    made.write_tables(records, records[1])
    append(made.path / FILE, [Span(stage="squeeze", key="k", worker="w", start=0.0, end=1.0)])
    return made


def reported(folder: StudyFolder, capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert report.main([str(folder.path)]) == 0
    said = capsys.readouterr()
    return [*said.err.splitlines(), *said.out.splitlines()]


def test_a_report_of_a_damaged_study_is_made_and_says_what_it_lacks(
    folder: StudyFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    page = f"report: {folder.path / 'report.html'}"
    assert reported(folder, capsys) == [page]
    (folder.path / "trials" / "00001.json").write_bytes(b"")
    (folder.path / "optuna.db").write_bytes(b"garbage" * 500)
    (folder.path / "best.json").write_text('{"name": "foreign"}')
    (folder.path / "results.csv").write_bytes(b"\xff\0")
    with (folder.path / FILE).open("ab") as file:
        file.write(b'\0\0\n{"stage": 3}\n[]\n"\xff"\n{"stage": "stu')
    assert reported(folder, capsys) == [
        f"{folder.path / 'trials' / '00001.json'} is left out: it is empty",
        f"{folder.path / FILE}: 4 of 6 lines are left out",
        f"{folder.path / 'optuna.db'}: is no storage of Optuna (file is not a database); move it "
        "away, and the study's own command makes it again from the records in trials/",
        page,
    ]


@pytest.mark.parametrize(
    "damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"no tensors")]
)
def test_damaged_verdicts_are_put_aside_and_their_trial_is_repeated(
    damage: Callable[[Path], object], folder: StudyFolder
) -> None:
    record = folder.records()[1]
    verdicts = Path(record.verdicts[0])
    damage(verdicts / "verdicts.safetensors")
    assert [own.is_done for own in folder.records()] == [True, True]
    [line] = folder.set_aside()
    assert line.startswith(f"{verdicts}: verdicts.safetensors ")
    assert [own.is_done for own in folder.records()] == [True, False]
    run = planned(1, configured())
    assert unfinished([run], folder.records()) == [run]
    assert folder.set_aside() == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "about.json: it is empty; the study's own command writes it again"),
        (b'{"study": "sw', "about.json: it is no JSON"),
        (b'{"study": "\xff"}', "about.json: it is not UTF-8"),
        (b'{"name": "foreign"}', "its about.json names no study, got None"),
        (b'{"study": "sweep", "command": 3}', "its about.json names no study, got 'sweep'"),
    ],
)
def test_an_about_that_says_nothing_is_one_line_and_is_written_again(
    content: bytes, message: str, folder: StudyFolder
) -> None:
    (folder.path / "about.json").write_bytes(content)
    with pytest.raises(StudyError) as caught:
        report.main([str(folder.path)])
    assert message in str(caught.value) and str(folder.path) in str(caught.value)
    claim(folder, ABOUT, TrialConfig(), {})
    assert About.read(folder) == ABOUT


def test_what_a_later_version_says_beside_it_is_not_read(folder: StudyFolder) -> None:
    values = {"study": "sweep", "command": "c", "later": 1}
    (folder.path / "about.json").write_text(json.dumps(values))
    assert About.read(folder) == About(study="sweep", command="c")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "study.json: it is empty; so what the study was made with is not known"),
        ('{"study": "swe', "study.json: it is no JSON"),
        ("[]", "study.json: it holds no JSON object"),
        ('{"name": "foreign"}', "study.json: is not of a study of this project"),
        ('{"study": "sweep", "later": 1}', "was made with later = 1, not None; choose another"),
    ],
)
def test_a_study_whose_settings_are_not_known_is_not_gone_on_with(
    content: str, message: str, folder: StudyFolder
) -> None:
    path = folder.path / "study.json"
    path.write_text(content)
    with pytest.raises(StudyError) as caught:
        claim(folder, ABOUT, TrialConfig(), {})
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert path.read_text() == content


def test_a_field_that_an_older_version_did_not_have_is_as_if_it_were_not_set(
    folder: StudyFolder,
) -> None:
    path = folder.path / "study.json"
    older = json.loads(path.read_text())
    del older["evaluation.norm"]
    path.write_text(json.dumps(older))
    claim(folder, ABOUT, TrialConfig(), {})
    path.write_text(json.dumps(older))
    with pytest.raises(StudyError, match=r"was made with evaluation\.norm = Linf, not L2"):
        claim(folder, ABOUT, TrialConfig().override({"evaluation.norm": "L2"}), {})


@pytest.mark.parametrize("content", [b"a,b\n1\n", b"\xff\xfe", b"a,b\n1,2,3\n"])
def test_a_table_that_is_none_is_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "measured.csv").write_bytes(content)
    with pytest.raises(StudyError, match=r"measured\.csv: is no table \(.*\); remove it, and run"):
        read_csv(tmp_path / "measured.csv")


@pytest.mark.parametrize("content", [None, b"", b"{", b'{"ipc": 1}', b"\xff"])
def test_a_choice_that_cannot_be_read_is_none(content: bytes | None, folder: StudyFolder) -> None:
    path = folder.path / "best.json"
    path.unlink() if content is None else path.write_bytes(content)
    assert Results.read(folder).choice is None


def test_a_single_trial_knows_the_home_in_every_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "c.json").write_text(TrialConfig().to_json())
    (tmp_path / "link").symlink_to("gone")
    stores: list[Path] = []

    def pretend(config: Config, run_stage: object, report: object) -> TrialResult:
        return ended()

    monkeypatch.setattr(trial, "run_trial", pretend)
    monkeypatch.setattr(trial, "local_runner", lambda store: stores.append(store.root))
    assert trial.main(["~/c.json", "--output", "~/x"]) == 0
    assert stores == [tmp_path / "x" / "artifacts"]
    with pytest.raises(StudyError, match=f"--export: {tmp_path}/link is a link to gone"):
        trial.main(["~/c.json", "--output", "~/x", "--export", "~/link"])
    with pytest.raises(StudyError, match="--export: whole trains on the real images"):
        trial.main(["~/c.json", "--output", "~/x", "--export", "~/y", "--set", "method=whole"])
    with pytest.raises(StudyError, match=f"--output: cannot write in {tmp_path}/c.json/x"):
        trial.main(["~/c.json", "--output", "~/c.json/x"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is empty"),
        ("[" * 100_000, "it is nested more than 50 levels deep"),
        ('{"ipc": ' + "9" * 5000 + "}", "4300 digits"),
        ('{"seed": ' + "9" * 400 + "}", "seed: must be a whole number of at most 63 bits"),
        ('{"regularizer": {"h": NaN}}', "NaN is no JSON"),
        ('{"ipc": 1, "ipc": 2}', "an object has 'ipc' twice"),
        ('{"trial": 0, "config": {}}', "trial: no such field"),
        ("[]", "it holds no JSON object"),
        ('{"method": "' + "x" * 10_000 + '"}', "(10002 characters)"),
    ],
)
def test_absurd_json_in_a_config_file_is_one_short_line(
    text: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "c.json"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        trial.main([str(path), "--output", str(tmp_path)])
    line = str(caught.value)
    assert line.startswith(f"{path}: ") and message in line
    assert "\n" not in line and len(line) < 600


def test_an_error_of_the_file_system_is_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(argv: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/out/s/pareto.png")

    assert exit_code(full, []) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: /out/s is full (No space left on device); what is done is kept")
    assert error.count("\n") == 1


FILL = """
import sys
from pathlib import Path
from guard.errors import StudyError
from guard.trial import TrialConfig
from tune import places, timeline
from tune.results.folder import StudyFolder
from tune.results.records import Record

places.RETRY_FOR_S = 0.2
folder = StudyFolder(Path(sys.argv[1]), "s")
span = timeline.Span(stage="squeeze", key="k", worker="w", start=0.0, end=1.0)
ballast = folder.output / "ballast"
ballast.write_bytes(b"x" * 30_000)

def step(number):
    about = {"config": TrialConfig(), "params": {}, "control": False}
    folder.write(Record.failed("why", trial=number, **about))
    timeline.append(folder.path / timeline.FILE, [span] * 3)
    folder.write_tables(folder.records(), None)

for number in range(100):
    try:
        step(number)
    except StudyError as error:
        print(error)
        break
kept = len(folder.records())
half = [path.name for path in folder.path.rglob("*") if path.name.startswith(".")]
print(number > 3, kept - number, folder.left_out(), timeline.left_out(folder.path), half)
ballast.unlink()
step(number)
print(len(folder.records()) - number, len(timeline.read(folder.path)) - 3 * number)
"""


def test_on_a_full_disk_nothing_is_half_written_and_it_goes_on_with_room(tmp_path: Path) -> None:
    mount = f'mount -t tmpfs -o size=200k none {tmp_path} && exec {sys.executable} - "$@"'
    command = ["unshare", "-m", "sh", "-c", mount, "sh", str(tmp_path)]
    done = subprocess.run(command, input=FILL, capture_output=True, text=True)
    if done.returncode != 0 and ("permitted" in done.stderr or "superuser" in done.stderr):
        pytest.skip("a file system can be mounted by root alone")
    assert done.stderr == ""
    line, kept, went_on = done.stdout.splitlines()
    assert line.startswith(f"{tmp_path} is full (No space left on device); what is done is kept")
    assert kept in ("True 0 [] [] []", "True 1 [] [] []")
    assert went_on in ("1 3", "1 6")


def test_what_is_written_has_the_permissions_of_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        folder = StudyFolder(tmp_path / "out", "s")
        claim(folder, ABOUT, TrialConfig(), {})
        folder.write_tables([], None)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.path.iterdir()}
    assert set(modes.values()) == {0o640} and len(modes) == 4
    assert folder.path.stat().st_mode & 0o777 == 0o750
