"""Whether a finished study is as its command left it: then nothing of it is written or delivered,
and neither MLflow nor what draws is loaded.

A seal is the sums of everything that the report and MLflow's runs are made of, and of what they are
now. It holds for an output's own database: of a server nothing is known without asking it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from guard.config.schema import digest
from guard.sums import sha256
from tune.results.folder import StudyFolder, write_atomically
from tune.results.reading import read_object
from tune.tracking.options import TrackingConfig
from tune.tracking.provenance import package_versions

FILE = ".sealed.json"
PACKAGES = ("guard", "tune", "studies")
CODE = (".py", ".j2")


def is_sealed(folder: StudyFolder, tracking: TrackingConfig) -> bool:
    """Whether nothing has changed since `seal`."""
    try:
        return read_object(folder.path / FILE) == state(folder, tracking)
    except (OSError, ValueError):
        return False


def seal(folder: StudyFolder, tracking: TrackingConfig) -> None:
    """The study's report is written and delivered. Raises OSError."""
    write_atomically(folder.path / FILE, json.dumps(state(folder, tracking)))


def state(folder: StudyFolder, tracking: TrackingConfig) -> dict[str, str]:
    """Sums of what the study is made with, of its folder, and of the output's MLflow. Raises
    OSError."""
    code = [(str(path), sha256(path)) for path in sorted(sources())]
    files = [(path.name, sha256(path)) for path in sorted(contents(folder))]
    return {
        "output": str(folder.output),
        "made_with": digest([package_versions(), code, tracking.to_dict()]),
        "files": digest(files),
        "mlflow": digest(sorted(tracked(folder))),
    }


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


def tracked(folder: StudyFolder) -> Iterator[tuple[str, int, int]]:
    """Files of the output's MLflow: name, bytes, and when the database was written."""
    for path in folder.output.glob("mlflow.db*"):
        status = path.stat()
        yield path.name, status.st_size, status.st_mtime_ns
    for path in (folder.output / "mlflow").rglob("*"):
        if path.is_file():
            yield str(path.relative_to(folder.output)), path.stat().st_size, 0
