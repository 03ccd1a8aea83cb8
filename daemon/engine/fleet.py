"""All engines of this machine: starts and ends them together, and finds one by its GPU."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from preble.daemon.config import Config
from preble.daemon.engine.client import EngineClient
from preble.daemon.engine.launch import EngineSpec, Sockets
from preble.daemon.engine.supervisor import EngineState, EngineStatus, Supervisor
from preble.daemon.errors import NotFound
from preble.daemon.flow.events import Event
from preble.daemon.ids import GpuId, ModelName
from preble.daemon.sched.types import TimeModel

_MAX_SOCKET_PATH_BYTES = 100
"""Linux allows 107 in a socket's address."""


class Fleet:
    """The supervised engines. `start` it inside a running event loop, and `stop` it."""

    def __init__(
        self,
        config: Config,
        specs: Sequence[EngineSpec],
        post: Callable[[Event], None],
        running: Callable[[GpuId], int],
        say: Callable[[str], None],
        time_model: Callable[[EngineSpec], TimeModel | None],
    ) -> None:
        """`post` takes what happens to engines; `running` tells how many requests a GPU still works on.

        `time_model` is what is known already of an engine like that one.
        """
        self._config = config
        self._specs = specs
        self._post = post
        self._running = running
        self._say = say
        self._time_model = time_model
        self._runtime_dir: Path | None = None
        self._supervisors: dict[GpuId, Supervisor] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start all engines side by side; returns at once (see `settled`)."""
        data_dir = Path(self._config.data_dir)
        logs = data_dir / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        self._runtime_dir = _make_runtime_dir(data_dir, [spec.gpu for spec in self._specs])
        for spec in self._specs:
            self._supervisors[spec.gpu] = Supervisor(
                spec,
                Sockets.within(self._runtime_dir, spec.gpu),
                logs / f"{spec.gpu}.log",
                self._config.engines,
                self._post,
                self._running,
                self._say,
                self._time_model(spec),
            )
        self._tasks = [asyncio.create_task(each.run(), name=str(gpu)) for gpu, each in self._supervisors.items()]

    async def settled(self) -> None:
        """Wait until every engine has been ready, or has failed, for the first time."""
        await asyncio.gather(*(supervisor.settled.wait() for supervisor in self._supervisors.values()))

    async def stop(self) -> None:
        """End all engines; when it returns, none of their processes is left."""
        for supervisor in self._supervisors.values():
            supervisor.stop()
        await asyncio.gather(*self._tasks)
        if self._runtime_dir is not None:
            shutil.rmtree(self._runtime_dir)

    @property
    def rows(self) -> tuple[EngineStatus, ...]:
        """Every engine's status, in the order of the configuration."""
        return tuple(supervisor.status for supervisor in self._supervisors.values())

    def client(self, gpu: GpuId) -> EngineClient:
        """Raises `NotFound`."""
        return self._supervisor(gpu).client

    def ready(self, model: ModelName) -> list[GpuId]:
        """Which GPUs take new requests for `model` now."""
        return [row.gpu for row in self.rows if row.model == model and row.state is EngineState.READY]

    def drain(self, gpu: GpuId) -> None:
        """See `Supervisor.drain`. Raises `NotFound`."""
        self._supervisor(gpu).drain()

    def undrain(self, gpu: GpuId) -> None:
        """See `Supervisor.undrain`. Raises `NotFound`."""
        self._supervisor(gpu).undrain()

    async def restart(self, gpu: GpuId) -> None:
        """See `Supervisor.restart`. Raises `NotFound` and `Conflict`."""
        await self._supervisor(gpu).restart()

    def _supervisor(self, gpu: GpuId) -> Supervisor:
        try:
            return self._supervisors[gpu]
        except KeyError:
            known = ", ".join(self._supervisors)
            raise NotFound(f"there is no GPU {gpu!r}; there are {known}", param="gpu") from None


def _make_runtime_dir(data_dir: Path, gpus: Sequence[GpuId]) -> Path:
    """Make a directory that only we may enter and whose socket paths the kernel accepts."""
    preferred = data_dir / "run"
    paths = [path for gpu in gpus for path in Sockets.within(preferred, gpu).paths]
    if max((len(os.fsencode(path)) for path in paths), default=0) >= _MAX_SOCKET_PATH_BYTES:
        return Path(tempfile.mkdtemp(prefix="preble-"))
    preferred.mkdir(mode=0o700, exist_ok=True)
    preferred.chmod(0o700)
    return preferred
