"""What comes of a trial as MLflow knows such things: data sets, a student, files."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path

from guard.artifacts import Damaged, parsed_record
from guard.card import finished_card
from guard.config.data import DATASETS
from guard.trial import TrialConfig
from tune.results import wording
from tune.results.records import Record
from tune.tracking.held import THIS_RUN, Images, Student

REAL, DISTILLED = "real", "distilled"
FOLDER = "distilled"
"""Of a run's artifacts."""
IMAGES_FILE, LABELS_FILE = "images.safetensors", "labels.safetensors"
PICTURE, CARD = "images.png", "card.json"
FETCH = f"""The distilled set, where `MLFLOW_TRACKING_URI` is this place:

```python
folder = mlflow.artifacts.download_artifacts("runs:/{THIS_RUN}/{FOLDER}")
distilled = guard.DistilledSet.load(folder)
```"""
ALLOWED = str.maketrans({".": "·", **dict.fromkeys("/:%\"'", "-")})
"""A logged model's name may not have these."""
MAX_DIGEST = 32
MAX_LENGTH = 500
"""Of a parameter or a tag, in characters."""


def images_of(
    config: TrialConfig, places: Mapping[str, Path], largest_set: int
) -> tuple[Images, ...]:
    """The real data, then the distilled set if there is one, whose source is the run's artifact, or
    where it lies if it is larger than so many MiB."""
    folder = places.get("distilled")
    if folder is None or not config.distils:
        return (real_images(config),)
    uri = f"runs:/{THIS_RUN}/{FOLDER}" if is_delivered(folder, largest_set) else str(folder)
    made = Images(
        name=f"{config.data.name} by {wording.place(config)}",
        digest=digest(folder),
        context=DISTILLED,
        source_type="local",
        source=json.dumps({"uri": uri}),
    )
    return real_images(config), made


def is_delivered(folder: Path, largest_set: int) -> bool:
    """Whether the images of a distilled set, and the labels that lie beside them, are artifacts of
    its run."""
    sizes = {path.name: path.stat().st_size for path in tensors(folder)}
    return IMAGES_FILE in sizes and sum(sizes.values()) <= largest_set * 2**20


def tensors(folder: Path) -> list[Path]:
    """The files that are read with a distilled set's card."""
    places = (folder / name for name in (IMAGES_FILE, LABELS_FILE))
    return [path for path in places if path.is_file()]


def real_images(config: TrialConfig) -> Images:
    data = config.data
    where = DATASETS[data.name].source
    return Images(
        name=data.name,
        digest=(data.sha256 or data.fingerprint())[:MAX_DIGEST],
        context=REAL,
        source_type="local" if data.path else "code",
        source=json.dumps({"uri": data.path} if data.path else {"tags": {"source": where}}),
    )


def digest(folder: Path) -> str:
    """Of a distilled set's images, as they were written; of a set without sums, its key."""
    with contextlib.suppress(OSError, Damaged, LookupError):
        record = parsed_record(folder, (folder / "stage.json").read_bytes())
        return str(record["files"][IMAGES_FILE]["sha256"])[:MAX_DIGEST]
    return folder.name[:MAX_DIGEST]


def student_of(record: Record, config: TrialConfig, tags: Mapping[str, str]) -> Student:
    """To be ranked among those of other studies: by its configuration, and by what sets it apart in
    its own."""
    facts = {
        "data": config.data.name,
        "method": config.method,
        "ipc": config.ipc,
        "regularizer": wording.penalty(config.regularizer),
        "seed": config.seed,
        "phase": record.phase,
        "attacks": ", ".join(config.evaluation.attacks),
        "eps": config.evaluation.eps,
        **record.params,
    }
    name = f"{wording.title(config, record.params)} ({record.label})"
    return Student(
        name=name.translate(ALLOWED)[:MAX_LENGTH],
        tags=dict(tags),
        params={path: str(value)[:MAX_LENGTH] for path, value in facts.items()},
    )


def note_of(record: Record, places: Mapping[str, Path], largest_set: int) -> str:
    """What the page of a trial's run says first, as Markdown: how it ended, what sets it apart, and
    how its distilled set is had."""
    apart = wording.settings(record.params)
    folder = places.get("distilled")
    parts = [
        f"**{record.status}**: {record.reason}" if record.reason else "",
        f"In its study it has {apart}." if apart else "",
    ]
    if folder is not None:
        parts.append(FETCH if is_delivered(folder, largest_set) else f"Distilled set: `{folder}`.")
    return "\n\n".join(filter(None, parts))


def distilled_files(
    record: Record, config: TrialConfig, places: Mapping[str, Path], largest_set: int
) -> dict[str, Path | bytes]:
    """Of the distilled set, as far as there are any; the card says how good the teacher is. Of a
    set larger than so many MiB the picture and the card."""
    folder = places.get("distilled")
    if folder is None:
        return {}
    own = [path for path in (folder / PICTURE, folder / CARD) if path.is_file()]
    large = tensors(folder) if is_delivered(folder, largest_set) else []
    found: dict[str, Path | bytes] = {f"{FOLDER}/{path.name}": path for path in (*own, *large)}
    with contextlib.suppress(OSError, ValueError, LookupError):
        card = finished_card(folder, config, record.metrics)
        found[f"{FOLDER}/{CARD}"] = json.dumps(card, indent=1).encode()
    return found
