"""A network as it is on the way through its training."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from guard.checkpoint import Checkpoint
from guard.config.labels import kept_epochs
from guard.models.networks import Classifier
from guard.models.saving import kept_weights, weights_of


class OnTheWay:
    """A network as it is after some of the epochs of its training (`kept_epochs`), in files."""

    def __init__(self, epochs: int, checkpoint: Checkpoint, *, writes: bool = True) -> None:
        """writes: the first process of a group alone does."""
        self._wanted, self._checkpoint = kept_epochs(epochs), checkpoint
        self._epoch, self._writes = 0, writes

    def note(self, model: nn.Module) -> None:
        """After an epoch."""
        assert isinstance(model, Classifier)
        self._epoch += 1
        if self._writes and self._epoch in self._wanted:
            name, weights = kept_weights(self._epoch), weights_of(model)
            self._checkpoint.file(name, lambda path: save_file(weights, path))

    def copy_to(self, folder: Path) -> None:
        """Put the files into a folder, at the end. Raises OSError for one that is lost; the
        training then begins anew when it is asked for again."""
        for epoch in self._wanted:
            name = kept_weights(epoch)
            try:
                shutil.copyfile(self._checkpoint.file(name, _lost), folder / name)
            except OSError:
                self._checkpoint.forget()
                raise

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self._epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._epoch = state["epoch"]


def _lost(path: Path) -> None:
    raise OSError(f"{path}: the network that was kept is lost")
