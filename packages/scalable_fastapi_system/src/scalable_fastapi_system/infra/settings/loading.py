"""Reading the settings with errors that say which variable to set, and where each value came from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_settings import DotEnvSettingsSource, EnvSettingsSource

from scalable_fastapi_system.infra.settings.models import Settings, without_bare_sections
from scalable_fastapi_system.infra.settings.secrets import masked
from scalable_fastapi_system.kit.errors import ConfigurationError


def load_settings() -> Settings:
    """The settings of this process. Raises ConfigurationError with one line per problem."""
    try:
        return Settings()
    except ValidationError as error:
        raise ConfigurationError(explain(error)) from None
    except ValueError as error:  # an environment variable that should be JSON and is not
        raise ConfigurationError(f"The settings could not be read: {error}") from None


def explain(error: ValidationError) -> str:
    """One line per problem, each beginning with the variable to set. Never shows the value: it may be secret."""
    lines = ["The settings are not usable:"]
    for problem in error.errors(include_url=False, include_input=False):
        variable = "__".join(str(part) for part in problem["loc"]).upper()
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            message = "there is no such setting; `config` lists them all"
        lines.append(f"  {variable}: {message}" if variable else f"  {message}")
    return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class EffectiveValue:
    """One setting as it is in force. `value` is masked where it is secret."""

    variable: str
    value: str
    source: str
    description: str


def effective_values(settings: Settings) -> Iterator[EffectiveValue]:
    """Every setting with its value (masked) and source: `environment`, `.env`, `argument` or `default`."""
    sources = (
        ("environment", without_bare_sections(EnvSettingsSource(Settings))()),
        (".env", without_bare_sections(DotEnvSettingsSource(Settings))()),
    )
    for path, value, description in _leaves(settings):
        origin = next((name for name, tree in sources if _holds(tree, path)), None)
        if origin is None:
            origin = "argument" if _is_set(settings, path) and value != _default(path) else "default"
        yield EffectiveValue("__".join(path).upper(), masked(value), origin, description)


def _leaves(model: BaseModel, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any, str]]:
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from _leaves(value, (*path, name))
        else:
            yield (*path, name), value, field.description or ""


def _holds(tree: Any, path: tuple[str, ...]) -> bool:
    for name in path:
        if not isinstance(tree, dict) or name not in tree:
            return False
        tree = tree[name]
    return True


def _is_set(model: BaseModel, path: tuple[str, ...]) -> bool:
    node: Any = model
    for name in path:
        if name not in node.model_fields_set:
            return False
        node = getattr(node, name)
    return True


def _default(path: tuple[str, ...]) -> Any:
    node: Any = Settings
    for name in path[:-1]:
        node = node.model_fields[name].annotation
    return node.model_fields[path[-1]].get_default(call_default_factory=True)
