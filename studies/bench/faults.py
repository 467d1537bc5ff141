"""Faults that a study may meet, each a function of where it strikes."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping

from studies.bench.arena import MACHINES, Arena
from studies.bench.machines import kill

AWAY_S = 4.0
"""For how long a server is away, and a disk full."""


def end_driver(arena: Arena, number: signal.Signals) -> str:
    if arena.driver is None or arena.driver.poll() is not None:
        return ""
    arena.driver.send_signal(number)
    return number.name


def end_machine(arena: Arena) -> str:
    name = arena.draws.choice(MACHINES)
    arena.cluster.kill(name)
    arena.cluster.join(name, 1)
    return name


def end_head(arena: Arena) -> str:
    """All of the cluster goes with it, and another one comes."""
    for process in arena.cluster.running("", "head"):
        kill(process)
    arena.cluster.stop()
    arena.cluster.start()
    for name in MACHINES:
        arena.cluster.join(name, 1)
    return "and another cluster"


def end_server(arena: Arena) -> str:
    arena.tracking.stop()
    time.sleep(AWAY_S)
    arena.tracking.start()
    return f"for {AWAY_S:g} s"


def flip(arena: Arena) -> str:
    files = [file for file in arena.stored() if file.stat().st_size]
    if not files:
        return ""
    file = arena.draws.choice(files)
    content = bytearray(file.read_bytes())
    content[arena.draws.randrange(len(content))] ^= 1 << arena.draws.randrange(8)
    file.write_bytes(content)
    return str(file.relative_to(arena.output))


def cut(arena: Arena) -> str:
    files = arena.stored()
    if not files:
        return ""
    file = arena.draws.choice(files)
    os.truncate(file, arena.draws.randrange(file.stat().st_size + 1))
    return str(file.relative_to(arena.output))


def fill(arena: Arena) -> str:
    if not arena.has_disk:
        return ""
    ballast = arena.output.parent / "ballast"
    with ballast.open("wb") as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(2**20))
            file.flush()
    time.sleep(AWAY_S)
    ballast.unlink()
    return f"for {AWAY_S:g} s"


FAULTS: Mapping[str, Callable[[Arena], str]] = {
    "driver killed": lambda arena: end_driver(arena, signal.SIGKILL),
    "driver asked to end": lambda arena: end_driver(arena, signal.SIGTERM),
    "stage killed": lambda arena: arena.one_of("ray::stage"),
    "coordinator killed": lambda arena: arena.one_of("ray::ImplicitFunc"),
    "desk killed": lambda arena: arena.one_of("ray::Desk"),
    "machine killed": end_machine,
    "head killed": end_head,
    "MLflow killed": end_server,
    "bit flipped": flip,
    "file cut off": cut,
    "disk full": fill,
}
"""What a fault does; it says what it has struck, or "" if there was nothing to strike."""
WEIGHTS: Mapping[str, float] = {"head killed": 0.3}
"""How often, against the others' 1."""


def strike(arena: Arena) -> tuple[str, str]:
    """One fault, of those that find something to strike: its name and what that was."""
    names, weights = list(FAULTS), [WEIGHTS.get(name, 1.0) for name in FAULTS]
    struck = ""
    while not struck:
        (name,) = arena.draws.choices(names, weights)
        struck = FAULTS[name](arena)
    return name, struck
