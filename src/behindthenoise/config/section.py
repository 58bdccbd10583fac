"""What all sections of the configuration share: names of axes and roles, scalars that are taken as they are written."""

import re
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Strict

Axis = Literal["image", "scan", "channel", "z", "y", "x"]
Role = Literal["train", "calibration", "test"]
Space = Literal["z", "y", "x"]
SPACE_AXES: tuple[Space, ...] = ("z", "y", "x")


def _names(value: object) -> object:
    """Axis names may be written as one string, `scan channel y x`."""
    return tuple(value.split()) if isinstance(value, str) else value


def _counted(value: object) -> object:
    """Arrays that have numbers instead of names may be given by these."""
    return str(value) if type(value) is int else value


def _exponent(value: object) -> object:
    """`1e-3` is a number to everybody but YAML 1.1, which wants `1.0e-3`."""
    written = isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value)
    return float(value) if written and isinstance(value, str) else value


# scalars are taken as they are written: "5" is no number, 1 is no truth value; lists become tuples
Int = Annotated[int, Strict()]
Real = Annotated[float, BeforeValidator(_exponent), Strict()]
Flag = Annotated[bool, Strict()]
ArrayName = Annotated[str, BeforeValidator(_counted, json_schema_input_type=str | int)]
AxisNames = Annotated[tuple[Axis, ...], BeforeValidator(_names, json_schema_input_type=tuple[Axis, ...] | str)]
Fractional = Annotated[Real, Field(gt=0, lt=1)]
Span = tuple[Annotated[Int, Field(ge=0)], Annotated[Int, Field(gt=0)]]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]


class Section(BaseModel):
    """A part of the configuration: immutable, and without room for keys that nobody reads."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
