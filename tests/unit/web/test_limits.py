"""What an endpoint's marks take, and what they refuse where they are written."""

from datetime import timedelta

import pytest
from scalable_fastapi_system import Product, create_app, create_worker
from scalable_fastapi_system.web.limits import TIMEOUT_ATTRIBUTE, body_limit, request_timeout


@pytest.mark.parametrize("limit", ["10MB", 1.5, -1, None])
def test_a_body_limit_is_a_number_of_bytes(limit):
    with pytest.raises(TypeError, match="number of bytes"):
        body_limit(limit)


@pytest.mark.parametrize("seconds", ["5", 0, -1, timedelta(0), float("nan")])
def test_a_time_limit_is_a_time(seconds):
    with pytest.raises(TypeError, match="seconds above 0"):
        request_timeout(seconds)


def test_a_time_limit_may_be_a_timedelta():
    def endpoint(): ...

    assert getattr(request_timeout(timedelta(minutes=1))(endpoint), TIMEOUT_ATTRIBUTE) == 60


@pytest.mark.parametrize("create", [create_app, create_worker])
def test_a_product_in_the_place_of_the_settings_is_refused_with_advice(create):
    with pytest.raises(TypeError, match="product="):
        create(Product())
