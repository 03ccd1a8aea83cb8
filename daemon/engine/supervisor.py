"""Keeps one engine alive: starts it, measures it, watches it, and starts it again when it ends or hangs.

It tells the machine what happened to the engine and decides nothing about requests.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from preble.daemon.config import EnginesConfig
from preble.daemon.engine.blocknames import BlockNames
from preble.daemon.engine.calibrate import calibrate
from preble.daemon.engine.client import EngineClient
from preble.daemon.engine.kvevents import KvListener
from preble.daemon.engine.launch import EngineSpec, Sockets, command, environment
from preble.daemon.engine.metrics import EngineMetrics
from preble.daemon.engine.process import EngineProcess
from preble.daemon.errors import ApiError, ConfigError, Conflict, EngineError
from preble.daemon.flow.events import DrainChanged, EngineDown, EngineUp, Event
from preble.daemon.ids import GpuId, ModelName
from preble.daemon.sched.types import EngineLimits, TimeModel

_HEALTHY_AGAIN_S = 60.0
"""After so long in service an engine's failures of before are forgotten."""
_START_POLL_S = 0.2
_DRAIN_POLL_S = 0.05

_LAST_WORDS_S = 1.0
"""An engine that is gone gets so long to end by itself, which tells more than that it is gone."""

_T = TypeVar("_T")


class EngineState(StrEnum):
    """Where an engine is in its life."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    """In service, but given nothing new."""
    STOPPING = "stopping"
    BACKOFF = "backoff"
    """It failed and waits for its next start."""
    FAILED = "failed"
    """It does not fit its configuration; only an operator's restart tries again."""
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStatus:
    """What is known of one engine now. None: not known yet, or not while it is down."""

    gpu: GpuId
    model: ModelName
    state: EngineState
    detail: str
    """Why it is in this state, when that is not plain."""
    pid: int | None
    """The engine's first process, and its process group."""
    epoch: int
    """Counts its starts, from 1."""
    restarts: int
    uptime_s: float | None
    """Since it was last ready."""
    limits: EngineLimits | None
    time_model: TimeModel | None
    """As it was known, or measured at its first start."""
    metrics: EngineMetrics | None
    """At most a health interval old."""
    heard_s: float | None
    """Seconds since it last answered."""
    unplaced_blocks: int
    """Of its latest start: cached blocks that no prompt can match, because a report was lost."""


class Supervisor:
    """One engine, for as long as the daemon wants it. Make it inside a running event loop and await `run` once."""

    def __init__(
        self,
        spec: EngineSpec,
        sockets: Sockets,
        log: Path,
        config: EnginesConfig,
        post: Callable[[Event], None],
        running: Callable[[GpuId], int],
        say: Callable[[str], None],
        time_model: TimeModel | None,
    ) -> None:
        """`running` tells how many requests a GPU still works on; `say` narrates for an operator.

        Without a `time_model` the engine is measured when it first starts.
        """
        self.spec = spec
        self.client = EngineClient(sockets.http, self._on_gone)
        self.settled = asyncio.Event()
        """Set once the engine has been ready, or has failed, for the first time."""
        self._sockets = sockets
        self._log = log
        self._config = config
        self._post = post
        self._running = running
        self._say = say
        self._state = EngineState.STARTING
        self._detail = ""
        self._pid: int | None = None
        self._epoch = 0
        self._failures = 0
        self._ready_s: float | None = None
        self._heard_s: float | None = None
        self._limits: EngineLimits | None = None
        self._time_model = time_model
        self._metrics: EngineMetrics | None = None
        self._names = self._new_names()
        self._draining = False
        self._restarting = False
        self._closing = False
        self._asked = asyncio.Event()
        """Somebody wants the present engine to end."""
        self._gone = asyncio.Event()
        """Nobody listens on the socket of the engine that was in service."""
        self._next_start = asyncio.Event()

    @property
    def status(self) -> EngineStatus:
        """A snapshot."""
        return EngineStatus(
            gpu=self.spec.gpu,
            model=self.spec.model.name,
            state=EngineState.DRAINING if self._state is EngineState.READY and self._draining else self._state,
            detail=self._detail or ("given nothing new until it is undrained" if self._draining else ""),
            pid=self._pid,
            epoch=self._epoch,
            restarts=max(0, self._epoch - 1),
            uptime_s=None if self._ready_s is None else time.monotonic() - self._ready_s,
            limits=self._limits,
            time_model=self._time_model,
            metrics=self._metrics,
            heard_s=None if self._heard_s is None else time.monotonic() - self._heard_s,
            unplaced_blocks=self._names.unplaced_blocks,
        )

    def drain(self) -> None:
        """Have nothing new placed here, also after a restart, until `undrain`."""
        self._set_draining(True)

    def undrain(self) -> None:
        """Put the GPU back to work."""
        self._set_draining(False)

    def _set_draining(self, draining: bool) -> None:
        self._draining = draining
        self._post(DrainChanged(gpu=self.spec.gpu, draining=draining))

    async def restart(self) -> None:
        """Let running requests finish, as long as the configuration allows, then end the engine and start another.

        Returns when the other is being started. Raises `Conflict` if a restart is under way.
        """
        if self._restarting or self._closing:
            raise Conflict(f"{self.spec.gpu} is being stopped already")
        self._restarting, drained_before = True, self._draining
        try:
            self.drain()
            await self._until_idle()
            next_start = self._next_start
            self._asked.set()
            await next_start.wait()
        finally:
            self._restarting = False
            if not drained_before:
                self.undrain()

    async def _until_idle(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._config.drain_timeout_s):
                while self._ready_s is not None and self._running(self.spec.gpu) > 0:  # noqa: ASYNC110 (no event tells)
                    await asyncio.sleep(_DRAIN_POLL_S)

    def stop(self) -> None:
        """Order the end of the engine and of `run`."""
        self._closing = True
        self._asked.set()

    async def run(self) -> None:
        """Keep an engine running until `stop`. When it returns, no process of the engine is left."""
        try:
            while not self._closing:
                self._asked.clear()
                await self._live_and_rest()
        finally:
            self._set(EngineState.STOPPED)
            self.settled.set()
            self._announce_start()  # there will be none; whoever waits for it must not wait for ever
            await self.client.close()

    async def _live_and_rest(self) -> None:
        """One start of the engine to its end, and the pause after it."""
        try:
            why = await self._live()
        except ConfigError as error:
            self._set(EngineState.FAILED, str(error))
            pause_s = None
        else:
            if why is None:
                return
            pause_s = min(self._config.restart_backoff_max_s, self._config.restart_backoff_s * 2**self._failures)
            self._failures += 1
            self._set(EngineState.BACKOFF, why)
        self._say(f"{self.spec.gpu}: {self._detail}" + (f"\nnext start in {pause_s:g} s" if pause_s else ""))
        self.settled.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._asked.wait()

    async def _live(self) -> str | None:
        """Return why the engine ended or had to be ended; None if somebody asked for it.

        Raises `ConfigError` if the engine does not fit its configuration.
        """
        self._epoch += 1
        self._gone.clear()
        self._announce_start()
        self._set(EngineState.STARTING)
        self._say(f"{self.spec.gpu}: starting {self.spec.model.name} ({self._log} has its output)")
        self._sockets.unlink()
        listener = self._listen()
        try:
            process = await EngineProcess.start(
                command(self.spec, self._sockets), environment(self.spec), self._log, self._config.stop_grace_s
            )
            self._pid = process.pid
            try:
                return await _first(self._until_asked(), self._until_ended(process), self._serve(listener))
            finally:
                self._take_out_of_service()
                await process.stop()
        except EngineError as error:
            return str(error)
        finally:
            self._pid = None
            listener.close()
            self._sockets.unlink()

    def _announce_start(self) -> None:
        self._next_start.set()
        self._next_start = asyncio.Event()

    def _new_names(self) -> BlockNames:
        return BlockNames(self.spec.model.name, self.spec.model.block_size)

    def _listen(self) -> KvListener:
        self._names = self._new_names()
        return KvListener(
            gpu=self.spec.gpu,
            epoch=self._epoch,
            endpoint=f"ipc://{self._sockets.kv_events}",
            replay_endpoint=f"ipc://{self._sockets.kv_replay}",
            post=self._post,
            ours=self._names.ours,
            on_gap=lambda missed: self._say(f"{self.spec.gpu}: {missed} KV event messages were missed"),
        )

    async def _until_asked(self) -> None:
        await self._asked.wait()

    async def _until_ended(self, process: EngineProcess) -> str:
        await process.ending()
        self._take_out_of_service()  # at once: while the rest of it is cleared away, nothing must be sent to it
        return await process.wait()

    async def _serve(self, listener: KvListener) -> str:
        """Bring the engine into service and watch it there; return what is wrong with it."""
        began_s = time.monotonic()
        try:
            async with asyncio.timeout(self._config.start_timeout_s):
                limits, time_model = await self._get_ready()
        except TimeoutError:
            return f"it was not ready within {self._config.start_timeout_s:g} s; {self._log} has its output"
        except ApiError as error:
            return f"it refused the calibration: {error}"
        self._put_into_service(limits, time_model)
        self._say(f"{self.spec.gpu}: ready after {time.monotonic() - began_s:.1f} s")
        return await _first(self._until_unhealthy(), self._until_gone(), listener.run())

    async def _get_ready(self) -> tuple[EngineLimits, TimeModel]:
        while True:
            try:
                await self.client.health(self._config.health_timeout_s)
                break
            except EngineError:
                await asyncio.sleep(_START_POLL_S)
        limits = await self._read_limits()
        return limits, self._time_model or await calibrate(self.client, self.spec.model.name, limits)

    async def _read_limits(self) -> EngineLimits:
        model, told = self.spec.model, await self.client.metrics()
        if told.block_size != model.block_size:
            raise ConfigError(
                f"models: {model.name}: block_size is {model.block_size}, but its engine uses {told.block_size}"
            )
        return EngineLimits(
            block_size=told.block_size,
            kv_blocks=told.kv_blocks - 1,  # without the placeholder
            max_num_seqs=model.max_num_seqs,
            max_num_batched_tokens=model.max_num_batched_tokens,
            max_model_len=(await self.client.models())[model.name],
        )

    def _put_into_service(self, limits: EngineLimits, time_model: TimeModel) -> None:
        self._limits, self._time_model = limits, time_model
        self._ready_s = self._heard_s = time.monotonic()
        self._set(EngineState.READY)
        up = EngineUp(
            gpu=self.spec.gpu,
            model=self.spec.model.name,
            epoch=self._epoch,
            limits=limits,
            time_model=time_model,
        )
        self._post(up)
        self.settled.set()

    def _take_out_of_service(self) -> None:
        self._set(EngineState.STOPPING, self._detail)
        if self._ready_s is None:
            return
        if time.monotonic() - self._ready_s >= _HEALTHY_AGAIN_S:
            self._failures = 0
        self._ready_s = self._limits = self._metrics = None
        self._post(EngineDown(gpu=self.spec.gpu))

    def _on_gone(self) -> None:
        if self._ready_s is not None:
            self._take_out_of_service()
            self._gone.set()

    async def _until_gone(self) -> str:
        await self._gone.wait()
        await asyncio.sleep(_LAST_WORDS_S)
        return "nobody listens on its socket any more"

    async def _until_unhealthy(self) -> str:
        failures = 0
        while True:
            await asyncio.sleep(self._config.health_interval_s)
            try:
                await self.client.health(self._config.health_timeout_s)
                self._metrics = await self.client.metrics()
                self._heard_s = time.monotonic()
                failures = 0
            except EngineError as error:
                failures += 1
                if failures >= self._config.unhealthy_after:
                    return f"it failed {failures} health checks in a row: {error}"

    def _set(self, state: EngineState, detail: str = "") -> None:
        self._state, self._detail = state, detail


async def _first(*waits: Coroutine[Any, Any, _T]) -> _T:
    """Return what the first of these to end returns or raises, the earlier named one on a tie; cancel the others."""
    tasks = [asyncio.create_task(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(task for task in tasks if task.done()).result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
