"""Words of caution about what a study compares. Nothing is refused for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from guard.config import ModelConfig
from guard.methods.sre2l import SRe2L
from guard.trial import TrialConfig
from tune.results.records import Record

APART = 100
"""How many times a BatchNorm loss may be another's before a weight cannot suit both."""

Weight = tuple[str, float]
"""A method, and the weight that it gives the BatchNorm loss."""


def before(configs: Iterable[TrialConfig]) -> list[str]:
    """What is to be known of trials before they run: each method's own cautions, and weights of
    sums over BatchNorm layers that several networks share, of one trial or of several. Each
    once."""
    every = list(configs)
    own = [line for config in every for line in config.own.cautions(config.shared)]
    shared: dict[Weight, dict[str, None]] = {}
    for config in every:
        if isinstance(config.own, SRe2L) and config.own.bn_scale == "sum":
            networks = map(described, config.own.networks(config.shared).values())
            shared.setdefault(weight(config), {}).update(dict.fromkeys(networks))
    for (method, value), names in shared.items():
        if len(names) > 1:
            own.append(
                f"{method}.bn_weight = {value:g} is shared by {' and '.join(names)}: their "
                "BatchNorm losses are sums over other layers, so give each network its own, or set "
                "bn_scale = mean"
            )
    return list(dict.fromkeys(own))


def after(records: Sequence[Record]) -> list[str]:
    """Networks under one weight whose BatchNorm losses have turned out to be far apart."""
    losses: dict[Weight, dict[str, list[float]]] = {}
    for record in records:
        config = TrialConfig.from_dict(record.config)
        loss = record.metrics.get("distilled/bn_loss")
        if isinstance(config.own, SRe2L) and loss is not None:
            networks = losses.setdefault(weight(config), {})
            networks.setdefault(described(config.model), []).append(loss)
    found = [(key, networks) for key, networks in losses.items() if ratio(networks) >= APART]
    return [far_apart(*key, networks) for key, networks in found]


def ratio(networks: Mapping[str, Sequence[float]]) -> float:
    means = [sum(values) / len(values) for values in networks.values()]
    return max(means) / max(min(means), 1e-12) if max(means) > 0 else 1.0


def far_apart(method: str, value: float, networks: Mapping[str, Sequence[float]]) -> str:
    ordered = sorted(networks, key=lambda name: sum(networks[name]) / len(networks[name]))
    return (
        f"the BatchNorm loss of {ordered[-1]} is {ratio(networks):.0f} times that of {ordered[0]} "
        f"under the same {method}.bn_weight = {value:g}: the two arms are not weighed alike"
    )


def weight(config: TrialConfig) -> Weight:
    own: Any = config.own
    return config.method, own.bn_weight


def described(model: ModelConfig) -> str:
    return f"{model.name} of depth {model.depth}" if model.reads_width else model.name
