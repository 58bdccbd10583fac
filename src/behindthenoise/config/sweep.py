"""The section `sweep`: the settings of networks that `snakemake sweep` compares."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, JsonValue, ValidationError, WithJsonSchema, model_validator

from behindthenoise.config.messages import describe
from behindthenoise.config.network import NetworkConfig
from behindthenoise.config.section import Int, Section
from behindthenoise.config.training import TrainingConfig


@dataclass(frozen=True)
class Point:
    """One setting of a sweep: sections in which the swept keys have one of their values."""

    network: NetworkConfig
    training: TrainingConfig


# What is no property of a network: where its patches lie, how fast it trains, and the units that all points are judged on.
UNSWEPT = ("border_weight", "members_per_gpu", "memory_gb", "patch", "quantiles", "threads", "validation")


def _swept_keys(section: type[Section]) -> list[str]:
    return [key for key in section.model_fields if key not in UNSWEPT]


def _lists_schema(section: type[Section]) -> dict[str, Any]:
    """JSON schema of a mapping from keys of a section to lists of their values."""
    properties = section.model_json_schema()["properties"]
    lists = {
        key: {
            "type": "array",
            "minItems": 1,
            "description": properties[key]["description"],
            "items": {name: rule for name, rule in properties[key].items() if name not in ("default", "description", "title")},
        }
        for key in _swept_keys(section)
    }
    return {"type": "object", "additionalProperties": False, "properties": lists}


Values = Annotated[tuple[JsonValue, ...], Field(min_length=1)]


class SweepConfig(Section):
    """Settings that `snakemake sweep` compares, by single networks and on validation units alone."""

    network: Annotated[dict[str, Values], WithJsonSchema(_lists_schema(NetworkConfig))] = Field(
        default_factory=dict, description="Values to try for keys of `network`, e.g. {depth: [5, 10, 20]}."
    )
    training: Annotated[dict[str, Values], WithJsonSchema(_lists_schema(TrainingConfig))] = Field(
        default_factory=dict, description="Values to try for keys of `training`, e.g. {learning_rate: [0.005, 0.01, 0.02]}."
    )
    repeats: Int = Field(
        default=3,
        ge=1,
        description="Networks of each setting: members 0, 1, ..., so that all settings share seeds and validation units.",
    )
    mode: Literal["grid", "one"] = Field(
        default="grid",
        description="grid: all combinations; one: one key at a time, the others as configured, and all as configured.",
    )

    @model_validator(mode="after")
    def _keys_exist(self) -> "SweepConfig":
        for name, section in (("network", NetworkConfig), ("training", TrainingConfig)):
            allowed = _swept_keys(section)
            if unknown := sorted(set(getattr(self, name)) - set(allowed)):
                raise ValueError(f"{name} has no key {unknown[0]!r} to sweep; allowed here: {', '.join(allowed)}")
        return self

    def swept(self) -> list[tuple[str, str]]:
        """Section and name of each swept key."""
        return [("network", key) for key in self.network] + [("training", key) for key in self.training]

    def points(self, network: NetworkConfig, training: TrainingConfig) -> dict[str, Point]:
        """
        Every setting by its name, which can stand in a path: `depth-10_width-4`; with `mode: one`, `base` is as configured.

        Raises
        ------
        ValueError
            If a value does not fit its section, or one setting is named twice.
        """
        own = Point(network, training)
        found: dict[str, Point] = {}
        for chosen in self._choices():
            point = Point(
                _with(network, {key: value for (section, key), value in chosen.items() if section == "network"}),
                _with(training, {key: value for (section, key), value in chosen.items() if section == "training"}),
            )
            settings = {where[1]: setting(point, where) for where in chosen if self.mode == "grid" or point != own}
            name = "_".join(f"{key}-{written(value)}" for key, value in settings.items()) or "base"
            if name in found and settings:
                raise ValueError(f"sweep has the setting {name} twice; name each value once")
            found[name] = point
        return found

    def _choices(self) -> Iterator[dict[tuple[str, str], JsonValue]]:
        """Values of the swept keys for each setting."""
        lists: dict[tuple[str, str], tuple[JsonValue, ...]] = {where: getattr(self, where[0])[where[1]] for where in self.swept()}
        if not lists:
            return
        if self.mode == "grid":
            yield from (dict(zip(lists, values, strict=True)) for values in product(*lists.values()))
        else:
            yield {}
            yield from ({where: value} for where, values in lists.items() for value in values)


def setting(point: Point, where: tuple[str, str]) -> Any:
    """Value that a key, given by its section and name, has at a point of a sweep."""
    return getattr(getattr(point, where[0]), where[1])


def written(value: Any) -> str:
    """A setting in letters that are safe in a path; a list is joined by dashes, and a list of one is its value."""
    if isinstance(value, tuple):
        return "-".join(written(item) for item in value)
    return value if isinstance(value, str) else json.dumps(value)


SectionType = TypeVar("SectionType", bound=Section)


def _with(section: SectionType, changes: dict[str, JsonValue]) -> SectionType:
    """The section with some values changed, checked as a whole."""
    try:
        return type(section).model_validate({**section.model_dump(), **changes})
    except ValidationError as problem:
        name = "network" if isinstance(section, NetworkConfig) else "training"
        lines = [f"sweep.{name}: {describe(error, type(section))}" for error in problem.errors()]
        raise ValueError("; ".join(lines)) from None
