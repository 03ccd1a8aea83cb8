"""Templates, as values: variables, rendering, what of them can be cached, and what they share. Pure."""
