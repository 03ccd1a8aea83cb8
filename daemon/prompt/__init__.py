"""Turns request bodies into exactly the token ids that an engine would compute. Runs no model."""

from preble.daemon.prompt.encoder import PromptEncoder
from preble.daemon.prompt.refusal import NotReproducible

__all__ = ["NotReproducible", "PromptEncoder"]
