"""Which engines a machine gets, and what they are started with."""

from importlib.util import find_spec
from pathlib import Path

import msgspec
import pytest

from preble.daemon.config import ModelConfig
from preble.daemon.engine.hardware import CudaDevice, Hardware
from preble.daemon.engine.launch import EngineSpec, Sockets, command, environment, plan
from preble.daemon.errors import ConfigError
from preble.daemon.ids import GpuId, ModelName

CPU = ModelConfig(name=ModelName("small"), path="demo", hardware="cpu", engines=2, block_size=32)
CUDA = ModelConfig(name=ModelName("big"), path="org/big", hardware="cuda")


def machine(n_gpus: int = 0, n_cores: int = 4) -> Hardware:
    return Hardware(
        cuda_devices=tuple(CudaDevice(index=index, name="GPU", memory_mib=80_000) for index in range(n_gpus)),
        cpu_cores=tuple(range(n_cores)),
    )


def dealt(specs: tuple[EngineSpec, ...]) -> dict[str, tuple[int, ...]]:
    return {spec.gpu: spec.devices for spec in specs}


def test_a_gpu_each_and_no_cpu_engine_where_there_are_gpus():
    specs = plan([CPU, CUDA], machine(n_gpus=3), {})
    assert dealt(specs) == {"gpu0": (0,), "gpu1": (1,), "gpu2": (2,)}
    assert {spec.model_path for spec in specs} == {"org/big"}


def test_cpu_engines_where_there_is_no_gpu():
    specs = plan([CUDA, CPU], machine(), {CPU.name: "/models/small"})
    assert dealt(specs) == {"cpu0": (1,), "cpu1": (2,)}
    assert {spec.model_path for spec in specs} == {"/models/small"}


@pytest.mark.parametrize(
    ("n_cores", "engines", "expected"),
    [
        (1, 1, [(0,)]),
        (2, 1, [(1,)]),
        (2, 2, [(0,), (1,)]),
        (1, 2, [(0,), (0,)]),
        (9, 2, [(1, 2, 3, 4), (5, 6, 7, 8)]),
        (8, 2, [(1, 2, 3), (4, 5, 6)]),
    ],
)
def test_cores_are_dealt_evenly_and_the_first_is_left_to_the_daemon(n_cores, engines, expected):
    specs = plan([msgspec.structs.replace(CPU, engines=engines)], machine(n_cores=n_cores), {})
    assert [spec.devices for spec in specs] == expected


def test_tensor_parallel_groups():
    pair = msgspec.structs.replace(CUDA, tensor_parallel_size=2)
    assert dealt(plan([pair], machine(n_gpus=4), {})) == {"gpu0-1": (0, 1), "gpu2-3": (2, 3)}


def test_several_models_each_with_its_own_gpus():
    one = msgspec.structs.replace(CUDA, name=ModelName("one"), gpus=(0,))
    two = msgspec.structs.replace(CUDA, name=ModelName("two"), gpus=(1, 3), tensor_parallel_size=2)
    specs = plan([one, CPU, two], machine(n_gpus=4), {})
    assert [(spec.gpu, spec.model.name) for spec in specs] == [("gpu0", "one"), ("gpu1-3", "two")]


@pytest.mark.parametrize(
    ("models", "n_gpus", "message"),
    [
        ([CUDA], 0, r"^models: no entry has hardware = 'cpu'"),
        ([CPU], 1, r"^models: no entry has hardware = 'cuda'"),
        ([CPU, msgspec.structs.replace(CUDA, gpus=(0, 2))], 2, r"^models\[1\]\.gpus: there is no CUDA device 2"),
        ([CUDA, msgspec.structs.replace(CUDA, gpus=(1,))], 2, r"^models\[1\]\.gpus: .*taken by models\[0\]"),
        ([msgspec.structs.replace(CUDA, gpus=(0, 0))], 2, r"^models\[0\]\.gpus: .*taken by models\[0\]"),
        ([msgspec.structs.replace(CUDA, tensor_parallel_size=2)], 3, r"^models\[0\]\.tensor_parallel_size: 3 GPUs"),
        ([msgspec.structs.replace(CUDA, tensor_parallel_size=4)], 2, r"^models\[0\]\.tensor_parallel_size: 2 GPUs"),
    ],
)
def test_what_cannot_be_dealt_is_refused_by_key(models, n_gpus, message):
    with pytest.raises(ConfigError, match=message):
        plan(models, machine(n_gpus=n_gpus), {})


def option(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


def test_the_command_of_a_cpu_engine():
    model = msgspec.structs.replace(CPU, max_num_seqs=7, max_num_batched_tokens=900, extra_args=("--seed", "3"))
    words = command(plan([model], machine(), {})[0], Sockets.within(Path("/run/preble"), GpuId("cpu0")))
    assert option(words, "--uds") == "/run/preble/cpu0.sock"
    assert option(words, "--served-model-name") == "small"
    assert option(words, "--block-size") == "32"
    assert option(words, "--max-num-seqs") == "7"
    assert option(words, "--max-num-batched-tokens") == "900"
    assert msgspec.json.decode(option(words, "--kv-events-config")) == {
        "enable_kv_cache_events": True,
        "publisher": "zmq",
        "endpoint": "ipc:///run/preble/cpu0.kv",
        "replay_endpoint": "ipc:///run/preble/cpu0.replay",
    }
    assert "--enforce-eager" in words
    assert option(words, "--scheduling-policy") == "priority"
    module, _, name = option(words, "--scheduler-cls").rpartition(".")
    assert f"def {name}(" in Path(find_spec(module).origin).read_text()  # not imported here, as it imports vLLM
    unset = {"--tensor-parallel-size", "--max-model-len", "--num-gpu-blocks-override", "--long-prefill-token-threshold"}
    assert not unset & set(words)
    assert words[-2:] == ["--seed", "3"]


def test_the_command_of_a_cuda_engine():
    changes = {"max_model_len": 4096, "kv_blocks": 500, "long_prefill_token_threshold": 1000}
    model = msgspec.structs.replace(CUDA, tensor_parallel_size=2, **changes)
    words = command(plan([model], machine(n_gpus=2), {})[0], Sockets.within(Path("/run"), GpuId("gpu0-1")))
    assert option(words, "--tensor-parallel-size") == "2"
    assert option(words, "--gpu-memory-utilization") == "0.9"
    assert option(words, "--max-model-len") == "4096"
    assert option(words, "--num-gpu-blocks-override") == "500"
    assert option(words, "--long-prefill-token-threshold") == "1000"
    assert "--enforce-eager" not in words


def test_an_engine_of_one_core_computes_in_its_schedulers_process():
    one, several = (plan([CPU], machine(n_cores=n_cores), {})[0] for n_cores in (3, 5))
    assert len(one.devices) == 1
    sockets = Sockets.within(Path("/run"), GpuId("cpu0"))
    assert option(command(one, sockets), "--distributed-executor-backend").endswith(".UniProcExecutor")
    assert environment(one)["OMP_NUM_THREADS"] == "1"
    assert "VLLM_CPU_OMP_THREADS_BIND" not in environment(one)
    assert "--distributed-executor-backend" not in command(several, sockets)


def test_environments(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    cpu = environment(plan([CPU], machine(n_cores=5), {CPU.name: str(tmp_path)})[1])
    assert cpu["VLLM_CPU_OMP_THREADS_BIND"] == "3,4"
    assert "OMP_NUM_THREADS" not in cpu
    assert cpu["VLLM_CPU_KVCACHE_SPACE"] == "1"
    assert cpu["HF_HUB_OFFLINE"] == cpu["VLLM_NO_USAGE_STATS"] == "1"
    assert cpu["PATH"] == "/usr/bin"
    cuda = environment(plan([CUDA], machine(n_gpus=2), {})[1])
    assert cuda["CUDA_VISIBLE_DEVICES"] == "1"
    assert "HF_HUB_OFFLINE" not in cuda
    assert "VLLM_CPU_OMP_THREADS_BIND" not in cuda
