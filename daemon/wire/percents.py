"""Percentages in what people read: `47 %`, everywhere."""


def percent(ratio: float, digits: int = 0) -> str:
    """A ratio of 0 to 1, with the sign and so many digits behind the point."""
    return f"{100 * ratio:.{digits}f} %"
