"""What a study's folder says it is, so that another study is not mixed into it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from guard.errors import StudyError
from guard.trial import TrialConfig
from tune.options import MAX_CLEAN_DROP
from tune.results.folder import StudyFolder, write_atomically
from tune.results.reading import read_object

STORAGES = ("optuna.db", "optuna.journal", "optuna.json")
"""Names of `tune.storage.FILES`, which loads Optuna."""
REMEDY = "the study's own command writes it again"
UNKNOWN = (
    "so what the study was made with is not known; choose another --name, or remove the file to go "
    "on with the settings of this command"
)


@dataclass(frozen=True, kw_only=True)
class About:
    """A folder's study and the command that made it."""

    study: str
    command: str
    max_clean_drop: float = MAX_CLEAN_DROP
    """Clean validation accuracy that a search's choice may lose to its control."""

    @property
    def module(self) -> str:
        """Of the command."""
        return f"studies.{self.study}"

    def note(self, folder: StudyFolder) -> str:
        """What the study's MLflow run says of itself, as Markdown."""
        report = "Report: artifact `report.html`."
        return f"Made by `{self.command}`.\n\n{report} Files: `{folder.path}`."

    @classmethod
    def read(cls, folder: StudyFolder) -> About:
        """Raises StudyError for a folder without a study, or with a file that does not say which;
        what else the file says is not read."""
        file = folder.path / "about.json"
        try:
            values = read_object(file)
        except FileNotFoundError:
            raise StudyError(f"{folder.path}: holds no study (there is no about.json)") from None
        except ValueError as error:
            raise StudyError(f"{file}: {error}; {REMEDY}") from None
        study, command = values.get("study"), values.get("command", "")
        drop = values.get("max_clean_drop")
        if not isinstance(study, str) or not isinstance(command, str):
            raise StudyError(f"{folder.path}: its about.json names no study, got {study!r:.60}")
        known = float(drop) if isinstance(drop, (int, float)) else MAX_CLEAN_DROP
        return cls(study=study, command=command, max_clean_drop=known)


@contextlib.contextmanager
def claimed(
    folder: StudyFolder, about: About, base: TrialConfig, varied: Mapping[str, str]
) -> Iterator[None]:
    """`claim` the folder. A new study that is refused before its first trial leaves it free."""
    is_new = settings_before(folder.path / "study.json") is None
    claim(folder, about, base, varied)
    try:
        yield
    except StudyError:
        if is_new and not folder.every_record():
            for name in ("study.json", "about.json", *STORAGES):
                (folder.path / name).unlink(missing_ok=True)
        raise


def claim(folder: StudyFolder, about: About, base: TrialConfig, varied: Mapping[str, str]) -> None:
    """Write what the folder's study is: about.json and study.json.

    varied: what differs between its trials, in words. Raises StudyError if the folder holds a study
    of another kind, config or variation.
    """
    path = folder.path / "study.json"
    now: dict[str, Any] = {"study": about.study, **base.stated(), **varied}
    del now["data.path"]  # data.sha256 says which data
    if "given.known" in now:  # and their contents which sets
        now["given.known"] = {own["path"]: own["sha256"] for own in now["given.known"]}
    before = settings_before(path)
    if before is not None:
        defaults = {name: v for name, v in TrialConfig().flat().items() if name in now}
        before = {**defaults, **before}  # a field that there was not then is as if it were not set
        for name in [n for n in (*now, *before) if before.get(n) != now.get(n)]:
            raise StudyError(
                f"--name: the study in {folder.path} was made with {name} = {before.get(name)}, "
                f"not {now.get(name)}; choose another --name"
            )
    facts = asdict(about)
    for name, values in (("study.json", now), ("about.json", facts)):
        write_atomically(folder.path / name, json.dumps(values, indent=1))


def settings_before(path: Path) -> dict[str, Any] | None:
    """What a study was made with; None for a new one. Raises StudyError for a file that does not
    say it."""
    try:
        values = read_object(path)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise StudyError(f"{path}: {error}; {UNKNOWN}") from None
    if "study" not in values:
        raise StudyError(f"{path}: is not of a study of this project; {UNKNOWN}")
    return values
