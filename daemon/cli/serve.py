"""`preble serve`: the daemon in the foreground, until SIGTERM or Ctrl-C."""

import asyncio
import resource
import signal
import socket
import sys
from pathlib import Path

import structlog
import uvloop

from preble.daemon.api.server import make_server
from preble.daemon.app import Daemon, Say, open_daemon
from preble.daemon.background import alongside
from preble.daemon.cli.listening import take_address
from preble.daemon.config import Config, load
from preble.daemon.flow.garbage import collect_rarely
from preble.daemon.obs.live.tail import LogTail
from preble.daemon.obs.log import configure
from preble.daemon.store.bootstrap import DEFAULT_KEY_FILE
from preble.daemon.wire.reaching import url_at

_READY_POLL_S = 1.0


def serve(config_path: Path, record_to: Path | None) -> int:
    """Run until a signal says to end; the exit code. Raises `PrebleError`."""
    config = load(config_path)
    tail = LogTail()
    configure(config.log.level, config.log.format, tail)
    say = structlog.get_logger(__name__).info if config.log.format == "json" else _print
    _allow_many_connections()
    sockets = take_address(config.server)  # first, so that a second daemon ends before it has started engines
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(config, sockets, say, record_to, tail))


def _allow_many_connections() -> None:
    """Each waiting request holds one, and the usual soft limit of 1024 is there for programs that call select()."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _serve(config: Config, sockets: list[socket.socket], say: Say, record_to: Path | None, tail: LogTail) -> int:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    url = url_at(config.server.host, sockets[0].getsockname()[1])
    async with open_daemon(config, say, record_to, tail) as daemon:
        server = make_server(daemon.app, config.server)
        collect_rarely()
        serving = loop.create_task(server.serve(sockets))
        ended = loop.create_task(stopping.wait())
        async with alongside(_announce(url, daemon, say)):
            await asyncio.wait((serving, ended), return_when=asyncio.FIRST_COMPLETED)
        say("ending: no new requests; running ones may finish")
        daemon.end_feeds()  # the server would wait for them
        server.should_exit = True
        await serving
    say("ended")
    return 0 if stopping.is_set() else 1


async def _announce(url: str, daemon: Daemon, say: Say) -> None:
    await daemon.settled()
    key_file = daemon.data_dir / DEFAULT_KEY_FILE
    if (reason := daemon.unready()) is not None:
        say(f"not ready: {reason} The engines' logs are in {daemon.data_dir / 'logs'}")
        while daemon.unready() is not None:  # noqa: ASYNC110 (engines are tried again, and nothing tells)
            await asyncio.sleep(_READY_POLL_S)
    say(f"Preble is ready on {url}")
    if say is not _print:
        return
    if key_file.exists():
        say(_FIRST_STEPS.format(url=url, model=daemon.model, key_file=key_file))
    else:
        say("A tenant's key is made with: preble key create TENANT")


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


_FIRST_STEPS = """
  curl {url}/v1/chat/completions \\
    -H "Authorization: Bearer $(cat {key_file})" -H "Content-Type: application/json" \\
    -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello!"}}], "max_tokens": 16}}'

  from openai import OpenAI
  client = OpenAI(base_url="{url}/v1", api_key=open("{key_file}").read().strip())
  answer = client.chat.completions.create(
      model="{model}", messages=[{{"role": "user", "content": "Hello!"}}], max_tokens=16
  )
  print(answer.choices[0].message.content)

Ctrl-C ends the daemon and its engines.
"""
