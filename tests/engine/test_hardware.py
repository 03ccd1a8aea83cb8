import os

import pytest

from preble.daemon.engine.hardware import CudaDevice, detect


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """Put a stand-in for nvidia-smi, a shell script, alone on the path."""

    def install(script: str) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    monkeypatch.setenv("PATH", str(tmp_path))
    return install


def test_gpus_are_what_the_driver_lists(driver):
    driver(
        'test "$*" = "--query-gpu=index,name,memory.total --format=csv,noheader,nounits" || exit 6\n'
        "echo '0, NVIDIA H100 80GB HBM3, 81559'; echo '1, NVIDIA L4, 23034'"
    )
    assert detect().cuda_devices == (CudaDevice(0, "NVIDIA H100 80GB HBM3", 81559), CudaDevice(1, "NVIDIA L4", 23034))


def test_a_gpu_that_shares_the_cpus_memory_has_no_size(driver):
    driver("echo '0, NVIDIA GB10, [N/A]'")
    assert detect().cuda_devices == (CudaDevice(0, "NVIDIA GB10", None),)


@pytest.mark.parametrize("script", ["echo 'NVIDIA-SMI has failed'; exit 9", ""], ids=["fails", "lists none"])
def test_a_driver_without_gpus_means_none(driver, script):
    driver(script)
    assert detect().cuda_devices == ()


def test_no_driver_means_no_gpus(driver):
    assert detect().cuda_devices == ()


def test_cores_are_those_this_process_may_use(driver):
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert detect().cpu_cores == (min(before),)
    finally:
        os.sched_setaffinity(0, before)
    assert detect().cpu_cores == tuple(sorted(before))
