"""`preble`: the daemon in the foreground, and the operator's commands."""
