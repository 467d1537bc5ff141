"""Where a study keeps its records, and the tables made from them."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import secrets
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from guard.artifacts import ArtifactStore, Damaged
from guard.objects import Objects, copy_of, is_uri
from guard.remote import store_at
from tune.options import MAX_CLEAN_DROP
from tune.places import retrying, sqlite_uri
from tune.results.front import barred, pareto_front
from tune.results.reading import read_object
from tune.results.records import CONFIRMATION, FOLDERS, SEARCH, Record
from tune.results.rows import row_of, to_csv

STUDY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
RESERVED = ("artifacts", "mlflow", "mlflow.db")
RECORD_NAME = re.compile(r"\d{5,}(-\d+)?\.json")
ASIDE = ".unreadable"
"""What the name of a record that cannot be read gets at its end."""


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace a file so that a reader never sees half of it; text is UTF-8, permissions are the
    umask's. Raises OSError, which names the file, and leaves nothing behind then."""
    own = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(own, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        with contextlib.suppress(OSError):
            own.unlink(missing_ok=True)


@dataclass(frozen=True)
class StudyFolder:
    """DIR/NAME and what lies in it. Several studies share one artifact store and one MLflow."""

    output: Path
    name: str
    uri: str = ""
    """Of the object store that the output is; then `output` is this machine's copy, and records are
    written and read there."""

    @classmethod
    def at(cls, place: str, name: str) -> StudyFolder:
        """place: an output folder, or the URI of one in an object store."""
        return cls(copy_of(place), name, place) if is_uri(place) else cls(Path(place), name)

    def __str__(self) -> str:
        return str(self.objects) if self.objects else str(self.path)

    @property
    def place(self) -> str:
        """What `at` takes on every machine."""
        return self.uri or str(self.output)

    @property
    def objects(self) -> Objects | None:
        """The study in the object store."""
        return Objects(self.uri).below(self.name) if self.uri else None

    @property
    def store_place(self) -> str:
        """Of the results of stages, as `store_at` takes it."""
        return Objects(self.uri).below("artifacts").uri if self.uri else str(self.artifacts)

    @property
    def store(self) -> ArtifactStore:
        """The results of stages."""
        return store_at(self.store_place)

    @property
    def path(self) -> Path:
        return self.output / self.name

    @property
    def artifacts(self) -> Path:
        return self.output / "artifacts"

    @property
    def storage_uri(self) -> str:
        return sqlite_uri(self.path / "optuna.db")

    @property
    def tracking_uri(self) -> str:
        return sqlite_uri(self.output / "mlflow.db")

    def record_path(self, record: Record) -> Path:
        """A file of its own for each trial of the search and each run of the confirmation."""
        seed = f"-{record.config['seed']}" if record.phase == CONFIRMATION else ""
        return self.path / FOLDERS[record.phase] / f"{record.trial:05d}{seed}.json"

    def write(self, record: Record) -> None:
        """Keep a record, in the place of an earlier one of the same run. Its paths are kept from
        the output folder on, so that this can be moved. Raises StudyError if it cannot be written
        for half a minute."""
        paths = {name: self._from_here(path) for name, path in record.paths.items()}
        text = json.dumps(asdict(replace(record, paths=paths)), indent=1)
        path = self.record_path(record)
        retrying(lambda: write_atomically(path, text), self.output)
        there = self.objects
        if there:
            retrying(lambda: there.write(self._name(path), text.encode()), self.output)

    def remove(self, record: Record) -> None:
        """Remove a record's file. Raises StudyError if that is refused for half a minute."""
        path = self.record_path(record)
        retrying(lambda: path.unlink(missing_ok=True), self.output)
        there = self.objects
        if there:
            retrying(lambda: there.remove(self._name(path)), self.output)

    def read(self, trial: int) -> Record | None:
        """The record of a trial of the search; None before there is one that can be read. Raises
        StudyError if the file system refuses for half a minute."""
        path = self.path / FOLDERS[SEARCH] / f"{trial:05d}.json"

        def found() -> Record | None:
            try:
                if self.objects:
                    write_atomically(path, self.objects.read(self._name(path)))
                return self._read(path)
            except (FileNotFoundError, ValueError):
                return None

        return retrying(found, self.output)

    def records(self) -> list[Record]:
        """Every trial of the search that can be read, by number. Raises OSError."""
        return self._found(SEARCH)[0]

    def confirmations(self) -> list[Record]:
        """Every run of the confirmation that can be read, by trial number and seed. Raises
        OSError."""
        return self._found(CONFIRMATION)[0]

    def every_record(self) -> list[Record]:
        """Of the search, then of the confirmation. Raises OSError."""
        return [*self.records(), *self.confirmations()]

    def left_out(self) -> list[str]:
        """A line for each file among the records that is none which can be read."""
        found = [self._found(phase)[1] for phase in FOLDERS]
        return [f"{path} is left out: {reason}" for bad in found for path, reason in bad.items()]

    def set_aside(self) -> list[str]:
        """Rename the records that cannot be read, and put damaged verdicts aside, so that their
        trials are repeated, and say so; a line also for what only looks like a record. Raises
        OSError."""
        lines, store = [], self.store
        for phase in FOLDERS:
            records, bad = self._found(phase)
            judged = {Path(path) for record in records for path in record.verdicts}
            lines += [str(damaged) for path in sorted(judged) if (damaged := store.refused(path))]
            for path, reason in bad.items():
                line = f"{path} is left out: {reason}"
                if RECORD_NAME.fullmatch(path.name):
                    self._put_aside(path)
                    line += f"; it is kept as {path.name}{ASIDE}, and its trial is repeated"
                lines.append(line)
        return lines

    def _put_aside(self, path: Path) -> None:
        aside = path.with_name(path.name + ASIDE)
        path.rename(aside)
        if self.objects:
            with contextlib.suppress(FileNotFoundError):
                self.objects.rename(self._name(path), self._name(aside))

    def _found(self, phase: str) -> tuple[list[Record], dict[Path, str]]:
        """The records of a phase, in order, and why each other file there is none."""
        records, bad = [], {}
        for path in sorted((self.path / FOLDERS[phase]).glob("[!.]*.json")):
            try:
                records.append(self._read(path))
            except FileNotFoundError:
                continue
            except ValueError as error:
                bad[path] = str(error)
        return sorted(records, key=lambda record: (record.trial, record.config["seed"])), bad

    def _read(self, path: Path) -> Record:
        """Raises OSError, and ValueError with a reason. A file that is as it was is read once."""
        if not RECORD_NAME.fullmatch(path.name):
            raise ValueError("no record has such a name")
        state = path.stat()
        return _kept(self, path, state.st_ino, state.st_mtime_ns, state.st_size)

    def _read_now(self, path: Path) -> Record:
        record = Record.from_json(read_object(path))
        if self.record_path(record) != path:
            raise ValueError(f"it is the record of {record.phase} {record.label}")
        paths = {name: str(self._here(Path(text))) for name, text in record.paths.items()}
        if self.objects:
            self._fetch(paths)
        return replace(record, paths=paths)

    def _fetch(self, paths: Mapping[str, str]) -> None:
        """Have here what reports and MLflow read of a trial's results, which is not the networks;
        what has been lost is not."""
        store = self.store
        parts = [part for part in paths if part == "distilled" or part.endswith("verdicts")]

        def fetch(part: str) -> None:
            with contextlib.suppress(Damaged):
                store.fetch(Path(paths[part]))

        with ThreadPoolExecutor(len(parts) or 1) as pool:
            list(pool.map(fetch, parts))

    def _name(self, path: Path) -> str:
        """Of a file of the study in the object store."""
        return path.relative_to(self.path).as_posix()

    def _from_here(self, path: str) -> str:
        place = Path(path)
        return str(place.relative_to(self.output) if place.is_relative_to(self.output) else place)

    def _here(self, path: Path) -> Path:
        """Where a path of a record is now. Old records have absolute ones, of an output folder that
        may have been moved: those of artifacts are in this one."""
        if path.is_absolute() and path.parts[-3:-2] == (self.artifacts.name,):
            return self.artifacts.joinpath(*path.parts[-2:])
        return self.output / path

    def write_results(self, records: Iterable[Record]) -> None:
        """results.csv: a row a trial of `records`, then of the confirmation. Raises StudyError if
        it cannot be written for half a minute."""
        rows = [row_of(record) for record in (*records, *self.confirmations())]
        self._write("results.csv", to_csv(rows))

    def write_tables(
        self,
        records: Iterable[Record],
        best: Record | None,
        max_clean_drop: float = MAX_CLEAN_DROP,
    ) -> None:
        """results.csv, pareto.csv and, if there is a choice, best.json: what `records` of a search
        say now, and which must not be chosen. Raises StudyError as `write_results` does."""
        records = list(records)
        why = barred(records, max_clean_drop)

        def row(record: Record) -> dict[str, Any]:
            return {**row_of(record), "barred": why.get(record.trial, "")}

        confirmed = [row_of(record) for record in self.confirmations()]
        self._write("results.csv", to_csv([*map(row, records), *confirmed]))
        self._write("pareto.csv", to_csv(map(row, pareto_front(records))))
        if best is not None:
            self._write("best.json", json.dumps(best.config, indent=2))

    def _write(self, name: str, text: str) -> None:
        retrying(lambda: write_atomically(self.path / name, text), self.output)


@functools.lru_cache(maxsize=2**14)
def _kept(folder: StudyFolder, path: Path, *state: int) -> Record:
    return folder._read_now(path)
