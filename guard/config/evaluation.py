"""The threat model and the attacks of an evaluation."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

from guard.config.common import Seed
from guard.config.rules import at_least
from guard.config.schema import Config
from guard.errors import ConfigError

Norm = Literal["Linf", "L2"]
Split = Literal["validation", "test"]

TARGETS = 9  # of the standard AutoAttack's targeted parts
AUTOATTACK_STEPS, SQUARE_QUERIES = 100, 5000
SPSA_STEPS, SPSA_DIRECTIONS = 20, 64


@dataclass(frozen=True, kw_only=True)
class AttackFacts:
    """A row of ATTACKS. The attack itself is in `guard.robustness.attacks`."""

    passes: int
    """Forward and backward passes of a sample that survives it, about."""
    linf_only: bool = False
    unbounded: bool = False
    """Whether it looks for the nearest adversarial example, at any distance (L2)."""


ATTACKS: Mapping[str, AttackFacts] = {
    "fgsm": AttackFacts(passes=2, linf_only=True),
    "mim": AttackFacts(passes=40, linf_only=True),
    "jitter": AttackFacts(passes=40, linf_only=True),
    "cw": AttackFacts(passes=100, unbounded=True),
    "deepfool": AttackFacts(passes=550, unbounded=True),
    "vmi": AttackFacts(passes=240, linf_only=True),
    "spsa": AttackFacts(passes=SPSA_STEPS * (2 * SPSA_DIRECTIONS + 1), linf_only=True),
    "apgd-ce": AttackFacts(passes=2 * AUTOATTACK_STEPS),
    "apgd-t": AttackFacts(passes=TARGETS * 2 * AUTOATTACK_STEPS),
    "fab-t": AttackFacts(passes=TARGETS * 3 * AUTOATTACK_STEPS),
    "square": AttackFacts(passes=SQUARE_QUERIES),
}
"""Attacks by name; beside these there are those of COUNTED."""
COUNTED: Mapping[str, int] = {"pgd": 2, "margin": 2, "square": 1}
"""pgd<k> and margin<k> take k steps, square<k> asks k times: passes of a step or a query."""
UNBOUNDED = tuple(name for name, facts in ATTACKS.items() if facts.unbounded)
AUTOATTACK = ("apgd-ce", "apgd-t", "fab-t", "square")
SUITES: Mapping[str, tuple[str, ...]] = {
    "autoattack": AUTOATTACK,
    "search": ("pgd20",),
    "paper": ("pgd100", "square", "autoattack", "cw", "mim"),
    "standard": ("autoattack",),
    "dd-robustbench": ("fgsm", "pgd10", "margin10", "vmi", "jitter", "autoattack"),
    "beard": ("fgsm", "pgd10", "cw", "deepfool", "spsa", "autoattack"),
}
"""Names that stand for several attacks: search is cheap, for trials; paper is GUARD's Table 2;
dd-robustbench is that benchmark's (arXiv 2403.13322; its CW in L_inf is PGD on the logit margin),
beard the other's (its Square is AutoAttack's)."""


@dataclass(frozen=True)
class Steps:
    """What pgd<k>, margin<k> and square<k> say."""

    kind: str
    count: int


def steps_of(name: str) -> Steps | None:
    """Of an attack of COUNTED; None for other names."""
    found = re.fullmatch(f"({'|'.join(COUNTED)})([1-9][0-9]{{0,8}})", name)
    return Steps(found[1], int(found[2])) if found else None


def radius_text(eps: float) -> str:
    """A radius as people write it: 8/255, 0.1."""
    short = f"{eps:g}"
    whole = round(eps * 255)
    is_fraction = float(short) != eps and abs(eps * 255 - whole) < 1e-9
    return f"{whole}/255" if is_fraction else short


def passes_of(name: str) -> int:
    """Forward and backward passes of a sample that survives the attack."""
    steps = steps_of(name)
    if steps is None:
        return ATTACKS[name].passes
    return steps.count * COUNTED[steps.kind]


def expanded(names: tuple[str, ...]) -> tuple[str, ...]:
    """The single attacks that the names stand for, each once, from cheap to strong."""
    found: set[str] = set()
    for name in names:
        found |= set(expanded(SUITES[name])) if name in SUITES else {name}
    return tuple(sorted(found, key=lambda name: (passes_of(name), name)))


def reported(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names that have a figure of their own: a suite's members, but autoattack as one."""
    members = [SUITES[n] if n in SUITES and n != "autoattack" else (n,) for n in names]
    return tuple(dict.fromkeys(name for group in members for name in group))


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(Config):
    """The threat model (a ball in pixels, images in [0, 1]), the attacks, and the samples."""

    norm: Norm = "Linf"
    eps: Annotated[float, at_least(0)] = 1 / 255
    """Radius of the ball, in pixels: what the search selects on and adversarial training uses."""
    more_eps: tuple[Annotated[float, at_least(0)], ...] = ()
    """Further radii that are reported."""
    attacks: tuple[str, ...] = ("pgd20",)
    """fgsm, mim, pgd<k>, margin<k> (PGD on the logit margin), jitter, vmi, spsa, apgd-ce, apgd-t,
    fab-t, square, square<k>, cw and deepfool (at any distance), or a suite: search, paper,
    standard, dd-robustbench, beard, autoattack."""
    cascade: bool = True
    """Each attack sees only the samples that the earlier, cheaper ones left right: the worst case
    is the same and costs less. False: each attack sees every sample that is right, so that each has
    a figure of its own."""
    diagnose: bool = True
    """Look for signs of an unreliable evaluation (gradient masking)."""
    splits: tuple[Split, ...] = ("validation", "test")
    """Where the student is evaluated."""
    seed: Seed = 0
    """Of the attacks."""
    batch_size: Annotated[int, at_least(1)] = 500
    max_samples: Annotated[int, at_least(1)] | None = None
    """Evaluate on so many images, drawn once for all seeds; None: on all."""

    NAMED: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"eps": 1 / 255, "attacks": ("paper",), "cascade": False},
        "standard": {
            "eps": 8 / 255,
            "more_eps": (1 / 255, 2 / 255, 4 / 255),
            "attacks": ("standard",),
        },
        "dd-robustbench": {"eps": 2 / 255, "attacks": ("dd-robustbench",), "cascade": False},
        "beard": {"eps": 8 / 255, "attacks": ("beard",), "cascade": False},
        "digits": {"eps": 0.1, "more_eps": (0.05, 0.2), "attacks": ("standard",)},
    }

    @property
    def radii(self) -> tuple[float, ...]:
        """Every radius, ascending."""
        return tuple(sorted({self.eps, *self.more_eps}))

    def attacking(self) -> EvaluationConfig:
        """Without what one attack's verdicts do not depend on: evaluations that differ in that
        share their stages."""
        plain = EvaluationConfig()
        return replace(
            self.reporting(), eps=plain.eps, more_eps=plain.more_eps, attacks=plain.attacks
        )

    def reporting(self) -> EvaluationConfig:
        """Without what is decided outside an evaluation's stages."""
        plain = EvaluationConfig()
        return replace(self, diagnose=plain.diagnose, splits=plain.splits)

    def check(self) -> None:
        """Unknown or doubled names, and attacks that have no meaning in the norm. Raises
        ConfigError."""
        known = (*ATTACKS, *SUITES)
        for position, name in enumerate(self.attacks):
            if name not in known and steps_of(name) is None:
                raise ConfigError(
                    f"attacks[{position}]",
                    f"no attack is named {name!r}; there are: pgd<steps>, margin<steps>, "
                    f"square<queries>, {', '.join(known)}",
                )
        for field, values in (("attacks", self.attacks), ("splits", self.splits)):
            if not values:
                raise ConfigError(field, "must name at least one")
            if len(set(values)) < len(values):
                raise ConfigError(field, f"must be distinct, got {', '.join(values)}")
        unfit = [n for n in expanded(self.attacks) if n in ATTACKS and ATTACKS[n].linf_only]
        if self.norm == "L2" and unfit:
            raise ConfigError("attacks", f"{', '.join(unfit)} attack in L_inf, got norm L2")
        for radius in self.radii:
            if self.norm == "Linf" and radius > 1:
                raise ConfigError("eps", f"must be at most 1 in L_inf, got {radius}")


AttackAt = tuple[float, str]
"""(radius in pixels, attack); the radius of an unbounded attack is infinite."""


def attacks_at(config: EvaluationConfig) -> list[AttackAt]:
    """The single attacks of an evaluation: from small radii to large, from cheap to strong."""
    names = expanded(config.attacks)
    free = [(math.inf, name) for name in names if name in UNBOUNDED]
    bounded = [name for name in names if name not in UNBOUNDED]
    return free + [(eps, name) for eps in config.radii for name in bounded]
