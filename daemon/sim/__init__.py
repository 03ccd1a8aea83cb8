"""The same machine as the daemon's, on a virtual clock over modelled engines."""
