"""`docs/settings.md`: every setting, written from the Settings models by `make settings` and held by `make check`.

python -m hack.reference.settings           write it
python -m hack.reference.settings --check   write nothing; fail where it is not what the models say
"""

from __future__ import annotations

import argparse
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Union

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.infra.settings.secrets import Secret, Url

from hack.tools.common import REPOSITORY, ToolError, guarded, say

PAGE = REPOSITORY / "docs" / "settings.md"
_BOUNDS = {Ge: ("≥", "ge"), Gt: (">", "gt"), Le: ("≤", "le"), Lt: ("<", "lt")}
_INTRODUCTION = """\
# Settings

Written by `make settings` from the models in `infra/settings/`; `make check` fails where it is not what they say.

A setting is an argument of `Settings(…)`, an environment variable or a line of `.env`; the first of these that names it
holds. Variables have their section before two underscores, in capitals or not. A list is written with commas, an object as JSON.
A value that cannot be used, and a name that a section does not have, end the process with one line for each.
`python -m services.manage config` prints what is in force and where each value came from.

*Secret* says that a value is shown nowhere: `**********` in `repr`, logs and `config`. In a *URL* only the passwords in it are.
"""


@dataclass(frozen=True)
class Setting:
    """One row of the page."""

    variable: str
    type: str
    default: str
    is_secret: bool
    description: str


def settings_of(model: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[Setting]:
    """The settings of one section, those of an object with names of one's own among them."""
    for name, field in model.model_fields.items():
        variable = "__".join((*path, name)).upper()
        named = _named_model(field.annotation)
        if named is not None:
            yield Setting(variable, "objects by name", "none", False, field.description or "")
            yield from settings_of(named, (*path, name, "<name>"))
            continue
        yield Setting(variable, _type(field), _default(field), _is(field, Secret), field.description or "")


def sections() -> Iterator[tuple[str, str, list[Setting]]]:
    """Name, description and settings of every section; what belongs to none comes first."""
    own = {name: field for name, field in Settings.model_fields.items() if not _is_section(field)}
    yield (
        "General",
        "",
        [
            Setting(name.upper(), _type(field), _default(field), _is(field, Secret), field.description or "")
            for name, field in own.items()
        ],
    )
    for name, field in Settings.model_fields.items():
        if name not in own:
            section = typing.cast("type[BaseModel]", field.annotation)
            yield name, (section.__doc__ or "").strip(), list(settings_of(section, (name,)))


def rendered() -> str:
    """The page. ToolError for a setting without a description."""
    parts = [_INTRODUCTION]
    for title, description, settings in sections():
        parts.append(f"## {title}\n")
        if description:
            parts.append(f"{description}\n")
        rows = ["| variable | type | default | secret | what it does |", "| --- | --- | --- | --- | --- |"]
        for one in settings:
            if not one.description:
                raise ToolError(f"{one.variable} has no description", "give its field one")
            cells = (
                f"`{one.variable}`",
                one.type,
                one.default,
                "yes" if one.is_secret else "",
                one.description,
            )
            rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        parts.append("\n".join(rows) + "\n")
    return "\n".join(parts)


def check(page: Path, text: str) -> None:
    """ToolError where the page is not what the models say."""
    if not page.exists() or page.read_text() != text:
        raise ToolError(
            f"{page.name} is not what the Settings models say", "run `make settings` and commit the page"
        )


def _is_section(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def _named_model(annotation: Any) -> type[BaseModel] | None:
    """The model that the values of a `dict[str, Model]` have."""
    if typing.get_origin(annotation) is dict:
        value = typing.get_args(annotation)[1]
        if isinstance(value, type) and issubclass(value, BaseModel):
            return value
    return None


def _markers(field: FieldInfo) -> list[Any]:
    """What annotates the field or the text in it, such as the mark of a secret."""
    found = list(field.metadata)
    waiting = [field.annotation]
    while waiting:
        annotation = waiting.pop()
        found += getattr(annotation, "__metadata__", ())
        waiting += typing.get_args(annotation)
    return found


def _is(field: FieldInfo, alias: Any) -> bool:
    """Whether the field, or the text in it, is of this annotated type."""
    validator = typing.get_args(alias)[1]
    return validator in _markers(field)


def _type(field: FieldInfo) -> str:
    name = "URL" if _is(field, Url) else _type_name(field.annotation)
    bounds = [
        f"{sign} {getattr(mark, attribute):,}".replace(",", " ")
        for mark in field.metadata
        for kind, (sign, attribute) in _BOUNDS.items()
        if isinstance(mark, kind)
    ]
    return ", ".join((name, *bounds))


def _type_name(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type_name(arguments[0])
    if origin in {Union, types.UnionType}:
        return " or ".join(_type_name(one) for one in arguments if one is not type(None))
    if origin is Literal:
        return ", ".join(f"`{one}`" for one in arguments)
    if origin is list:
        return f"list of {_type_name(arguments[0])}"
    if origin is dict:
        return f"object of {_type_name(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return ", ".join(f"`{one.value}`" for one in annotation)
    return {str: "text", int: "integer", float: "number", bool: "`true` or `false`", Path: "path"}[annotation]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "must be set"
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined or value is None or value in ([], {}, ""):
        return "none"
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, list):
        return f"`{','.join(str(one) for one in value)}`"
    return f"`{value}`"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m hack.reference.settings", description="Write docs/settings.md."
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail where the page is stale")
    text = rendered()
    if parser.parse_args().check:
        check(PAGE, text)
        say(f"{PAGE.name} is what the Settings models say")
    else:
        PAGE.write_text(text)
        say(f"wrote {PAGE.relative_to(REPOSITORY)}")
    return 0


if __name__ == "__main__":
    guarded(main)
