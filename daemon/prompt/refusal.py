"""The one way in which this package gives up."""

from preble.daemon.errors import PrebleError


class NotReproducible(PrebleError):
    """Only an engine can say for certain which tokens this request becomes; the message says why."""
