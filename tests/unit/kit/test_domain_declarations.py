"""A domain and a product say at once where a sequence was written without its comma."""

from __future__ import annotations

from typing import Any

import pytest
from scalable_fastapi_system.kit.domain import Domain, Product


@pytest.mark.parametrize("member", ["models", "routes", "jobs"])
def test_a_forgotten_comma_is_named(member: str) -> None:
    options: Any = {member: ("domains.orders.things")}
    with pytest.raises(
        TypeError, match=rf'orders.*: write {member}=\("domains\.orders\.things",\), with a comma'
    ):
        Domain("orders", **options)


@pytest.mark.parametrize("member", ["models", "routes", "jobs"])
def test_a_member_is_named_by_string(member: str) -> None:
    options: Any = {member: (pytest,)}
    with pytest.raises(TypeError, match=rf"orders.*: {member} names modules by string"):
        Domain("orders", **options)
    options = {member: None}
    with pytest.raises(TypeError, match=rf"orders.*: {member} is a tuple of strings"):
        Domain("orders", **options)


def test_the_domains_of_a_product_need_their_comma_too() -> None:
    orders: Any = Domain("orders")
    with pytest.raises(TypeError, match=r"write domains=\(domain,\), with a comma"):
        Product(domains=(orders))
    forgotten: Any = ("orders",)
    with pytest.raises(TypeError, match="a product's domains are Domain objects, and not 'orders'"):
        Product(domains=forgotten)


def test_what_is_written_well_is_taken() -> None:
    orders = Domain("orders", ("a.models",), ("a.routes:router",), ("a.jobs",))
    assert Product((orders, Domain("other"))).domains[0] is orders
    listed: Any = ["a.jobs"]
    assert list(Domain("orders", jobs=listed).jobs) == ["a.jobs"]
