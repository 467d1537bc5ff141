"""Optuna on servers and in journals: what a search has there is what it has in a file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution

from guard.errors import StudyError
from servers import Postgres, free_port, mariadb, served
from tune.results.folder import StudyFolder
from tune.storage import ELSEWHERE, FILE, left_out, opened, stored, understood

PROXY = """
import optuna
optuna.storages.run_grpc_proxy_server(
    optuna.storages.RDBStorage({url!r}), host="127.0.0.1", port={port})
"""


def new_study(tmp_path: Path, name: str = "s") -> StudyFolder:
    made = StudyFolder(tmp_path / "runs", name)
    made.path.mkdir(parents=True)
    return made


def drawn(study: optuna.Study, count: int) -> list[dict[str, Any]]:
    """The parameters of trials that are asked for, and told."""
    study.sampler = optuna.samplers.TPESampler(seed=3, n_startup_trials=2)
    for _ in range(count):
        trial = study.ask({"x": FloatDistribution(0, 1)})
        study.tell(trial, (trial.params["x"], 1 - trial.params["x"] ** 2))
    return [trial.params for trial in study.get_trials()]


@contextmanager
def grpc_server(database: Path) -> Iterator[str]:
    """Its URL."""
    port = free_port()
    code = PROXY.format(url=f"sqlite:///{database}", port=port)
    with served([sys.executable, "-c", code], port, database.with_suffix(".log")):
        yield f"grpc://127.0.0.1:{port}"


def check_like_a_file(tmp_path: Path, url: str) -> None:
    expected = drawn(opened(new_study(tmp_path, "in-a-file")), 6)
    folder = new_study(tmp_path)
    first = opened(folder, url)
    assert first.study_name.startswith("s-") and drawn(first, 6) == expected
    again = opened(folder, url)
    assert again.study_name == first.study_name
    assert [trial.params for trial in again.trials] == expected
    found = stored(folder)  # as a report asks
    assert found is not None and [trial.params for trial in found.trials] == expected
    assert not (folder.path / FILE).exists() and left_out(folder) == []
    other = opened(new_study(tmp_path, "s2"), url)
    assert other.study_name.startswith("s2-") and other.trials == []


def test_a_journal_is_like_a_file(tmp_path: Path) -> None:
    check_like_a_file(tmp_path, f"journal:///{tmp_path}/search.log")


@pytest.mark.slow
def test_a_grpc_server_is_like_a_file(tmp_path: Path) -> None:
    pytest.importorskip("grpc")
    with grpc_server(tmp_path / "server.db") as url:
        check_like_a_file(tmp_path, url)
        folder = StudyFolder(tmp_path / "runs", "s")
    with pytest.raises(StudyError) as caught:
        opened(folder, url)
    assert str(caught.value).startswith(f"search.storage: {url}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_postgresql_is_like_a_file(
    tmp_path: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("PGPASSWORD", "se cret")
        check_like_a_file(tmp_path, postgres.uri.replace(":se%20cret", ""))
    folder = StudyFolder(tmp_path / "runs", "s")
    assert len(opened(folder, postgres.uri).trials) == 6
    [line] = left_out(folder)
    assert "no password supplied" in line and "\n" not in line


@pytest.mark.slow
def test_mysql_is_like_a_file(tmp_path: Path) -> None:
    pytest.importorskip("pymysql")
    with mariadb(tmp_path) as url:
        check_like_a_file(tmp_path, url)
        folder = StudyFolder(tmp_path / "runs", "s")
        with pytest.raises(StudyError, match=r"mysql\+pymysql://me@.*Access denied") as caught:
            opened(folder, url.partition("?")[0].replace("me@", "me:wrong@"))
        assert "wrong" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_password_stands_nowhere(tmp_path: Path, postgres: Postgres) -> None:
    folder = new_study(tmp_path)
    opened(folder, postgres.uri)
    said = (folder.path / ELSEWHERE).read_text(encoding="utf-8")
    assert "se%20cret" not in said and "me@127.0.0.1" in said
    with pytest.raises(StudyError) as caught:
        opened(folder, postgres.uri.replace("se%20cret", "wrong"))
    text = str(caught.value)
    assert "password authentication failed" in text and "wrong" not in text and "\n" not in text


@pytest.mark.slow
def test_a_postgresql_that_stops_is_one_line_and_is_found_again(
    tmp_path: Path, postgres: Postgres
) -> None:
    folder = new_study(tmp_path)
    study = opened(folder, postgres.uri)
    before = drawn(study, 2)
    postgres.stop()
    with pytest.raises(StudyError, match=r"search\.storage: .*the same command goes on"):
        with understood(folder):
            study.ask({"x": FloatDistribution(0, 1)})
    postgres.start()
    assert drawn(study, 0) == before


def test_another_place_begins_anew_and_leaves_the_first(tmp_path: Path) -> None:
    folder = new_study(tmp_path)
    drawn(opened(folder), 2)
    assert opened(folder, f"journal:///{tmp_path}/a.log").trials == []
    assert opened(folder, f"journal:///{tmp_path}/b.log").trials == []
    found = stored(folder)
    assert found is not None and found.trials == []


@pytest.mark.parametrize(
    "text", ["", "{}", '{"url": "journal:///x"}', '{"url": "redis://h", "study": "s"}', "[]"]
)
def test_an_optuna_json_that_says_nothing_is_one_line(text: str, tmp_path: Path) -> None:
    folder = new_study(tmp_path)
    (folder.path / ELSEWHERE).write_text(text, encoding="utf-8")
    with pytest.raises(StudyError) as caught:
        opened(folder)
    assert str(caught.value).startswith(f"{folder.path / ELSEWHERE}: does not say where")
    assert "\n" not in str(caught.value)


def test_a_journal_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"search\.storage: journal:////none/x: .*No such file"):
        opened(new_study(tmp_path), "journal:////none/x")
