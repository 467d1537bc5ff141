"""Comparisons as tables for people, in percent."""

from __future__ import annotations

from collections.abc import Sequence

from guard.statistics import Estimate
from tune.comparison import Comparison
from tune.folder import StudyFolder, to_csv, write_atomically


def markdown(comparisons: Sequence[Comparison]) -> str:
    """The comparisons as a table for people, in percent; a gain is bold where its interval leaves
    zero out."""
    with_settings = any(comparison.arm.settings for comparison in comparisons)
    measured = comparisons[0].measured if comparisons else []
    columns = ["method", "IPC", "regularizer", *(["settings"] if with_settings else []), "seeds"]
    columns += measured + [f"Δ {name}" for name in measured]
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for comparison in comparisons:
        config = comparison.arm.config
        cells = [
            config.method,
            config.ipc,
            comparison.arm.penalty,
            *([comparison.arm.settings] if with_settings else []),
            comparison.clean.num_distillations,
            *(percent(comparison.found[name]) for name in measured),
            *(emphasized(comparison.gains.get(name)) for name in measured),
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def shared_attacks(comparisons: Sequence[Comparison]) -> list[str]:
    """What every arm has a figure of, attack by attack; empty where some ran them as a cascade."""
    if not all(comparison.attacks for comparison in comparisons):
        return []
    every = (name for comparison in comparisons for name in comparison.attacks)
    return [n for n in dict.fromkeys(every) if all(n in c.found for c in comparisons)]


def attack_markdown(comparisons: Sequence[Comparison]) -> str:
    """Accuracy under each attack alone, in percent; "" where the attacks ran as a cascade."""
    names = shared_attacks(comparisons)
    if not names:
        return ""
    columns = ["configuration", *(name.removeprefix("robust/") for name in names)]
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for comparison in comparisons:
        found = [comparison.found[name] for name in names]
        lines.append(f"| {comparison.arm.title} | {' | '.join(map(percent, found))} |")
    return "\n".join(lines) + "\n"


def write_comparisons(folder: StudyFolder, comparisons: Sequence[Comparison]) -> None:
    """comparison.csv, comparison.md and, with figures by attack, attacks.md; nothing for none."""
    if not comparisons:
        return
    rows = [comparison.row() for comparison in comparisons]
    write_atomically(folder.path / "comparison.csv", to_csv(rows))
    write_atomically(folder.path / "comparison.md", markdown(comparisons))
    attacks = attack_markdown(comparisons)
    if attacks:
        write_atomically(folder.path / "attacks.md", attacks)


def percent(found: Estimate) -> str:
    """The mean ± the deviation between distillation seeds."""
    spread = f" ± {100 * found.distillation_std:.1f}" if found.num_distillations > 1 else ""
    return f"{100 * found.mean:.1f}{spread}"


def signed_percent(found: Estimate | None) -> str:
    """The mean and its 95 % interval."""
    if found is None:
        return ""
    mean = f"{100 * found.mean:+.1f}"
    ends = f"[{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
    return f"{mean} {ends}"


def emphasized(found: Estimate | None) -> str:
    """`signed_percent`, its mean bold where the interval leaves zero out."""
    text = signed_percent(found)
    if found is None or not found.is_clear:
        return text
    mean, ends = text.split(" ", 1)
    return f"**{mean}** {ends}"
