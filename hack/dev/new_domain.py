"""`make new-domain NAME=orders`: a domain that works from its first minute: folder, migration, tests, registered.

It writes what `domain_templates` holds, in which each thing has an owner and a name, and leaves the rest to you.
Everything is written or nothing: a name that is taken or cannot be used is told before the first file.
"""

from __future__ import annotations

import argparse
import keyword
import re
import string
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from hack.dev.errors import DevError
from hack.dev.layout import REPOSITORY

TEMPLATES = Path(__file__).parent / "domain_templates"
_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
MAX_NAME_LENGTH = 40
_REVISION = re.compile(r'^revision: str = "(?P<id>[^"]+)"', re.MULTILINE)
_PARENT = re.compile(r'^down_revision: str \| None = "(?P<id>[^"]+)"', re.MULTILINE)
_NUMBERED = re.compile(r"d(\d{4})_")
_DOMAINS = re.compile(r"domains=\((?P<names>[^)]*)\)")
# Words that the generated modules, the folder of domains or the API's own pages use for something else.
_USED = frozenset(
    {"session", "request", "response", "service", "repository", "page", "body", "router", "principal"}
    | {"registry", "migrations", "docs", "redoc", "openapi"}
)


@dataclass(frozen=True)
class Names:
    """What the new thing is called, in all the ways that code and people write it."""

    things: str
    thing: str

    def values(self) -> dict[str, str]:
        """What the templates ask for."""
        word = self.thing.replace("_", " ")
        article = "an" if word[0] in "aeiou" else "a"
        return {
            "things": self.things,
            "thing": self.thing,
            "THINGS": self.things.upper(),
            "Thing": "".join(part.capitalize() for part in self.thing.split("_")),
            "Things": self.things.replace("_", " ").capitalize(),
            "word": word,
            "a_word": f"{article} {word}",
            "A_word": f"{article.capitalize()} {word}",
            "words": self.things.replace("_", " "),
            "Words": self.things.replace("_", " ").capitalize(),
            "path": self.things.replace("_", "-"),
        }


def singular(plural: str) -> str:
    """The usual English singular: orders, categories, boxes, addresses. Raises DevError where it sees no plural."""
    for ending, replacement in (
        ("ies", "y"),
        ("sses", "ss"),
        ("shes", "sh"),
        ("ches", "ch"),
        ("xes", "x"),
        ("s", ""),
    ):
        if plural.endswith(ending) and not plural.endswith("ss"):
            return plural.removesuffix(ending) + replacement
    raise DevError(
        f"{plural!r} does not look like a plural",
        advice="Say the singular too: make new-domain NAME=people SINGULAR=person",
    )


def checked(plural: str, given_singular: str) -> Names:
    """The names. Raises DevError for ones that cannot be used."""
    for name in (plural, given_singular):
        if name and (not _NAME.fullmatch(name) or len(name) > MAX_NAME_LENGTH):
            raise DevError(
                f"{name!r} cannot name a domain",
                advice=f"Use lower-case words joined by _, at most {MAX_NAME_LENGTH} characters: order_items",
            )
    names = Names(plural, given_singular or singular(plural))
    for name in (names.things, names.thing):
        if keyword.iskeyword(name) or keyword.issoftkeyword(name) or name in _USED:
            raise DevError(f"{name!r} is a word that the code itself uses", advice="Choose another.")
    if names.things == names.thing:
        raise DevError("plural and singular must differ: both are names in the code")
    return names


def taken_names() -> set[str]:
    """Tables, and first parts of paths, that are in use. Imports the product."""
    from domains.registry import PRODUCT
    from scalable_fastapi_system import create_app
    from scalable_fastapi_system.infra.database import metadata
    from scalable_fastapi_system.infra.settings import Settings
    from scalable_fastapi_system.infra.storage import tables  # noqa: F401 - declares what nothing else imports here

    app = create_app(Settings(_env_file=None), PRODUCT)
    paths = app.openapi()["paths"]
    return {path.split("/")[1].replace("-", "_") for path in paths} | set(metadata.tables)


class DomainWriter:
    """Writes one domain into a checkout."""

    def __init__(self, root: Path, names: Names) -> None:
        self._root = root
        self._names = names
        self._domains = root / "packages" / "domains" / "src" / "domains"
        self._versions = self._domains / "migrations" / "versions"
        self._registry = self._domains / "registry.py"

    def write(self) -> list[Path]:
        """The files written, the changed one last. Raises DevError, and writes nothing, where it cannot be done."""
        head, number = self._head()
        values = {**self._names.values(), "revision": f"d{number:04}", "down_revision": head}
        registry = self._registered(values)
        things = self._names.things
        folder = self._domains / things
        targets = {
            template: folder / template.name.removesuffix(".txt")
            for template in TEMPLATES.glob("*.txt")
            if template.name not in {"migration.py.txt", "test.py.txt"}
        }
        targets[TEMPLATES / "migration.py.txt"] = self._versions / f"d{number:04}_{things}.py"
        targets[TEMPLATES / "test.py.txt"] = (
            self._root / "tests" / "integration" / "domains" / f"test_{things}.py"
        )
        for path in (folder, *targets.values()):
            if path.exists():
                raise DevError(
                    f"{path.relative_to(self._root)} is there already", advice="Choose another name."
                )
        folder.mkdir()
        for template, target in sorted(targets.items()):
            target.write_text(string.Template(template.read_text()).substitute(values))
        self._registry.write_text(registry)
        written = [*sorted(targets.values()), self._registry]
        self._tidy(written)
        return written

    def _head(self) -> tuple[str, int]:
        """The newest revision of the product, and the number of the next."""
        texts = {path.name: path.read_text() for path in self._versions.glob("*.py")}
        revisions = {found["id"] for text in texts.values() if (found := _REVISION.search(text))}
        parents = {found["id"] for text in texts.values() if (found := _PARENT.search(text))}
        heads = revisions - parents
        if len(heads) != 1:
            raise DevError(
                f"the product's migrations have {len(heads)} heads: {', '.join(sorted(heads))}",
                advice="Give one of them the other as its down_revision first.",
            )
        numbers = [int(found[1]) for name in texts if (found := _NUMBERED.match(name))]
        return heads.pop(), max(numbers, default=0) + 1

    def _registered(self, values: dict[str, str]) -> str:
        text = self._registry.read_text()
        found = _DOMAINS.search(text)
        if found is None:
            raise DevError(f"{self._registry.relative_to(self._root)} has no line `domains=(…)`")
        listed = [name.strip() for name in found["names"].split(",") if name.strip()] + [values["THINGS"]]
        text = f"{text[: found.start()]}domains=({', '.join(listed)},){text[found.end() :]}"
        line = f"from domains.{values['things']}.domain import {values['THINGS']}\n"
        first = text.index("from domains.")
        return text[:first] + line + text[first:]

    def _tidy(self, paths: list[Path]) -> None:
        """Names of any length: ruff orders the imports and breaks the lines."""
        for command in (["check", "--fix-only", "--quiet"], ["format", "--quiet"]):
            subprocess.run([sys.executable, "-m", "ruff", *command, *paths], cwd=self._root, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="make new-domain", description=__doc__.partition("\n")[0])
    parser.add_argument("name", help="plural, lower case: orders")
    parser.add_argument("singular", nargs="?", default="", help="where it is not the usual English one")
    arguments = parser.parse_args()
    names = checked(arguments.name, arguments.singular)
    if {names.things, names.thing} & taken_names():
        raise DevError(f"{names.things!r} is taken by a table or a path", advice="Choose another name.")
    for written in DomainWriter(REPOSITORY, names).write():
        print(written.relative_to(REPOSITORY))
    path = names.values()["path"]
    print(f"\nTry it: make test ARGS='-k {names.things}'; then make run, and /{path} in its /docs.")


if __name__ == "__main__":
    try:
        main()
    except DevError as error:
        sys.exit(error.describe())
