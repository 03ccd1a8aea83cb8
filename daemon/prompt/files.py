"""Reads what a model's folder, or its page on the Hugging Face hub, says about its prompts."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from jinja2 import TemplateError
from tokenizers import AddedToken, Tokenizer

from preble.daemon.errors import ConfigError
from preble.daemon.prompt.template import ChatTemplate

_TOKENIZER = "tokenizer.json"
_CONFIG = "tokenizer_config.json"
_TEMPLATE = "chat_template.jinja"
_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """What is needed of a model to make its prompts."""

    tokenizer: Tokenizer
    template: ChatTemplate | None
    """None if the model has none, or several without a default."""
    tool_template: ChatTemplate | None
    """For chats with tools; the same as `template` where the model has none of its own."""


def read_model(model: Path) -> ModelFiles:
    """Read `model`, a folder or else a Hugging Face id. Raises `ConfigError`, which names the file."""
    folder = model if model.is_dir() else _downloaded(model.as_posix())
    config = _config(folder / _CONFIG)
    try:
        special_tokens = _special_tokens(config)
        templates = _templates(folder, config)
        tokenizer = _tokenizer(folder / _TOKENIZER, config, special_tokens)
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # what a file of another shape leads to
        raise ConfigError(f"models.path: {folder} has files that cannot be understood: {error!r}") from error
    default = _compiled(folder, templates.get("default"), special_tokens)
    tool_use = _compiled(folder, templates.get("tool_use"), special_tokens)
    return ModelFiles(tokenizer, default, tool_use or default)


def _downloaded(model_id: str) -> Path:
    """Fetch the files named here, or take them from the local cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model_id, allow_patterns=[_TOKENIZER, _CONFIG, _TEMPLATE]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ConfigError(f"models.path: {model_id} is no folder, and it cannot be fetched: {error}") from error


def _tokenizer(file: Path, config: Mapping[str, Any], special_tokens: Mapping[str, str]) -> Tokenizer:
    if not file.is_file():
        raise ConfigError(f"models.path: {file} is missing")
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises no other type
        raise ConfigError(f"models.path: {file} cannot be read: {error}") from error
    present = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    tokenizer.add_tokens([token for token in _added_tokens(config, special_tokens) if token.content not in present])
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = bool(config.get("split_special_tokens"))
    return tokenizer


def _added_tokens(config: Mapping[str, Any], special_tokens: Mapping[str, str]) -> list[AddedToken]:
    """Tokens that tokenizer_config.json asks for, in the order in which they get ids."""
    listed = sorted(config.get("added_tokens_decoder", {}).items(), key=lambda item: int(item[0]))
    extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    names = [*special_tokens.values(), *(map(_content, extra) if isinstance(extra, list) else ())]
    return [
        *(AddedToken(**token) for _, token in listed),
        *(AddedToken(name, special=True, normalized=False) for name in names),
    ]


def _special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """Tokens by the name that a template knows them by."""
    extra = config.get("extra_special_tokens")
    named = {
        **{name: config[name] for name in _NAMED_TOKENS if config.get(name)},
        **{name: token for name, token in config.items() if name.endswith("_token") and isinstance(token, str | dict)},
        **(extra if isinstance(extra, dict) else {}),
    }
    return {name: _content(token) for name, token in named.items()}


def _content(token: str | Mapping[str, Any]) -> str:
    return token if isinstance(token, str) else str(token["content"])


def _config(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ConfigError(f"models.path: {file} is missing")
    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise ConfigError(f"models.path: {file} cannot be read: {error}") from error


def _templates(folder: Path, config: Mapping[str, Any]) -> Mapping[str, str]:
    """Templates by name; a file of its own wins over the configuration."""
    file = folder / _TEMPLATE
    if file.is_file():
        return {"default": file.read_text(encoding="utf-8")}
    match config.get("chat_template"):
        case str(source):
            return {"default": source}
        case list(entries):
            return {entry["name"]: entry["template"] for entry in entries}
    return {}


def _compiled(model: Path, source: str | None, special_tokens: Mapping[str, str]) -> ChatTemplate | None:
    if source is None:
        return None
    try:
        return ChatTemplate(source, special_tokens)
    except TemplateError as error:
        raise ConfigError(f"models.path: the chat template of {model} cannot be read: {error}") from error
