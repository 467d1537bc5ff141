"""Which trials a study consists of: arms, their unregularized controls, and seeds."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution

from guard.errors import ConfigError, StudyError
from guard.trial import TrialConfig
from guard.trial_stages import WHOLE, Leg, TrialStages
from tune.results.records import SEEDS
from tune.runs import Run
from tune.space import Params, is_regularizer, reads

Settings = Mapping[str, Any]
"""Config path -> value."""


@dataclass(frozen=True, kw_only=True)
class Design:
    """Every combination of the axes' values, with each variant, beside its control."""

    axes: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Config path -> values."""
    variants: Sequence[Settings] = ({},)
    """What an arm has on top of the preset; {} is the preset's own regularizer, GUARD's."""
    single: Sequence[Settings] = ()
    """Further arms that are not crossed with the axes."""
    settings: Settings = field(default_factory=dict)
    """What every arm has on top of the preset."""
    leg: Leg = WHOLE
    """How far every trial goes."""

    @property
    def fixed(self) -> Settings:
        """What every arm has on top of the preset: nothing is selected, so test images alone."""
        return {"evaluation.splits": ["test"], **self.settings}

    def changed(self, settings: Mapping[str, Any]) -> Design:
        """With what a user set: choices are axes, a plain value takes the place of one, and of what
        a variant says of the same path.

        Raises StudyError for a distribution that is no choice, and for a seed.
        """
        axes, fixed = dict(self.axes), dict(self.settings)
        for path, value in settings.items():
            if path in SEEDS:
                raise StudyError(f"--set: {path} goes from 0 to --seeds, got {value}")
            axes.pop(path, None)
            fixed = {k: v for k, v in fixed.items() if k != path and not k.startswith(f"{path}.")}
            if isinstance(value, CategoricalDistribution):
                axes[path] = value.choices
            elif isinstance(value, BaseDistribution):
                raise StudyError(f"--set: {path} takes a value or choice(…) here; nothing is drawn")
            else:
                fixed[path] = value
        rest = [
            {k: v for k, v in variant.items() if k not in settings} for variant in self.variants
        ]
        variants = [v for number, v in enumerate(rest) if v not in rest[:number]]
        single = [s for s in self.single if not any(path in settings for path in s)]
        return replace(self, axes=axes, variants=variants, settings=fixed, single=single)

    def points(self) -> Iterator[Settings]:
        """Each combination of the axes' values."""
        for values in itertools.product(*self.axes.values()):
            yield dict(zip(self.axes, values, strict=True))

    def arms(self, base: TrialConfig) -> tuple[list[tuple[Settings, list[TrialConfig]]], list[str]]:
        """Each combination with its control and itself, and why others are left out.

        base: the preset with the user's plain values. A combination without meaning, such as a
        regularizer where nothing is trained on real images, or the own labels of a method that
        learns none, is left out, as long as each of its values has a meaning in another one. Raises
        ConfigError otherwise.
        """
        found: list[tuple[Settings, list[TrialConfig]]] = []
        wrong: list[tuple[Settings, ConfigError]] = []
        crossed = [{**p, **variant} for p in self.points() for variant in self.variants]
        for settings in [*crossed, *self.single]:
            try:
                found.append((settings, arm(base, settings)))
            except ConfigError as error:
                wrong.append((settings, error))
        used = {(path, repr(value)) for settings, _ in found for path, value in settings.items()}
        for settings, reason in wrong:
            if not all((path, repr(value)) in used for path, value in settings.items()):
                raise reason
        return found, list(dict.fromkeys(str(reason) for _, reason in wrong))

    def runs(self, base: TrialConfig, seeds: int) -> list[Run]:
        """Every trial once, seed by seed, a control before what is held against it. Of those that
        differ in what none of their stages reads, the first. Raises ConfigError (`arms`)."""
        every, _ = self.arms(base)
        return self.repeated(every, seeds)

    def repeated(
        self, every: Sequence[tuple[Settings, list[TrialConfig]]], seeds: int
    ) -> list[Run]:
        """The `arms` over seeds, as `runs` has them."""
        found: dict[tuple[str, ...], Run] = {}
        for seed in range(seeds):
            own = dict.fromkeys(SEEDS, seed)
            for settings, configs in every:
                for config in configs:
                    config = config.override(own)
                    control = not config.regularizer.active
                    plain = {k: v for k, v in unregularized(settings).items() if reads(config, k)}
                    penalty = {k: v for k, v in settings.items() if is_regularizer(k)}
                    params = {**plain, **({} if control else penalty)}
                    run = Run(
                        trial=len(found),
                        config=config,
                        params={**params, "seed": seed},
                        control=control,
                        leg=self.leg,
                    )
                    last = tuple(stage.address for stage in TrialStages.of(config).last)
                    found.setdefault(last, run)
        return list(found.values())


def arm(base: TrialConfig, settings: Settings) -> list[TrialConfig]:
    """The control of an arm and the arm itself, as far as its regularizer has a meaning. Raises
    ConfigError."""
    control = base.override({**unregularized(settings), "regularizer": "none"})
    if not control.can_be_regularized:
        return [control]
    # What is wrong with any config is an error; what is wrong here alone has no meaning here.
    TrialConfig().override({k: v for k, v in settings.items() if is_regularizer(k)})
    try:
        config = base.override(settings)
    except ConfigError as error:
        if not is_regularizer(error.path):
            raise
        return [control]
    return [control, config] if config.regularizer.active else [control]


def unregularized(settings: Settings) -> Params:
    return {k: v for k, v in settings.items() if not is_regularizer(k)}
