"""Remove results that no study of an output folder needs.

A study needs every stage of its trials; they make its report and are what it goes on from. What is
left of deleted studies, of older versions and of single trials goes, the oldest first. What stages
have come to on their way goes a week after they were last at work.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from guard.errors import StudyError
from guard.objects import Objects, Stored, is_uri
from guard.stage import closure
from guard.trial import TrialConfig
from guard.trial_stages import TrialStages, landscapes, plan
from studies.driver import flags
from studies.driver.checks import typed_place
from studies.reporting.console import Terminal
from studies.reporting.progress import duration
from tune.copies import brought
from tune.places import held
from tune.results.folder import RESERVED, StudyFolder
from tune.results.records import FOLDERS

OWN = ("about.json", *FOLDERS.values())
"""What a study's folder has, one or the other."""
DAY_S = 24 * 3600.0


@dataclass(frozen=True, kw_only=True)
class Leftover:
    """A result that no study needs."""

    address: str
    num_bytes: int
    age_s: float
    """Since it was written."""


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m studies.clean", description=__doc__)
    parser.add_argument("output", metavar="DIR", help="an output folder, as --output names it")
    parser.add_argument(
        "--older-than",
        type=float,
        default=7.0,
        metavar="DAYS",
        help="leave what is younger (default: 7)",
    )
    parser.add_argument(
        "--keep",
        type=float,
        default=0.0,
        metavar="GIB",
        help="leave the youngest of it, up to so much (default: 0)",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would go; remove nothing")
    return parser


def main(argv: Sequence[str]) -> int:
    """Clean the folder. Raises StudyError for a folder that is none, or one of whose studies is
    running."""
    args = parser().parse_args(argv)
    for flag, value in (("--older-than", args.older_than), ("--keep", args.keep)):
        if not value >= 0:
            raise StudyError(f"{flag}: must be at least 0, got {value:g}")
    output = typed_place("DIR", args.output)
    folders, store = studies(output), StudyFolder.at(output, "").store
    sizes, console = store.sizes(), Terminal()
    if not sizes:
        raise StudyError(f"{args.output}: holds no results of studies (no folder artifacts)")
    with contextlib.ExitStack() as locks:
        for folder in folders:
            locks.enter_context(held(folder.path))  # what it computes is in no record yet
            locks.enter_context(brought(folder))
        going = list(chosen(leftovers(sizes, folders), args.older_than * DAY_S, args.keep * 2**30))
        for leftover in going:
            size = f"{leftover.num_bytes / 2**20:.1f} MiB"
            console.print(f"{leftover.address}  {size}, {duration(leftover.age_s)} old")
            if not args.dry_run:
                store.discard(leftover.address)
    total = sum(leftover.num_bytes for leftover in going) / 2**20
    would = "would be removed" if args.dry_run else "removed"
    console.print(f"{len(going)} results, {total:.1f} MiB {would}; {len(folders)} studies kept")
    return 0


def studies(output: str) -> list[StudyFolder]:
    """Those of an output folder, or of one in an object store: what has a record or an about.json.
    Raises StudyError."""
    try:
        files: Iterable[str]
        if is_uri(output):
            files = Objects(output).files()
        else:
            folders = (path for path in Path(output).iterdir() if path.is_dir())
            files = [f"{path.parent.name}/{path.name}" for f in folders for path in f.iterdir()]
    except OSError as error:
        raise StudyError(f"{output}: cannot be read ({error.strerror or error})") from None
    inside = (name.split("/") for name in files)
    names = {parts[0] for parts in inside if parts[1:2] and parts[1] in OWN}
    return [StudyFolder.at(output, name) for name in sorted(names) if name not in RESERVED]


def needed(folder: StudyFolder) -> set[str]:
    """Addresses of everything that a study's trials are made of, and of what those that were
    stopped have come to. Raises StudyError for a record that cannot be read."""
    for line in folder.left_out():
        raise StudyError(f"{line}; what its trial needs is not known, so nothing is removed")
    found: set[str] = set()
    for record in folder.every_record():
        config = TrialConfig.from_dict(record.config)
        looks = TrialStages.of(config).rungs if record.rung else ()
        seen = closure(*(look[-1] for look in looks))
        stages = (*plan(config), *landscapes(config).values(), *seen)
        found |= {stage.address for stage in stages}
    return found


def leftovers(sizes: Mapping[str, Stored], folders: Iterable[StudyFolder]) -> list[Leftover]:
    """Of the results of a store, by address, what no study needs; the youngest first."""
    kept = {address for folder in folders for address in needed(folder)}
    now = time.time()
    found = [
        Leftover(address=address, num_bytes=stored.num_bytes, age_s=now - stored.written)
        for address, stored in sizes.items()
        if address not in kept
    ]
    return sorted(found, key=lambda leftover: leftover.age_s)


def chosen(found: Iterable[Leftover], older_than_s: float, keep_bytes: float) -> Iterator[Leftover]:
    """What goes, of leftovers of which the youngest come first."""
    left = keep_bytes
    for leftover in found:
        left -= leftover.num_bytes
        if leftover.age_s >= older_than_s and left < 0:
            yield leftover


if __name__ == "__main__":
    flags.run(main)
