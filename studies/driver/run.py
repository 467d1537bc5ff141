"""One study from its checked request to its report, whatever kind of study it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from guard.errors import UserError
from guard.trial import TrialConfig
from guard.trial_stages import Leg
from studies.design.about import About, claimed
from studies.design.study import Story
from studies.driver.checks import parse_resources
from studies.driver.interrupts import Interrupts
from studies.driver.place import Place, settled_place
from studies.driver.request import Request
from studies.driver.seal import is_sealed, seal
from studies.driver.sets import keep_sets
from studies.driver.streams import epitaph, native_apart
from studies.driver.tracking import known_store, named_store, opened_store, unsafe_files
from studies.reporting.console import Terminal
from studies.reporting.terminal import print_cautions
from tune.copies import brought
from tune.places import held
from tune.resources import StageResources
from tune.results.cautions import after, before
from tune.results.findings import Results
from tune.results.tables import write_comparisons

if TYPE_CHECKING:
    from studies.driver.session import Session
    from tune.tracking.store import Store


RAY_LOG = "ray.log"
"""In a study's folder: what Ray's native code says in the driver."""
LOST = "\nthe study's process has ended at once: it was killed, or the head of its Ray is gone"


class Job(Protocol):
    """A study with everything settled and checked. It holds what differs between one whose trials
    Optuna draws and one whose trials are known; `run` does the rest."""

    @property
    def story(self) -> Story: ...

    @property
    def request(self) -> Request: ...

    @property
    def base(self) -> TrialConfig:
        """The config of every trial, as far as it is the same."""

    @property
    def configs(self) -> Sequence[TrialConfig]:
        """Of its trials, as far as they are known beforehand."""

    @property
    def cautions(self) -> Sequence[str]:
        """What is to be known of the study itself before it runs, a line each."""

    @property
    def varied(self) -> Mapping[str, str]:
        """What differs between the trials, in words by name."""

    def print_plan(self, console: Terminal) -> None:
        """The answer to --dry-run."""

    def counted(self) -> tuple[int, int]:
        """Finished trials and all of them. The study's folder is locked, as it is for all that
        follows."""

    def unfinished(self) -> str:
        """What is missing, in words; "" when nothing is."""

    def queued(self) -> Iterable[tuple[TrialConfig, Leg]]:
        """The first leg of trials that are missing, in the order in which they are run."""

    def work(self, session: Session) -> None:
        """Do what is missing. A KeyboardInterrupt may end it; what is done is kept."""

    def write_tables(self) -> None:
        """Tables of the trials there are."""

    def print_summary(self, console: Terminal, results: Results) -> None:
        """What the study says, and where things are."""


def run(job: Job) -> int:
    """Do what is missing of a study, or answer --dry-run. 0 if it is finished then, 1 if something
    of it failed, or the code of the signal that ended it (`Interrupts`).

    Raises StudyError for resources or a place that are not there, or a folder that is taken.
    """
    console = Terminal()
    resources = parse_resources(job.request.resources, job.base)
    print_cautions(console, [*before(job.configs), *job.cautions])
    if not job.request.dry_run:
        return carry_out(console, job, resources)
    job.print_plan(console)
    return 0


def carry_out(console: Terminal, job: Job, resources: StageResources) -> int:
    """Lock and claim the folder, run what is missing, write and tell what there is.

    Raises StudyError, before anything is run.
    """
    folder, about = (
        job.request.folder,
        About(
            study=job.story.name,
            command=job.request.command,
            max_clean_drop=job.request.options.search.max_clean_drop,
        ),
    )
    place = settled_place(job.request, resources)
    named = named_store(console, job.request)
    with (
        held(folder.path) as warning,
        brought(folder),
        Interrupts() as asked,
        claimed(folder, about, job.base, job.varied),
    ):
        folder.store.remove_abandoned()
        warnings = [*([warning] if warning else []), *unsafe_files(job.request)]
        for line in [*warnings, *folder.set_aside()]:
            console.warn(line)
        if is_sealed(job.request):
            console.print(f"study {folder} is finished, and as it was left")
            tell(console, job, Results.read(folder))
            return 0
        finished, all_trials = job.counted()
        console.print(f"study {folder}: {finished} of {all_trials} trials are finished")
        if job.unfinished():
            tell(console, job, worked(console, job, about, place, asked, named))
            return say_how_to_go_on(console, job, asked)
        tell(console, job, completed(console, job, about, named))
        return 0


def tell(console: Terminal, job: Job, results: Results) -> None:
    """What the study says, and what is to be taken with caution."""
    job.print_summary(console, results)
    print_cautions(console, after(results.records))


def worked(
    console: Terminal, job: Job, about: About, place: Place, asked: Interrupts, named: Store | None
) -> Results:
    """Do what is missing on Ray; write and deliver what there is then."""
    from guard.data.datasets import load_data
    from studies.driver.dryrun import print_notes
    from studies.driver.session import close, opened  # they import Ray

    request, folder = job.request, job.request.folder
    print_notes(console, load_data(job.base.data), job.base.compute)
    keep_sets(folder.store, job.configs)
    store = named or known_store(console, request)
    with (
        epitaph(f"{LOST}; what is done is kept. Go on:\n  {request.command}"),
        native_apart(None if place.run.verbose else folder.path / RAY_LOG),
        opened(console, request, place, about, job.base, job.queued(), store) as session,
    ):
        asked.until(lambda: go_on(console, job, session))
        results = write(job, about)
        done = not job.unfinished()
        delivered = close(console, session, job.story, results, done=done)
    if done and delivered:
        seal(request)
    return results


def go_on(console: Terminal, job: Job, session: Session) -> None:
    """The job's work, as far as it goes: what ends it, such as a full disk, is said."""
    try:
        job.work(session)
    except UserError as error:
        console.warn(f"error: {error}")


def completed(console: Terminal, job: Job, about: About, named: Store | None) -> Results:
    """Write and deliver a finished study."""
    from studies.reporting.delivery import deliver
    from tune.tracking.tracker import Tracker

    folder, results = job.request.folder, write(job, about)
    store = named or opened_store(console, job.request)
    tracker = Tracker(folder, store, about.note(folder), about.module, about.max_clean_drop)
    if deliver(console, tracker, job.story, results):
        seal(job.request)
    return results


def write(job: Job, about: About) -> Results:
    """Tables and the report of what there is."""
    from studies.reporting.page import write_report  # imports what draws

    job.write_tables()
    results = Results.read(job.request.folder)
    write_comparisons(results.folder, results.comparisons)
    write_report(job.story, results, about)
    return results


def say_how_to_go_on(console: Terminal, job: Job, asked: Interrupts) -> int:
    """The exit code, and what to do if it is not 0."""
    missing = job.unfinished()
    if not missing:
        return 0
    console.print(
        f"\n{missing} are unfinished; what is done is kept. Go on:\n  {job.request.command}"
    )
    return asked.exit_code if asked.first else 1
