from __future__ import annotations

import signal

import pytest

from studies.driver.session import sigterm_interrupts


def test_the_first_sigterm_interrupts_and_the_next_do_not() -> None:
    with sigterm_interrupts():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
