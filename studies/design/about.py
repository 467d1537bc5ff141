"""What a study's folder says it is, so that another study is not mixed into it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from guard.errors import StudyError
from guard.trial import TrialConfig
from tune.results.folder import StudyFolder, write_atomically


@dataclass(frozen=True, kw_only=True)
class About:
    """A folder's study and the command that made it."""

    study: str
    command: str

    def note(self, folder: StudyFolder) -> str:
        """What the study's MLflow run says of itself, as Markdown."""
        report = "Report: artifact `report.html`."
        return f"Made by `{self.command}`.\n\n{report} Files: `{folder.path}`."

    @classmethod
    def read(cls, folder: StudyFolder) -> About:
        """Raises StudyError for a folder without a study."""
        try:
            return cls(**json.loads((folder.path / "about.json").read_text(encoding="utf-8")))
        except OSError:
            raise StudyError(f"{folder.path}: holds no study (there is no about.json)") from None


def claim(folder: StudyFolder, about: About, base: TrialConfig, varied: Mapping[str, str]) -> None:
    """Write what the folder's study is: about.json and study.json.

    varied: what differs between its trials, in words. Raises StudyError if the folder holds a study
    of another kind, config or variation.
    """
    path = folder.path / "study.json"
    now: dict[str, Any] = {"study": about.study, **base.stated(), **varied}
    del now["data.path"]  # data.sha256 says which data
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        for name in [n for n in (*now, *before) if before.get(n) != now.get(n)]:
            raise StudyError(
                f"--name: the study in {folder.path} was made with {name} = {before.get(name)}, "
                f"not {now.get(name)}; choose another --name"
            )
    write_atomically(path, json.dumps(now, indent=1))
    facts = {"study": about.study, "command": about.command}
    write_atomically(folder.path / "about.json", json.dumps(facts, indent=1))
