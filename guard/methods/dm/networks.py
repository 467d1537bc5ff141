"""The networks that features are matched on: a fresh one each time, or a queue of those that are
being trained on the real images.

What a network draws does not depend on the others, so a queue goes on from a checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from guard.data.augment import Augmenter
from guard.data.images import ImageSet, load_images
from guard.methods.dm import NetworksConfig
from guard.models.networks import Classifier
from guard.seeding import derive, generator
from guard.training.losses import TrainingLoss

MOMENTUM, WEIGHT_DECAY = 0.9, 5e-4

Build = Callable[[int], Classifier]
"""seed -> an untrained network, on its device."""


class Networks(Protocol):
    """Where an iteration gets its network from."""

    def draw(self, iteration: int) -> tuple[Classifier, float]:
        """A network, and its accuracy on its last training images, a share; 0 before any."""
        ...

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Fresh:
    """A network for each iteration."""

    build: Build
    seed: int

    def draw(self, iteration: int) -> tuple[Classifier, float]:
        return self.build(derive(self.seed, "network", iteration)), 0.0

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """There is none."""


class Member:
    """A network of the queue, and its training so far."""

    def __init__(self, number: int, model: Classifier, lr: float) -> None:
        self.number, self.model, self.accuracy, self.trained = number, model, 0.0, 0
        self.optimizer = torch.optim.SGD(
            model.parameters(), lr, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
        )

    def state_dict(self) -> dict[str, Any]:
        return {
            "number": self.number,
            "accuracy": self.accuracy,
            "trained": self.trained,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.accuracy, self.trained = state["accuracy"], state["trained"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])


@dataclass(kw_only=True)
class Queue:
    """IDM's: in each iteration a fresh network joins if it is time, some are trained, and one is
    drawn."""

    config: NetworksConfig
    build: Build
    seed: int
    loss: TrainingLoss
    images: ImageSet
    augment: Augmenter
    device: torch.device

    def __post_init__(self) -> None:
        self.joined = 0
        self.members: list[Member] = []
        for _ in range(self.config.initial):
            self.join()

    def join(self) -> None:
        """A fresh network joins, and the oldest leaves where there are too many."""
        self.members = [*self.members, self.member(self.joined)][-self.config.most :]
        self.joined += 1

    def member(self, number: int) -> Member:
        model = self.build(derive(self.seed, "network", number))
        return Member(number, model, self.config.lr)

    def draw(self, iteration: int) -> tuple[Classifier, float]:
        if iteration and iteration % self.config.every == 0:
            self.join()
        draws = generator(self.seed, "queue", iteration)
        order = torch.randperm(len(self.members), generator=draws)
        for index in order[: self.config.trained_at_once].tolist():
            self.train(self.members[index])
        drawn = self.members[int(torch.randint(len(self.members), (), generator=draws))]
        return drawn.model, drawn.accuracy

    def train(self, member: Member) -> None:
        """Some steps on real images; its accuracy is that of these, as seen."""
        model, correct, seen = member.model, 0, 0
        draws = generator(self.seed, "training", member.number, member.trained)
        model.train()
        for _ in range(self.config.steps):
            count = min(self.config.batch_size, len(self.images))
            chosen = torch.randint(len(self.images), (count,), generator=draws)
            x = self.augment(load_images(self.images, chosen, self.device), draws)
            y = self.images.y[chosen].to(self.device)
            loss, logits = self.loss(model, x, y, member.trained, draws)
            member.optimizer.zero_grad(set_to_none=True)
            loss.backward(inputs=list(model.parameters()))
            member.optimizer.step()
            correct += int((logits.argmax(dim=1) == y).sum())
            seen += count
        member.accuracy, member.trained = correct / seen, member.trained + 1

    def state_dict(self) -> dict[str, Any]:
        return {"joined": self.joined, "members": [own.state_dict() for own in self.members]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.joined, self.members = state["joined"], []
        for own in state["members"]:
            member = self.member(own["number"])
            member.load_state_dict(own)
            self.members.append(member)
