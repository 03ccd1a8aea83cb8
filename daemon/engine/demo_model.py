"""The model that serves where there is no GPU: a small Llama with random weights and a tokenizer of bytes.

Its text is noise, but all else is real: prefix caching, batching, load. It is made once, by a child process, since
torch and transformers never enter the daemon. Run as a program, this module is that child.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from preble.daemon.errors import EngineError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_NAME = "demo-v1"  # a new number whenever what is made below changes
_ROLES = ("system", "user", "assistant", "tool")
_SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", *(f"<|{role}|>" for role in _ROLES), "<|end|>")

_CHAT_TEMPLATE = """\
{%- if tools -%}
<|system|>Tools:
{%- for tool in tools %} {{ tool | tojson }}{% endfor -%}
<|end|>
{%- endif -%}
{%- for message in messages -%}
<|{{ message.role }}|>
{%- if message.content %}{{ message.content }}{% endif -%}
{%- for call in message.tool_calls or [] %} {{ call.function.name }} {{ call.function.arguments | tojson }}{% endfor -%}
{%- if not (continue_final_message and loop.last) -%}<|end|>{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}
"""


def ensure_demo_model(data_dir: Path, say: Callable[[str], None]) -> Path:
    """Make the model unless it is there; its folder. Raises `EngineError` if it cannot be made."""
    folder = data_dir / "models" / _NAME
    if folder.exists():
        return folder
    say(f"making the demo model in {folder}")
    draft = folder.with_suffix(".draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    command = [sys.executable, "-m", __name__, str(draft)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if made.returncode != 0:
        raise EngineError(f"the demo model could not be made: {made.stderr.strip()[-1000:]}")
    draft.rename(folder)
    return folder


def _make(folder: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_byte_tokenizer(),
        bos_token="<s>",  # noqa: S106
        eos_token="</s>",  # noqa: S106
        pad_token="<pad>",  # noqa: S106
        additional_special_tokens=list(_SPECIAL_TOKENS[3:]),
        model_max_length=16384,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = _CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=len(tokenizer),
        max_position_embeddings=16384,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


def _byte_tokenizer() -> "Tokenizer":
    """One token per byte, so that any text survives the way to tokens and back."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    names = [*_SPECIAL_TOKENS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={name: number for number, name in enumerate(names)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in _SPECIAL_TOKENS])
    return tokenizer


if __name__ == "__main__":
    _make(Path(sys.argv[1]))
