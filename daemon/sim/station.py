"""One GPU of a simulation."""

from preble.daemon.ids import GpuId
from preble.daemon.sim.engine import ModelledEngine
from preble.daemon.sim.fits import Fit


class Station:
    """One GPU, and the engine that runs there now."""

    def __init__(self, number: int, gpu: GpuId, fit: Fit) -> None:
        self.number = number
        self.gpu = gpu
        self.fit = fit
        self.epoch = 0
        self.engine: ModelledEngine | None = None
        self.due: tuple[int, int] | None = None
        """When its engine is settled next, and that entry's number."""
