"""A request's way through the daemon: events, the machine that decides, the host that acts."""
