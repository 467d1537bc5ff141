"""Something that is done again and again beside something else."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def repeating(work: Callable[[], None], every_s: float) -> Iterator[None]:
    """Call `work` in a thread of its own every so often, for as long as this lasts; one that has
    begun is waited for. It must not raise."""
    stop = threading.Event()

    def go_on() -> None:
        while not stop.wait(every_s):
            work()

    thread = threading.Thread(target=go_on, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
