"""A configuration from a YAML file or plain data, its JSON schema, and the files that it names."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from behindthenoise import remote
from behindthenoise.config.messages import describe
from behindthenoise.config.whole import Config
from behindthenoise.errors import ConfigError, RemoteError


def load(path: str | Path) -> Config:
    """
    Configuration read from a YAML file.

    Raises
    ------
    ConfigError
        If the file is not YAML, or its content is not a valid configuration.
    """
    try:
        content = yaml.safe_load(Path(path).read_text())
    except (OSError, ValueError, yaml.YAMLError) as problem:
        raise ConfigError(f"config file {str(path)!r} cannot be read: {problem}") from problem
    expect_each_key_once(path)
    return parse(content, origin=str(path))


def expect_each_key_once(path: str | Path) -> None:
    """
    Nothing, if no mapping in a file of valid YAML has a key twice: of two values, YAML would silently take the later one.

    Raises
    ------
    ConfigError
        Names each doubled key with its lines.
    """
    root = yaml.compose(Path(path).read_text(), Loader=yaml.SafeLoader)
    wrong = [
        f"key {key!r} is written {len(lines)} times, in lines {', '.join(map(str, lines))}"
        for key, lines in _lines_of_keys(root).items()
        if len(lines) > 1
    ]
    if wrong:
        raise ConfigError(f"{path}: {'; '.join(wrong)}; keep one of each")


def _lines_of_keys(root: yaml.Node | None) -> dict[str, list[int]]:
    """Lines, from 1, in which each dotted key of a document stands; what an alias repeats counts once."""
    found: dict[str, list[int]] = {}
    seen: set[int] = set()
    waiting = [("", root)]
    while waiting:
        above, node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += [(f"{above}{index}.", inner) for index, inner in enumerate(node.value)]
        elif isinstance(node, yaml.MappingNode):
            for key, inner in node.value:
                found.setdefault(f"{above}{key.value}", []).append(key.start_mark.line + 1)
                waiting.append((f"{above}{key.value}.", inner))
    return found


def parse(content: object, *, origin: str = "config", check_files: bool = True) -> Config:
    """
    Configuration from plain data, every key and value checked.

    Parameters
    ----------
    content
        What the YAML file holds: a mapping.
    origin
        Name of the file, for the messages.
    check_files
        Whether the source files must exist.

    Raises
    ------
    ConfigError
        Names each wrong key with its value and what is allowed.
    """
    try:
        config = Config.model_validate(content)
    except ValidationError as problem:
        lines = [describe(error, Config) for error in problem.errors()]
        raise ConfigError(f"{origin}: " + "; ".join(dict.fromkeys(lines))) from None
    if check_files:
        try:
            _expect_places(config, origin)
        except RemoteError as problem:
            raise ConfigError(f"{origin}: {problem}") from problem
    return config


def _expect_places(config: Config, origin: str) -> None:
    """
    Nothing, if every source is there, and places to publish to can be reached and hold nothing else.

    Raises
    ------
    ConfigError
        Names the source that is missing.
    RemoteError
        If a URL cannot be reached, or something else stands at one.
    """
    for key, source in config.sources():
        if not source.files():
            where = "" if Path(source.path).is_absolute() or remote.is_url(source.path) else f" (looked for in {Path.cwd()})"
            raise ConfigError(
                f"{origin}: {key}.path {source.path!r} does not exist; give an existing file, folder or pattern{where}"
            )
    for target in config.publish.values():
        remote.expect_ours(remote.place(target.path, target.options))


def schema() -> dict[str, Any]:
    """JSON schema of the configuration file, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Config.model_json_schema()}
