"""Roles of text: what it means, not how it looks."""

from typing import Literal

Role = Literal["text", "ok", "warn", "bad", "accent", "muted", "title", "strong"]
Part = tuple[str, Role]
Cell = tuple[Part, ...]
"""What stands in a table's cell, or in a line: pieces of text and their roles."""


def cell(text: str, role: Role = "text") -> Cell:
    """A cell of one piece."""
    return ((text, role),)
