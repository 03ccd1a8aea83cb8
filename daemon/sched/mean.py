"""A mean that follows what it is a mean of."""

import msgspec

_MEMORY = 32
"""Values that a mean is taken over; older ones fade."""


class Mean(msgspec.Struct, gc=False):
    """The mean of the latest values, which fades rather than forgets at once."""

    count: int = 0
    value: float = 0.0

    def add(self, value: float) -> None:
        """Learn from one more."""
        self.count = min(self.count + 1, _MEMORY)
        self.value += (value - self.value) / self.count

    def copy(self) -> "Mean":
        """One that goes its own way from now on."""
        return Mean(self.count, self.value)
