"""A model whose steps take several times as long as the demo model's, so that the machine's own work matters less.

Two engines of the demo model on four cores answer so many requests a second that clients, daemon and API servers wait
for processors, which GPUs spare them and the simulator does not know. The tokenizer is the demo model's.
"""

import shutil
import subprocess
import sys
from pathlib import Path

NAME = "slow-v1"


def ensure_slow_model(demo: Path) -> Path:
    """Make it beside the demo model, unless it is there; its folder."""
    folder = demo.with_name(NAME)
    if not folder.exists():
        draft = folder.with_suffix(".draft")
        shutil.rmtree(draft, ignore_errors=True)
        subprocess.run([sys.executable, __file__, str(demo), str(draft)], check=True)
        draft.rename(folder)
    return folder


def _make(demo: Path, folder: Path) -> None:
    import torch
    from transformers import AutoConfig, LlamaForCausalLM

    shutil.copytree(demo, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = AutoConfig.from_pretrained(demo)
    config.hidden_size, config.intermediate_size = 512, 1376
    config.num_hidden_layers = 8
    config.num_attention_heads, config.num_key_value_heads = 8, 4
    torch.manual_seed(0)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


if __name__ == "__main__":
    _make(Path(sys.argv[1]), Path(sys.argv[2]))
