"""Numbers for people."""

from collections.abc import Sequence


def counted(number: int, noun: str) -> str:
    """How many there are of something, in the plural where it takes one."""
    return f"{number} {noun}{'s' * (number != 1)}"


def in_time(seconds: float) -> str:
    """A duration, in the unit in which it is not below 2; two or three digits."""
    for unit, amount in (("h", 3600), ("min", 60)):
        if seconds >= 2 * amount:
            return f"{seconds / amount:.3g} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"


def in_bytes(count: int) -> str:
    """An amount of memory."""
    for unit, amount in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= amount:
            return f"{count / amount:.3g} {unit}"
    return f"{count:.0f} B"


def in_edges(sizes: Sequence[int]) -> str:
    """The size of an image or a volume."""
    return " x ".join(map(str, sizes)) or "a single number"
