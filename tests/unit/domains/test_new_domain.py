"""`make new-domain`: the names it takes and refuses, and that it writes everything or nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hack.dev.errors import DevError
from hack.dev.layout import REPOSITORY
from hack.dev.new_domain import DomainWriter, Names, checked, singular, taken_names

DOMAINS = Path("packages") / "domains" / "src" / "domains"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What the generator touches of a checkout."""
    shutil.copytree(REPOSITORY / DOMAINS, tmp_path / DOMAINS, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "tests" / "integration" / "domains").mkdir(parents=True)
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    return tmp_path


def files(root: Path) -> set[str]:
    return {
        str(path.relative_to(root))
        for path in root.rglob("*")
        if path.is_file() and ".ruff_cache" not in path.parts
    }


@pytest.mark.parametrize(
    ("plural", "expected"),
    [
        ("orders", "order"),
        ("categories", "category"),
        ("addresses", "address"),
        ("boxes", "box"),
        ("wishes", "wish"),
        ("batches", "batch"),
        ("order_items", "order_item"),
        ("houses", "house"),
    ],
)
def test_the_usual_singular_is_found(plural: str, expected: str) -> None:
    assert singular(plural) == expected


@pytest.mark.parametrize(
    ("plural", "given", "message"),
    [
        ("people", "", "does not look like a plural"),
        ("class", "", "does not look like a plural"),
        ("Orders", "", "cannot name a domain"),
        ("orders-2", "", "cannot name a domain"),
        ("../orders", "", "cannot name a domain"),
        ("2orders", "", "cannot name a domain"),
        ("", "", "does not look like a plural"),
        ("o" * 40 + "s", "", "cannot name a domain"),
        ("classes_", "", "cannot name a domain"),
        ("classs", "class", "a word that the code itself uses"),
        ("services", "", "a word that the code itself uses"),
        ("migrations", "", "a word that the code itself uses"),
        ("sheep", "sheep", "must differ"),
    ],
)
def test_a_name_that_cannot_be_used_is_told(plural: str, given: str, message: str) -> None:
    with pytest.raises(DevError, match=message):
        checked(plural, given)


def test_names_are_written_as_each_place_needs_them() -> None:
    values = checked("order_items", "").values()
    assert values["Thing"] == "OrderItem"
    assert values["THINGS"] == "ORDER_ITEMS"
    assert values["path"] == "order-items"
    assert values["a_word"] == "an order item"


def test_paths_and_tables_of_the_product_are_taken() -> None:
    assert {"tasks", "users", "auth", "datasets", "jobs", "stored_files", "health"} <= taken_names()


def test_a_domain_is_a_folder_a_migration_a_test_and_a_line(checkout: Path) -> None:
    before = files(checkout)
    DomainWriter(checkout, Names("orders", "order")).write()

    assert files(checkout) - before == {
        *(
            f"{DOMAINS}/orders/{name}.py"
            for name in ("__init__", "domain", "models", "repository", "routes", "schemas", "service")
        ),
        f"{DOMAINS}/migrations/versions/d0002_orders.py",
        "tests/integration/domains/test_orders.py",
    }
    registry = (checkout / DOMAINS / "registry.py").read_text()
    assert "from domains.orders.domain import ORDERS" in registry
    assert "DATASETS" in registry
    migration = (checkout / DOMAINS / "migrations" / "versions" / "d0002_orders.py").read_text()
    assert 'down_revision: str | None = "d0001"' in migration
    DomainWriter(checkout, Names("boxes", "box")).write()
    assert (checkout / DOMAINS / "migrations" / "versions" / "d0003_boxes.py").exists()


@pytest.mark.parametrize(
    "there", [DOMAINS / "orders", Path("tests") / "integration" / "domains" / "test_orders.py"]
)
def test_what_is_there_already_is_left_alone(checkout: Path, there: Path) -> None:
    (checkout / there).mkdir() if not there.suffix else (checkout / there).touch()
    before = files(checkout)
    registry = (checkout / DOMAINS / "registry.py").read_text()

    with pytest.raises(DevError, match="is there already"):
        DomainWriter(checkout, Names("orders", "order")).write()
    assert files(checkout) == before
    assert (checkout / DOMAINS / "registry.py").read_text() == registry


def test_two_heads_are_told_before_a_third_is_made(checkout: Path) -> None:
    versions = checkout / DOMAINS / "migrations" / "versions"
    first = (versions / "d0001_datasets.py").read_text()
    (versions / "d0002_other.py").write_text(first.replace('"d0001"', '"d0002"'))

    with pytest.raises(DevError, match="2 heads: d0001, d0002"):
        DomainWriter(checkout, Names("orders", "order")).write()
