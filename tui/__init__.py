"""The operator's console of Preble."""
