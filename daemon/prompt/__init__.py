"""Turns request bodies into exactly the token ids that an engine would compute. Runs no model."""

from preble.daemon.prompt.encoder import PromptEncoder
from preble.daemon.prompt.refusal import NotReproducible
from preble.daemon.prompt.traits import Traits

__all__ = ["NotReproducible", "PromptEncoder", "Traits"]
