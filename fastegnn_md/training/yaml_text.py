"""YAML that people write: read without running code, and without what makes a short text a long one."""

from __future__ import annotations

from typing import Any

import yaml

from ..errors import ConfigError, brief

_LONGEST, _DEEPEST = 1_000_000, 20  # characters, brackets within each other; settings take some hundred and three


def read_yaml(text: str, source: str) -> Any:
    """Values of a YAML text.

    Parameters
    ----------
    text : str
    source : str
        What it is, for messages.

    Raises
    ------
    ConfigError
        If it is not YAML, has aliases (which stand for other parts of the text, again and again), is nested without
        end, or has a number that Python does not read.
    """
    if len(text) > _LONGEST:
        raise ConfigError(f"{source} has {len(text)} characters; expected at most {_LONGEST}")
    depth = 0
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise ConfigError(f"{source} has the alias *{brief(event.anchor, quoted=False)}; write its value out")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:
                raise ConfigError(f"{source} has more than {_DEEPEST} levels within each other; settings have three")
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source} is not valid YAML: {brief(error, quoted=False)}") from None
    except ConfigError:
        raise
    except (ValueError, OverflowError, RecursionError) as error:  # a date or number that there is not
        raise ConfigError(f"{source} has a value that cannot be read: {brief(error, quoted=False)}") from None
