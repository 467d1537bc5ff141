"""Image trees: which file is an image of which class, and what of a folder is left out.

Hidden names and those that systems and programs leave behind are passed over, linked folders are
followed.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from guard.data.decode import SUFFIXES
from guard.data.names import shown
from guard.errors import DataError

LEFT_BEHIND = frozenset(
    {"@eaDir", "__MACOSX", "Thumbs.db", "desktop.ini", "$RECYCLE.BIN", "lost+found"}
)
"""By NAS boxes, macOS, Windows and file systems, beside what starts with a dot."""
ANNOTATIONS = "val_annotations.txt"

Place = tuple[int, int]
"""Device and inode of a folder, by whatever links it is reached."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """One part of a tree."""

    folder: Path
    files: tuple[Path, ...]
    labels: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Tree:
    """A folder with train/ and its held-out parts."""

    class_names: tuple[str, ...]
    parts: dict[str, Listing]
    """train, test and, if val/ lies beside test/, validation."""
    notes: tuple[str, ...]
    """What was left out, and which folder became what, where that is not plain."""


def list_tree(root: Path) -> Tree:
    """train/<class>/…, and test/ or val/ likewise; Tiny ImageNet's flat val/ with
    val_annotations.txt too. With both, val/ is the validation set.

    Raises DataError, which names the folder, for a tree without classes, images or a held-out part.
    """
    left_out: Counter[str] = Counter()
    folders, notes = _parts(root)
    classes = sorted(class_folders(folders["train"], Counter()))
    parts = {name: _listing(folder, classes, left_out) for name, folder in folders.items()}
    for part in parts.values():
        if not part.files:
            found = f"; left out: {_counted(left_out)}" if left_out else ""
            raise DataError(f"{shown(part.folder)}: holds no images{found}")
    if left_out:
        notes.append(f"left out of {shown(root)}: {_counted(left_out)}")
    return Tree(class_names=tuple(map(shown, classes)), parts=parts, notes=tuple(notes))


def class_folders(folder: Path, left_out: Counter[str]) -> dict[str, Path]:
    """By name; what lies beside them is counted in `left_out`."""
    found = {}
    for entry in _entries(folder, left_out):
        if entry.is_dir():
            found[entry.name] = Path(entry.path)
        elif _is_image(entry):
            left_out["outside the class folders"] += 1
        else:
            left_out[_kind(entry)] += 1
    return found


def holds_images(folder: Path) -> bool:
    """Whether image files lie in it, or in a folder of it."""
    ignored: Counter[str] = Counter()
    entries = list(_entries(folder, ignored))
    inner = (_entries(Path(entry.path), ignored) for entry in entries if entry.is_dir())
    return any(_is_image(entry) for entries in (entries, *inner) for entry in entries)


def _parts(root: Path) -> tuple[dict[str, Path], list[str]]:
    """The folder of each part by name, and notes."""
    held_out = [root / name for name in ("test", "val") if _has_labels(root / name)]
    notes = []
    if not held_out:
        there = sorted(class_folders(root, Counter()))
        raise DataError(
            f"data.path: {shown(root)} needs val/ or test/ with a folder a class, "
            f"has {', '.join(shown(name) + '/' for name in there)}"
        )
    folders = {"train": root / "train", "test": held_out[0]}
    if len(held_out) == 2:
        folders["validation"] = held_out[1]
        notes.append(
            f"{shown(held_out[1])} is the validation set; data.validation_fraction is not used"
        )
    elif held_out[0].name == "val" and (root / "test").is_dir():
        notes.append(f"{shown(root / 'test')} has no folder a class and is not used")
    return folders, notes


def _has_labels(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    return _is_annotated(folder) or bool(class_folders(folder, Counter()).keys() - {"images"})


def _is_annotated(folder: Path) -> bool:
    return (folder / ANNOTATIONS).is_file() and (folder / "images").is_dir()


def _listing(folder: Path, classes: list[str], left_out: Counter[str]) -> Listing:
    labels = {name: label for label, name in enumerate(classes)}
    if _is_annotated(folder):
        found = _annotated(folder, labels, left_out)
    else:
        there = class_folders(folder, left_out)
        unknown = sorted(there.keys() - labels.keys())
        if unknown:
            raise DataError(
                f"{shown(folder)}: has class '{shown(unknown[0])}', which train/ has not"
            )
        above = {_place(folder), _place(folder.parent)}
        found = [
            (file, labels[name])
            for name in classes
            if name in there
            for file in sorted(_images(there[name], above | {_place(there[name])}, left_out))
        ]
    return Listing(
        folder=folder,
        files=tuple(file for file, _ in found),
        labels=tuple(label for _, label in found),
    )


def _images(folder: Path, seen: set[Place], left_out: Counter[str]) -> Iterator[Path]:
    """Image files in and below a folder. seen: folders that are not entered (again)."""
    for entry in _entries(folder, left_out):
        if entry.is_dir():
            inner = Path(entry.path)
            if _place(inner) not in seen:
                seen.add(_place(inner))
                yield from _images(inner, seen, left_out)
        elif _is_image(entry):
            yield Path(entry.path)
        else:
            left_out[_kind(entry)] += 1


def _annotated(
    folder: Path, labels: dict[str, int], left_out: Counter[str]
) -> list[tuple[Path, int]]:
    """Files of images/ and their labels, by rows of "file, tab, class, tab, …"."""
    path, found = folder / ANNOTATIONS, []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise DataError(f"{shown(path)}: cannot be read ({reason})") from None
    for number, line in enumerate(lines, start=1):
        file, *columns = (column.strip() for column in line.split("\t"))
        if not line.strip():
            continue
        if not columns or Path(file).name != file:
            raise DataError(
                f"{shown(path)}: line {number} must be a file of images/, a tab and its class, "
                f"got '{shown(line)}'"
            )
        if columns[0] in labels:
            found.append((folder / "images" / file, labels[columns[0]]))
        else:
            left_out["of classes that train/ has not"] += 1
    return found


def _entries(folder: Path, left_out: Counter[str]) -> list[os.DirEntry[str]]:
    """By name, without hidden ones, which are counted. Raises DataError if it cannot be read."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{shown(folder)}: cannot be read ({error.strerror})") from None
    kept = [e for e in entries if not e.name.startswith(".") and e.name not in LEFT_BEHIND]
    if len(kept) < len(entries):
        left_out["hidden"] += len(entries) - len(kept)
    return kept


def _place(folder: Path) -> Place:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _is_image(entry: os.DirEntry[str]) -> bool:
    return _suffix(entry) in SUFFIXES


def _kind(entry: os.DirEntry[str]) -> str:
    if not Path(entry.path).exists():
        return "behind broken links"
    return shown(_suffix(entry)) or "without a suffix"


def _suffix(entry: os.DirEntry[str]) -> str:
    return Path(entry.name).suffix.lower()


def _counted(left_out: Counter[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in left_out.most_common())
