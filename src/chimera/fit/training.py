"""A run on its way: the stack, its optimizer, and where in the data it stands."""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from chimera.draws.counter import member_keys
from chimera.draws.outside import drew, states
from chimera.engine import train_step
from chimera.fit.data import Data, Part
from chimera.fit.evaluate import Figures, ensemble_figure, evaluate
from chimera.fit.order import batches, order
from chimera.fit.quarantine import Quarantine
from chimera.fit.recorded import Recorded
from chimera.fit.result import Row
from chimera.fit.settings import Settings
from chimera.fit.standing import Standing
from chimera.fit.together import Alone
from chimera.optim.groups import member_path
from chimera.stack import Stack, each
from chimera.stack.carry import Carried, GroupState, Uncarriable

Poll = Callable[[], None]


def go_on() -> None:
    """Nobody asks the run to stop."""


class Training:
    """A run between its first step and its last.

    Args:
        stack: the members, on their device.
        data: on the same device, in their dtype.
        settings: what the run was told.
        rates: the learning rate, one or one a member.
        poll: called after every step, every chunk of an evaluation and every epoch; raises to stop
            the run.
        together: puts figures together where other ranks hold more members.

    Attributes:
        epochs: how many are complete.
        batch: steps taken in the epoch that is on its way.
        seconds: spent in training steps.
        carried: what the members carry, seen from how they were at the start.
    """

    def __init__(
        self,
        stack: Stack,
        data: Data,
        settings: Settings,
        rates: float | Tensor,
        poll: Poll = go_on,
        together: Alone | None = None,
    ) -> None:
        self.stack, self.data, self.settings, self._poll = stack, data, settings, poll
        self.together = together or Alone()
        self.optimizer = settings.optimizer(stack, lr=rates)
        self.quarantine = Quarantine(stack, self.optimizer)
        self.step = train_step(
            stack,
            settings.loss,
            self.optimizer,
            before_update=lambda losses: self.quarantine.look(losses, self.epochs + 1),
            clip=settings.clip,
            engine=settings.engine,
            memory=settings.memory,
        )
        self.keys = member_keys(settings.seed, stack.members, stack.device)
        self.epochs = self.batch = 0
        self.seconds = 0.0
        self.modes = stack.modes()
        self.carried = Carried(stack)
        self._before_evaluation: list[GroupState] | None = None
        self._drawn: tuple[Any, bytes] | None = None
        self._outside: list[str] = []
        self._recorded = Recorded(settings.metric.name, len(stack), self.together)
        self._losses = self._no_losses()

    def _no_losses(self) -> Tensor:
        device = self.data.train.x.device
        return torch.zeros(len(self.stack), dtype=torch.float64, device=device)

    @property
    def steps_per_epoch(self) -> int:
        """How many batches an epoch has."""
        return -(-len(self.data.train) // self.settings.batch_size)

    @property
    def records(self) -> list[Row]:
        """One record of all members for each complete epoch."""
        return [self._recorded.row(epoch) for epoch in range(1, self.epochs + 1)]

    def epoch(self) -> Row:
        """Trains one epoch, or the rest of one, and gives its record."""
        self.train_mode()
        self._drawn = states()
        start = time.perf_counter()
        try:
            train = self.train()
            synchronize(self.stack.device)
        finally:
            self.seconds += time.perf_counter() - start
        self._before_evaluation = self._not_trained()
        validation = self.figures(self.data.validation)
        figures = torch.stack([train, validation.loss, validation.metric])
        self._recorded.add(self.quarantine.masked(figures).cpu())
        self._before_evaluation = None
        self.epochs, self.batch, self._losses = self.epochs + 1, 0, self._no_losses()
        self._poll()
        self._outside, self._drawn = self._outside or drew(self._drawn), None
        return self._recorded.row(self.epochs)

    @property
    def whole_figures(self) -> Tensor:
        """What every complete epoch recorded of all members ``[members, epochs, figures]``."""
        return self._recorded.whole

    def train(self) -> Tensor:
        """One epoch's steps; the mean over samples of the batches' losses, float64 [members]."""
        part = self.data.train
        rows = order(self.keys, self.epochs, len(part))
        done = self.batch * self.settings.batch_size
        for batch in batches(part, rows[:, done:], self.settings.batch_size):
            losses = self.step.take(each(batch.x), [each(batch.y)], self._expected(batch))
            self.quarantine.settle()
            self._losses += losses.double() * batch.y.shape[1]
            self.batch += 1
            self._poll()
        return self._losses / len(part)

    def _expected(self, batch: Part) -> int:
        """How many steps of the run have batches as long as this one."""
        whole, rest = divmod(len(self.data.train), self.settings.batch_size)
        is_rest = batch.y.shape[1] == rest
        return self.settings.epochs * (1 if is_rest else whole)

    def figures(self, part: Part) -> Figures:
        """Every member's loss and metric on a part, in evaluation mode."""
        self.stack.eval()
        settings = self.settings
        figures = evaluate(
            self.stack,
            part,
            settings.loss,
            settings.metric,
            settings.chunk,
            self.optimizer.steps,
            self._poll,
        )
        self.quarantine.settle()
        return figures

    def final(self, table: list[Row]) -> list[Row]:
        """The table with the final figures on all parts."""
        metric = self.settings.metric.name
        self._before_evaluation = self._not_trained()
        train, test = self.figures(self.data.train), self.figures(self.data.test)
        figures = torch.stack([train.loss, train.metric, test.loss, test.metric])
        found = self.together.figures(self.quarantine.masked(figures).cpu()).tolist()
        train_loss, train_metric, test_loss, test_metric = found
        _, validation_loss, validation_metric = self._recorded.last.tolist()
        columns: dict[str, list[Any]] = {
            "train_loss": train_loss,
            f"train_{metric}": train_metric,
            "validation_loss": validation_loss,
            f"validation_{metric}": validation_metric,
            "test_loss": test_loss,
            f"test_{metric}": test_metric,
            "died": self.together.said(self.quarantine.said(range(len(self.stack)))),
        }
        return [
            {**row, **{name: values[position] for name, values in columns.items()}}
            for position, row in enumerate(table)
        ]

    def ensemble(self, positions: list[int]) -> float | None:
        """The test metric of the members at ``positions``, among all, together."""
        self.stack.eval()
        settings = self.settings
        return ensemble_figure(
            self.stack,
            self.data,
            settings.metric,
            self.together.positions(positions),
            len(positions),
            settings.chunk,
            self.optimizer.steps,
            self._poll,
            self.together.total,
        )

    def standing(self, config: dict[str, Any], seconds: float) -> Standing:
        """Where the run stands, a copy.

        In an evaluation, where it stood before that: what an evaluation changes counts when it is
        complete.

        Raises:
            Uncarriable: the members hold what cannot be written down.
        """
        outside = self._outside or (drew(self._drawn) if self._drawn is not None else [])
        if outside:
            raise Uncarriable(
                f"a step draws from {' and '.join(outside)}, whose state no checkpoint holds; "
                "torch.rand draws the same after a resumption"
            )
        stack, groups = self.stack, self.carried.take()
        for group, before in zip(groups, self._before_evaluation or (), strict=False):
            before.tensors = group.tensors | before.tensors
        optimizer: list[dict[tuple[str, str], Tensor]] = [{} for _ in groups]
        for parameter, tensors in self.optimizer.state_dict()["state"].items():
            mine = optimizer[int(parameter.split(".")[1])]
            for name, tensor in tensors.items():
                mine[name, member_path(parameter)] = tensor.detach().to("cpu", copy=True)
        return Standing(
            config=config | {"choices": self.step.choices},
            step=self.optimizer.steps,
            epoch=self.epochs,
            batch=self.batch,
            seconds=seconds,
            train_seconds=self.seconds,
            calls=(stack.calls, stack._evaluations),
            groups=self._before_evaluation or groups,
            optimizer=optimizer,
            members=list(stack.members),
            losses=self._losses.to("cpu", copy=True),
            figures=self._recorded.here,
            deaths=list(self.quarantine.deaths.values()),
        )

    def restore(self, standing: Standing) -> None:
        """Go on from where a run stood; this one has taken no step.

        Raises:
            ValueError: it does not fit these members and this optimizer.
        """
        stack = self.stack
        self.step.prefer(standing.config.get("choices", {}))
        self.carried.put(standing.groups)
        state = self.optimizer.state_dict() | {"steps": standing.step, "state": {}}
        for g, kept in enumerate(standing.optimizer):
            for (name, path), tensor in kept.items():
                state["state"].setdefault(f"groups.{g}.{path}", {})[name] = tensor
        self.optimizer.load_state_dict(state)
        positions = {member: position for position, member in enumerate(stack.members)}
        self.quarantine.isolate({positions[d.member]: d for d in standing.deaths})
        self.quarantine.settle()
        stack.calls, stack._evaluations = standing.calls
        self.epochs, self.batch = standing.epoch, standing.batch
        self.seconds = standing.train_seconds
        self._losses = standing.losses.to(self._losses.device)
        if standing.batch > self.steps_per_epoch:
            raise ValueError("its figures are not those of the epochs that it counts")
        self._recorded.restore(standing.figures, standing.epoch)

    def _not_trained(self) -> list[GroupState] | None:
        """What an evaluation may change: all that the members carry but the parameters.

        Those, too, where calls were seen to change them.
        """
        if self._poll is go_on:
            return None
        writes = any(
            plan.writes for group, _ in self.stack.parts() for plan in group.plans.values()
        )
        try:
            return self.carried.take(parameters=writes)
        except Uncarriable:  # said when a checkpoint is due
            return None

    def train_mode(self) -> None:
        """Training mode: the one each module came in, or all of it if it came in evaluation."""
        if any(self.modes.values()):
            self.restore_modes()
        else:
            self.stack.train()

    def restore_modes(self) -> None:
        """Every module's mode as it was."""
        self.stack.set_modes(self.modes)


def synchronize(device: torch.device) -> None:
    """Waits until the device has done what was asked of it, so that a clock tells the truth."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
