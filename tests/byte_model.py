"""A model's prompts without the model."""

import json
from pathlib import Path

from preble.daemon.engine.demo_model import _CHAT_TEMPLATE, _byte_tokenizer


def model_files(folder: Path) -> Path:
    """The demo model's tokenizer of bytes, and its chat template."""
    _byte_tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": _CHAT_TEMPLATE}))
    return folder
