"""Domains are named by string, and a name that leads nowhere is an error at once."""

import sys

import pytest
from scalable_fastapi_system.kit.domain import Domain, Product, load_object


def test_an_object_is_found_by_module_and_attribute():
    assert load_object("json:dumps") is sys.modules["json"].dumps


def test_a_reference_without_a_colon_is_refused():
    with pytest.raises(ValueError, match="module:attribute"):
        load_object("json.dumps")


def test_a_missing_module_is_not_passed_over():
    product = Product((Domain("ghosts", models=("no_such_module_here",)),))
    with pytest.raises(ImportError):
        product.load_models()


def test_routers_come_in_the_order_of_the_domains():
    product = Product((Domain("a", routes=("math:pi",)), Domain("b", routes=("math:e", "math:tau"))))
    assert [round(value, 2) for value in product.load_routers()] == [3.14, 2.72, 6.28]
