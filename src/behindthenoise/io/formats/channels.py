"""Names of channels, wherever files of several formats write them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

# What an axis of channels is called in files.
CHANNEL_WORDS = ("channel", "element", "line", "band", "c")
NAME_ATTRIBUTES = ("channels", "elements", "lines")


def names_in(attributes: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Lists of channel names among the attributes of an array or of a group around it."""
    ome = attributes.get("ome", attributes)
    omero = ome.get("omero") if isinstance(ome, Mapping) else None
    if isinstance(omero, Mapping):
        yield tuple(str(channel.get("label", "")) for channel in omero.get("channels", ()))
    for key in NAME_ATTRIBUTES:
        value = attributes.get(key)
        # Such an attribute may also be a sentence about the lines, which is no list of them.
        if isinstance(value, Mapping | Sequence | np.ndarray) and not isinstance(value, str | bytes):
            names = list(value)
            if all(isinstance(name, str) for name in names):
                yield tuple(str(name) for name in names)
