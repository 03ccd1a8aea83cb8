"""Stands between the daemon and one engine, so that no engine outlives the daemon. Standard library only.

Run as `python -I -S guard.py GRACE_S COMMAND...` with a pipe from the daemon as standard input. Writes the engine's
process id as one line to standard output; the engine writes to the guard's standard error. When the engine's first
process ends, or the pipe closes, or SIGTERM comes, the guard closes its standard output, ends and reaps everything
the engine started, and exits with the engine's status (128 + signal if a signal ended it).
"""

import contextlib
import ctypes
import os
import select
import signal
import sys
import time
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

ORPHAN_GRACE_S = 2.0
"""The longest grace once the daemon is gone: whoever killed it wants the devices back."""

_KILL_PATIENCE_S = 10.0
"""A process that SIGKILL has not ended by then is stuck in the kernel, and waiting longer would not help."""

_POLL_S = 0.02

_libc = ctypes.CDLL(None, use_errno=True)


def main(arguments: Sequence[str]) -> int:
    """Run the engine until it ends or must end; return its status."""
    grace_s, command = float(arguments[0]), list(arguments[1:])
    _prctl(PR_SET_CHILD_SUBREAPER, 1)  # what the engine's processes leave behind becomes ours
    wake = _wake_on(signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
    leader = _spawn(command)
    print(leader, flush=True)
    statuses: dict[int, int] = {}
    while leader not in statuses:
        ready, _, _ = select.select([0, wake], [], [])
        if 0 in ready:
            return _end(leader, min(grace_s, ORPHAN_GRACE_S), statuses)
        if {signal.SIGTERM, signal.SIGINT} & set(os.read(wake, 64)):
            return _end(leader, grace_s, statuses)
        _reap(statuses)
    return _end(leader, 0.0, statuses)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")


def _wake_on(*signals: signal.Signals) -> int:
    """Return a file descriptor from which the numbers of these signals can be read as bytes."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end)
    for number in signals:
        signal.signal(number, lambda _number, _frame: None)
    return read_end


def _spawn(command: list[str]) -> int:
    """Start the engine as the leader of its own process group; return its process id."""
    guard = os.getpid()
    leader = os.fork()
    if leader:
        with contextlib.suppress(OSError):  # the child does the same; whoever comes second may find it done
            os.setpgid(leader, leader)
        return leader
    try:
        _become(command, guard)
    except OSError as error:
        print(f"cannot run {command[0]}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(127)


def _become(command: list[str], guard: int) -> None:
    os.setpgid(0, 0)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # from here on it must end this process
    _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != guard:
        return  # the guard died before the line above could matter
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    os.execvp(command[0], command)  # noqa: S606 (no shell is the point)


def _end(leader: int, grace_s: float, statuses: dict[int, int]) -> int:
    """End the engine's group and every other descendant; return the leader's status."""
    os.close(1)
    if grace_s > 0:
        _signal_group(leader, signal.SIGTERM)
        _reap_all(statuses, grace_s)
    deadline_s = time.monotonic() + _KILL_PATIENCE_S
    while time.monotonic() < deadline_s and not _reap_all(statuses, _POLL_S):
        _signal_group(leader, signal.SIGKILL)
        for pid in _descendants():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(statuses.get(leader, signal.SIGKILL))
    return status if status >= 0 else 128 - status


def _signal_group(leader: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, number)


def _reap_all(statuses: dict[int, int], patience_s: float) -> bool:
    """Reap until no child is left; say whether that came true in time."""
    deadline_s = time.monotonic() + patience_s
    while _reap(statuses):
        if time.monotonic() >= deadline_s:
            return False
        time.sleep(_POLL_S / 2)
    return True


def _reap(statuses: dict[int, int]) -> bool:
    """Take the wait status of every child that has ended; say whether children are left."""
    try:
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return True
            statuses[pid] = status
    except ChildProcessError:
        return False


def _descendants() -> list[int]:
    """Find every living process below this one, whatever its group."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError, ValueError):
            pid = int(entry)
            with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
                parent = int(file.read().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(pid)
    found, to_visit = [], [os.getpid()]
    while to_visit:
        below = children.get(to_visit.pop(), [])
        found += below
        to_visit += below
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
