"""Preble: a multi-tenant LLM serving daemon that schedules requests over local vLLM engines by E2."""

__version__ = "0.1.0"
