"""Whether a finished study is as its command left it: then it is only told, and neither Optuna's
storage nor MLflow nor what draws is opened.

A seal is the sums of everything that the report and MLflow's runs are made of, and of what they are
now, beside what was asked for. It holds for an output's own database: of a server nothing is known
without asking it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from guard.config.schema import digest
from guard.sums import sha256
from studies.driver.request import Request
from tune.results.folder import StudyFolder, write_atomically
from tune.results.reading import read_object
from tune.tracking.provenance import package_versions

FILE = ".sealed.json"
PACKAGES = ("guard", "tune", "studies")
CODE = (".py", ".j2")


def is_sealed(request: Request) -> bool:
    """Whether the same is asked for as before `seal`, and nothing has changed since."""
    if request.tracking:
        return False
    try:
        return read_object(request.folder.path / FILE) == state(request)
    except (OSError, ValueError):
        return False


def seal(request: Request) -> None:
    """The study is finished, its report written and delivered. Raises OSError."""
    if not request.tracking:
        write_atomically(request.folder.path / FILE, json.dumps(state(request)))


def state(request: Request) -> dict[str, str]:
    """Sums of what is asked for, of what the study is made with, of its folder and the verdicts of
    its trials, and of the output's MLflow. Raises OSError."""
    folder = request.folder
    code = [(str(path), sha256(path)) for path in sorted(sources())]
    files = [(path.name, sha256(path)) for path in sorted(contents(folder))]
    return {
        "output": str(folder.output),
        "asked": digest(asked(request)),
        "made_with": digest([package_versions(), code]),
        "files": digest(files),
        "verdicts": digest(sorted(verdicts(folder))),
        "mlflow": digest(sorted(tracked(folder))),
    }


def asked(request: Request) -> list[Any]:
    """What decides how much there is to do, beside what `study.json` says."""
    known = sorted(str(study) for study in request.known)
    options = request.options.to_dict()
    return [request.num_trials, request.sampler, known, request.seeds, options]


def sources() -> Iterator[Path]:
    """The lab's own files."""
    root = Path(__file__).parents[2]
    for package in PACKAGES:
        yield from (path for path in (root / package).rglob("*") if path.suffix in CODE)


def contents(folder: StudyFolder) -> Iterator[Path]:
    """Files of the study, but for those that say nothing of it (locks) or that the records say
    again (Optuna's storage)."""
    for path in folder.path.glob("**/[!.]*"):
        if path.is_file() and not path.name.startswith("optuna.db"):
            yield path


def verdicts(folder: StudyFolder) -> Iterator[str]:
    """Folders of the trials' verdicts that are there."""
    for record in folder.every_record():
        yield from (path for path in record.verdicts if Path(path).is_dir())


def tracked(folder: StudyFolder) -> Iterator[tuple[str, int, int]]:
    """Files of the output's MLflow: name, bytes, and when the database was written."""
    for path in folder.output.glob("mlflow.db*"):
        status = path.stat()
        yield path.name, status.st_size, status.st_mtime_ns
    for path in (folder.output / "mlflow").rglob("*"):
        if path.is_file():
            yield str(path.relative_to(folder.output)), path.stat().st_size, 0
