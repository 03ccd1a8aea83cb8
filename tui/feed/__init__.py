"""Where events come from: a daemon, a file, or a simulated cluster."""
