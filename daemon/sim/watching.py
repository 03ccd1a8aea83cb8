"""What somebody who watches a simulation is told while it runs, and can look at."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from preble.daemon.flow.effects import Effect
from preble.daemon.flow.events import Event
from preble.daemon.sched.attempt import EngineView
from preble.daemon.sim.types import Load, Outcome


class Look(NamedTuple):
    """One GPU at one moment."""

    view: EngineView
    """As the scheduler sees it."""
    load: Load
    starts: int
    """Of its engine."""


class Watcher(Protocol):
    """Times are seconds of the virtual clock."""

    interval_s: float
    """How often `passed` is called."""

    def stepped(self, now_s: float, event: Event, effects: Sequence[Effect]) -> None:
        """The machine has taken a step."""

    def ended(self, outcome: Outcome, reason: str) -> None:
        """A request has ended; `reason` is the machine's word for how. The world does not keep the outcome."""

    def passed(self, now_s: float) -> None:
        """An interval has passed; the simulation goes on when this returns."""
