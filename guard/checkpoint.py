"""Checkpoints inside long stages: a killed one goes on from its last and ends in the same bytes."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from guard.sums import sha256

EVERY_S = 120.0
"""At least so long lies between two checkpoints: writing one takes a second or so."""
UNREADABLE = (OSError, RuntimeError, ValueError, EOFError, LookupError)


class Stateful(Protocol):
    """What a computation goes on from, as networks and optimizers have it: tensors and plain
    values."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> Any: ...


class Draws:
    """The state of a generator."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._generator.set_state(state["generator"])


class Images:
    """The state of images that are optimised in place, (…)."""

    def __init__(self, images: torch.Tensor) -> None:
        self._images = images

    def state_dict(self) -> dict[str, Any]:
        return {"images": self._images.detach()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._images.copy_(state["images"])


class Checkpoint:
    """The last state of one computation, in a folder of its own.

    A file is named by its SHA-256 and published by a rename; one that is damaged is ignored.
    """

    def __init__(
        self,
        folder: Path | None,
        every_s: float | None = None,
        earlier: Sequence[Path] = (),
        *,
        writes: bool = True,
    ) -> None:
        """folder: None keeps nothing. every_s: at least so long lies between two states. earlier:
        folders of states that it goes on from as long as it has none, the furthest first. writes:
        False for a process beside another, which keeps the same states."""
        self._folder, self._every_s = folder, EVERY_S if every_s is None else every_s
        self._earlier, self._writes = earlier, writes
        self._last = time.monotonic()

    def at(self, label: str) -> Checkpoint:
        """Of one part of the computation. label: a plain file name."""
        return Checkpoint(self._folder and self._folder / label, self._every_s, writes=self._writes)

    def restore(self, parts: Mapping[str, Stateful]) -> Any:
        """Put the parts into the last state that has them, and return how far it was; None without
        one. Raises what a part raises that does not take it: it is in no state then."""
        for file in self._known():
            state = _read(file)
            if state is not None and parts.keys() <= state["parts"].keys():
                for name, part in parts.items():
                    part.load_state_dict(state["parts"][name])
                return state["progress"]
        return None

    def offer(self, parts: Mapping[str, Stateful], progress: Any) -> None:
        """`save`, if the last one is long enough ago."""
        if time.monotonic() - self._last >= self._every_s:
            self.save(parts, progress)

    def save(self, parts: Mapping[str, Stateful], progress: Any) -> None:
        """Replace the last state. progress: plain values and tensors. A disk that is full or away
        costs the checkpoint, not the stage."""
        self._last = time.monotonic()
        if self._folder is None or not self._writes:
            return
        states = {name: part.state_dict() for name, part in parts.items()}
        with contextlib.suppress(OSError):
            self._replace({"parts": states, "progress": progress})

    def file(self, name: str, write: Callable[[Path], None]) -> Path:
        """Where a finished file of the computation lies, which is written at most once. It may be
        moved away at the end. Raises what `write` raises."""
        assert self._folder is not None
        for known in self._folder.glob(f"{name}.*"):
            if sha256(known) == known.suffix[1:]:
                return known
        self._folder.mkdir(parents=True, exist_ok=True)
        unfinished = self._folder / f".{name}-{secrets.token_hex(4)}"  # two processes may write it
        write(unfinished)
        return unfinished.rename(self._folder / f"{name}.{sha256(unfinished)}")

    def forget(self) -> None:
        """Remove its states; finished files stay."""
        for path in self._files():
            path.unlink(missing_ok=True)

    def _replace(self, state: Mapping[str, Any]) -> None:
        assert self._folder is not None
        self._folder.mkdir(parents=True, exist_ok=True)
        earlier = self._files()
        descriptor, name = tempfile.mkstemp(dir=self._folder, suffix=".part")
        try:
            with os.fdopen(descriptor, "wb") as file:
                torch.save(state, file)
            os.replace(name, self._folder / f"{sha256(Path(name))}.pt")
        except BaseException:
            os.unlink(name)
            raise
        for path in earlier:
            path.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        """Its own, the newest first."""
        times: dict[Path, int] = {}
        for file in self._folder.glob("*.pt") if self._folder else ():
            with contextlib.suppress(FileNotFoundError):  # another process has replaced it
                times[file] = file.stat().st_mtime_ns
        return sorted(times, key=lambda file: times[file], reverse=True)

    def _known(self) -> Iterator[Path]:
        """Every state, the furthest first."""
        yield from self._files()
        for folder in self._earlier:
            yield from folder.glob("*.pt")


def _read(file: Path) -> dict[str, Any] | None:
    """A state; None for a file that is damaged, or gone."""
    with contextlib.suppress(*UNREADABLE):
        if sha256(file) == file.stem:
            state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
            return state
    return None


NOWHERE = Checkpoint(None)
