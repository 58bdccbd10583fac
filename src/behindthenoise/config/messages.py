"""What pydantic finds wrong with a configuration, in one line of words each."""

import re
from typing import Any, get_args

from pydantic import BaseModel


def describe(error: Any, model: type[BaseModel]) -> str:
    """One line for one of pydantic's findings: the key, the value, what is allowed."""
    location = [str(part) for part in error["loc"]]
    # where one of several types is allowed, pydantic's last part is the type it has tried, which is no key
    if len(location) > 2 and re.fullmatch(r"(constrained-)?int|literal\[.*\]", location[-1]):
        location.pop()
    key = ".".join(location) or "the config"
    if error["type"] == "extra_forbidden":
        allowed = ", ".join(_fields_at(location[:-1], model))
        return f"unknown key {key!r}; allowed here: {allowed}"
    if error["type"] == "missing":
        return f"key {key!r} is missing and has no default"
    message = error["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if error["type"] == "value_error":
        return f"{key}: {message}" if location else message
    return f"{key} is {error['input']!r}: {message}"


def _fields_at(location: list[str], model: type[BaseModel]) -> list[str]:
    """Keys that the section at `location` knows."""
    fields = model.model_fields
    for part in location:
        if part not in fields:
            continue
        nested = [t for t in types_in(fields[part].annotation) if isinstance(t, type) and issubclass(t, BaseModel)]
        if nested:
            fields = nested[0].model_fields
    return list(fields)


def types_in(annotation: Any) -> list[Any]:
    """A type and everything inside its brackets."""
    return [annotation, *(inner for argument in get_args(annotation) for inner in types_in(argument))]
