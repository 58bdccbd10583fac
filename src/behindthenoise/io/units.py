"""Units of length: the names that OME-Zarr has for what people and instruments write, and how long each is."""

from collections.abc import Mapping

METRES: Mapping[str, float] = {
    "picometer": 1e-12,
    "angstrom": 1e-10,
    "nanometer": 1e-9,
    "micrometer": 1e-6,
    "millimeter": 1e-3,
    "centimeter": 1e-2,
    "meter": 1.0,
}
# ImageJ writes the micro sign as the six characters of an escape.
SYMBOLS: Mapping[str, str] = {
    "pm": "picometer",
    **dict.fromkeys(("\N{LATIN CAPITAL LETTER A WITH RING ABOVE}", "\N{ANGSTROM SIGN}"), "angstrom"),
    "nm": "nanometer",
    **dict.fromkeys(("\N{MICRO SIGN}m", "\N{GREEK SMALL LETTER MU}m", "\\u00B5m", "um", "micron", "microns"), "micrometer"),
    "mm": "millimeter",
    "cm": "centimeter",
    "m": "meter",
    **{name.replace("meter", ending): name for name in METRES for ending in ("metre", "metres", "meters") if "meter" in name},
}


def named(unit: str) -> str:
    """The unit's name in OME-Zarr; a unit of no length, or an unknown one, as it is."""
    return SYMBOLS.get(unit, unit)


def ratio(unit: str, other: str) -> float | None:
    """How many of the other unit one unit is; None where one of two different units is no known length."""
    first, second = named(unit), named(other)
    if first == second:
        return 1.0
    return METRES[first] / METRES[second] if first in METRES and second in METRES else None
