"""What the outside sees: request and response bodies. Imports nothing of the daemon but its ids."""
