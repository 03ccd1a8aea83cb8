"""What else a machine does while something is measured on it."""

import threading
import time

import psutil

HEARTBEAT_S = 0.05
FROZEN_S = 0.5
"""All processes of a virtual machine may stand still for seconds."""
BUSY_CORES = 0.5
"""Two engines, what feeds them and the clients take nearly four cores: as little as one that others use shows."""
ENGINE_PROCESS = "VLLM::"


class Watch:
    """The longest time for which this process stood still, and how many cores others, and what feeds engines, took."""

    def __init__(self, busy_cores: float = BUSY_CORES) -> None:
        self._busy_cores = busy_cores

    def __enter__(self) -> "Watch":
        self.longest_gap_s = self.others_cores = self.feeding_cores = 0.0
        self._began_s, self._before = time.monotonic(), self._used_s()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        passed_s = time.monotonic() - self._began_s
        self.others_cores, self.feeding_cores = (
            (after - before) / passed_s for after, before in zip(self._used_s(), self._before, strict=True)
        )

    def _used_s(self) -> tuple[float, float]:
        """Processor time of what is neither this process nor below it; and of these, but for the engines."""
        times, engines_s, feeding_s = psutil.cpu_times(), 0.0, 0.0
        for each in (psutil.Process(), *psutil.Process().children(recursive=True)):
            own = each.cpu_times()
            if each.name().startswith(ENGINE_PROCESS):
                engines_s += own.user + own.system
            else:
                feeding_s += own.user + own.system
        return sum(times) - times.idle - times.iowait - times.guest - engines_s - feeding_s, feeding_s

    def _beat(self) -> None:
        before_s = time.monotonic()
        while not self._ended.wait(HEARTBEAT_S):
            now_s = time.monotonic()
            self.longest_gap_s = max(self.longest_gap_s, now_s - before_s - HEARTBEAT_S)
            before_s = now_s

    @property
    def disturbed(self) -> str | None:
        """Why what was measured may say nothing."""
        if self.longest_gap_s > FROZEN_S:
            return f"the machine stood still for {self.longest_gap_s:.1f} s"
        if self.others_cores > self._busy_cores:
            return f"others kept {self.others_cores:.1f} cores busy"
        return None
