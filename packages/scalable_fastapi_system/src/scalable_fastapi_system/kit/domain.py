"""How a business domain tells the platform what it brings.

Everything is named by string (`"domains.orders.routes:router"`), so that the worker can load a domain's
jobs without importing its routes and with them the web framework.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Domain:
    """What one domain brings.

    Raises TypeError where a sequence is none, such as for want of a comma.

    name: plural noun, the folder's name.
    models: modules whose import registers the tables (for sessions and Alembic's autogenerate).
    routes: `module:attribute` of each APIRouter; loaded by the API only.
    jobs: modules whose import registers job handlers; loaded by the worker (and by the API's embedded one).
    """

    name: str
    models: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()
    jobs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for member in ("models", "routes", "jobs"):
            names: object = getattr(self, member)
            if isinstance(names, str):
                raise TypeError(
                    f"the domain {self.name!r}: write {member}=({_quoted(names)},), with a comma: one text in"
                    " parentheses is that text"
                )
            if not isinstance(names, tuple | list):
                raise TypeError(
                    f"the domain {self.name!r}: {member} is a tuple of strings, and not {names!r}"
                )
            for name in names:
                if not isinstance(name, str):
                    raise TypeError(
                        f"the domain {self.name!r}: {member} names modules by string, and {name!r} is none"
                    )


@dataclass(frozen=True, slots=True)
class Product:
    """The domains of one product and where their migrations live (a package with Alembic revisions).

    Raises TypeError where the domains are no sequence of Domain objects.
    """

    domains: tuple[Domain, ...] = ()
    migrations: str | None = None

    def __post_init__(self) -> None:
        domains: object = self.domains
        if isinstance(domains, Domain):
            raise TypeError("write domains=(domain,), with a comma: one object in parentheses is that object")
        for domain in self.domains:
            if not isinstance(domain, Domain):
                raise TypeError(f"a product's domains are Domain objects, and not {domain!r}")

    def load_models(self) -> None:
        """Imports every domain's models. A module that is missing or broken raises its own ImportError."""
        _import_all(module for domain in self.domains for module in domain.models)

    def load_jobs(self) -> None:
        """Imports models and job handlers of every domain."""
        self.load_models()
        _import_all(module for domain in self.domains for module in domain.jobs)

    def load_routers(self) -> list[Any]:
        """The APIRouters of every domain, in the order they were declared."""
        self.load_models()
        return [load_object(reference) for domain in self.domains for reference in domain.routes]


def load_object(reference: str) -> Any:
    """The object that `package.module:attribute` names.

    Raises ValueError where the reference has no colon, ImportError or AttributeError where it leads nowhere.
    """
    module_name, colon, attribute = reference.partition(":")
    if not colon:
        raise ValueError(f"{reference!r} is not of the form 'package.module:attribute'")
    return getattr(importlib.import_module(module_name), attribute)


def _quoted(text: str) -> str:
    return f'"{text}"'


def _import_all(modules: Iterable[str]) -> None:
    for module in modules:
        importlib.import_module(module)
