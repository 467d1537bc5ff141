"""What a study's folder says of its runs in MLflow, which other studies' folders do not."""

from __future__ import annotations

import json
import uuid
from typing import Any

from guard.errors import StudyError
from tune.results.folder import StudyFolder, write_atomically

FILE = "mlflow.json"
EXPERIMENT = "robust-distillation"
"""Where nothing else is said."""


def experiment_of(folder: StudyFolder, asked: str) -> str:
    """The name of the study's experiment: the one that is asked for, or that it was in before.
    Raises StudyError for a file that does not say it."""
    return asked or _read(folder).get("experiment") or EXPERIMENT


def identity(folder: StudyFolder, experiment: str) -> str:
    """What tells the study from others of its name, kept in its folder with the experiment that it
    is in. Raises StudyError for a file that does not say it."""
    before = _read(folder)
    now = {**before, "id": before.get("id") or uuid.uuid4().hex}
    if experiment != EXPERIMENT or "experiment" in before:
        now["experiment"] = experiment
    if now != before:
        write_atomically(folder.path / FILE, json.dumps(now))
    return str(now["id"])


def remember_page(folder: StudyFolder, page: str) -> None:
    """Keep the address of the study's page in MLflow's UI, after that of the UI."""
    before = _read(folder)
    if before.get("page") != page:
        write_atomically(folder.path / FILE, json.dumps({**before, "page": page}))


def page_of(folder: StudyFolder) -> str:
    """ "" before there is one. Raises StudyError for a file that does not say it."""
    return str(_read(folder).get("page", ""))


def _read(folder: StudyFolder) -> dict[str, Any]:
    file = folder.path / FILE
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
        found = {}
    if "id" not in found:
        raise StudyError(
            f'{file}: must be {{"id": …}}; without it MLflow gets every run anew'
        ) from None
    return found
