"""Settings that people write: typed, and refused in one line of our own words."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from ..errors import ConfigError, brief

if TYPE_CHECKING:  # pydantic does not export it; at run time it is the type of every model
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)


class _NamedErrors(ModelMetaclass):
    """Turns pydantic's errors into ours where a user builds the settings; within other settings pydantic goes on."""

    if not TYPE_CHECKING:  # type checkers keep the signature that pydantic derives from the fields

        def __call__(cls, **values):
            try:
                return super().__call__(**values)
            except ValidationError as error:
                raise ConfigError(_explain(cls, error)) from None


class Settings(BaseModel, metaclass=_NamedErrors):
    """Base of settings: what is wrong with them is a ConfigError."""

    @classmethod
    def explain_unknown(cls, path: list[str]) -> str:
        """What to say of an unknown key: the nearest known one."""
        message = f"unknown key {brief('.'.join(path))}"
        nearest = difflib.get_close_matches(path[-1][:100], cls.model_fields, n=1)
        return (
            f"{message}, did you mean {nearest[0]!r}?"
            if nearest
            else f"{message}; known: {', '.join(cls.model_fields)}"
        )


def _explain(kind: type[Settings], error: ValidationError) -> str:
    """Pydantic's findings in one line."""
    findings: list[Any] = []
    for detail in error.errors(include_url=False, include_context=False):
        path = [str(part) for part in detail["loc"]]
        if detail["type"] == "extra_forbidden":
            findings.append(kind.explain_unknown(path))
        else:
            reason = brief(detail["msg"].removeprefix("Value error, "), quoted=False)
            given = f"{'.'.join(path)} = {brief(detail['input'])}: " if path else ""  # what holds of no key alone
            findings.append(f"{given}{reason[:1].lower()}{reason[1:]}")
    return "; ".join(dict.fromkeys(findings))
