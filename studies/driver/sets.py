"""Sets that somebody made (method = given): read where the command runs, before anything starts.

What planning needs of them goes into the configuration, and their images into the output folder, so
that no other machine needs the files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from guard.artifacts import ArtifactStore
from guard.errors import ConfigError, DataError
from guard.methods.given import GivenImages, SetFacts
from guard.pipeline import local_runner
from guard.stage import closure
from guard.trial import TrialConfig
from guard.trial_stages import TrialStages
from tune.places import typed
from tune.space import SearchSpace

PATH = "given.path"


def paths_in(settings: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """The sets that settings name, by config path."""
    for values in settings:
        if PATH in values:
            yield str(values[PATH])
        section = values.get("given")
        if isinstance(section, Mapping):
            yield str(section.get("path", ""))


def with_sets(base: TrialConfig, paths: Iterable[str]) -> TrialConfig:
    """The config with what is known of these sets, and of its own. Raises DataError for one that
    is none, or is not what the config was made with; StudyError for what is no path."""
    from guard.data.datasets import load_data
    from guard.methods.given.reading import facts_of

    named = [path for path in dict.fromkeys([base.given.path, *paths]) if path]
    if not named:
        return base
    spec, before = load_data(base.data).spec, {own.path: own for own in base.given.known}
    known: list[SetFacts] = []
    for path in named:
        place = typed(PATH, before[path].place if path in before else path)
        try:
            facts = facts_of(path, place, spec)
        except DataError as error:
            raise DataError(f"{PATH}: {error}") from None
        if path in before and facts.sha256 != before[path].sha256:
            raise DataError(
                f"{PATH}: {place} holds {facts.sha256[:12]}…, the configuration was made with "
                f"{before[path].sha256[:12]}…"
            )
        known.append(facts)
    return base.override({"given.known": known})


def spaced(space: SearchSpace) -> SearchSpace:
    """The space with what is known of its sets. Raises as `with_sets`."""
    choices = getattr(space.distributions.get(PATH), "choices", ())
    return SearchSpace(with_sets(space.base, map(str, choices)), space.distributions)


def check_named(config: TrialConfig) -> None:
    """Raises ConfigError for a trial of a set that names none."""
    if config.method == "given" and not config.given.path:
        raise ConfigError(PATH, "must name a set: a folder, an .npz or a .pt file; got ''")


def keep_sets(store: ArtifactStore, configs: Iterable[TrialConfig]) -> None:
    """Have the images of the trials' sets in the store."""
    parts = {
        stage.address: stage
        for config in configs
        if config.method == "given"
        for stage in closure(*TrialStages.of(config).parts)
        if isinstance(stage, GivenImages)
    }
    local_runner(store)(*parts.values())
