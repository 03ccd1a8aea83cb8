"""`preble doctor`: what is missing or wrong on this machine, and the mend. Starts nothing and changes nothing."""

from collections.abc import Iterator
from pathlib import Path

from preble.daemon.cli.check_daemon import check_daemon, check_port, is_preble
from preble.daemon.cli.check_data import check_data, check_sockets
from preble.daemon.cli.check_machine import (
    check_driver,
    check_engine_package,
    check_hardware,
    check_open_files,
    check_python,
)
from preble.daemon.cli.check_models import check_gpu_memory, check_memory, check_model, check_plan
from preble.daemon.cli.checks import Check, fail, ok
from preble.daemon.cli.remote import Remote
from preble.daemon.config import Config, load
from preble.daemon.engine.hardware import Hardware, detect
from preble.daemon.engine.launch import EngineSpec, plan
from preble.daemon.errors import ConfigError
from preble.daemon.wire.reaching import CONFIG_FILE, url_of


def diagnose(remote: Remote) -> list[Check]:
    """Look at everything, with or without a daemon. What hangs on a broken configuration is left out."""
    return list(_machine(remote))


def _machine(remote: Remote) -> Iterator[Check]:
    hardware = detect()
    yield check_python()
    yield check_engine_package(hardware)
    yield check_hardware(hardware)
    yield from check_driver(hardware)
    config_path = remote.config_path or CONFIG_FILE
    try:
        config = load(config_path)
    except ConfigError as error:
        yield fail("configuration", str(error), "mend the file, or name another with --config")
        if remote.url is not None:
            yield from check_daemon(remote.find_url(), remote)
        return
    yield ok("configuration", f"{config_path.resolve()}: every key is known and every value fits")
    yield from _configured(config, hardware, remote)


def _configured(config: Config, hardware: Hardware, remote: Remote) -> Iterator[Check]:
    data_dir = Path(config.data_dir)
    specs: tuple[EngineSpec, ...] = ()
    try:
        specs = plan(config.models, hardware, {})
    except ConfigError as error:
        yield fail("models", str(error), "change [[models]] in the configuration to what this machine has")
    else:
        yield check_plan(specs, hardware)
    for model in {spec.model.name: spec.model for spec in specs}.values():
        yield check_model(model, data_dir)
    yield from check_gpu_memory([spec for spec in specs if spec.hardware == "cuda"], hardware)
    yield from check_data(data_dir, config.database_url)
    yield check_sockets(data_dir, [spec.gpu for spec in specs])
    yield check_open_files(config, specs)
    yield from _running(config, specs, remote)


def _running(config: Config, specs: tuple[EngineSpec, ...], remote: Remote) -> Iterator[Check]:
    runs_here = config.server.port != 0 and is_preble(url_of(config))
    if not runs_here and any(spec.hardware == "cpu" for spec in specs):
        yield check_memory(specs)  # engines that run have taken theirs already
    yield ok("port", f"{config.server.port} is held by Preble") if runs_here else check_port(config.server)
    if remote.url is not None or runs_here:
        yield from check_daemon(remote.find_url(), remote)
    else:
        yield ok("daemon", "none runs; `preble serve` starts one")
