"""Logs hide secrets, by name and by value, and are one JSON object a line."""

import json
import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from uuid import UUID

import pytest
import structlog
from scalable_fastapi_system.infra.logging import RequestLog, configure_logging, redact, secrets_of
from scalable_fastapi_system.infra.settings import Settings

CANARY = "canary-8f2b1c"


@pytest.fixture
def configured(capsys, monkeypatch):
    handlers, level = logging.getLogger().handlers[:], logging.getLogger().level
    configure_logging(
        Settings(
            logging={"format": "json", "level": "INFO"},
            security={"secret_key": f"{CANARY}-signing-key"},
            database={"database_url": f"postgresql://me:{CANARY}-dbpass@h/d"},
        )
    )
    yield capsys
    structlog.reset_defaults()
    monkeypatch.setattr("scalable_fastapi_system.infra.logging._request_line_redactor", None)
    logging.getLogger().handlers[:] = handlers
    logging.getLogger().setLevel(level)


def lines(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_each_event_is_one_json_object_with_level_and_time(configured):
    structlog.get_logger("x").info("something", answer=42)
    (line,) = lines(configured)
    assert (line["event"], line["level"], line["answer"]) == ("something", "info", 42)
    assert line["timestamp"].endswith("Z")


def test_the_request_id_of_the_context_is_on_every_line(configured):
    with structlog.contextvars.bound_contextvars(request_id="r-1"):
        structlog.get_logger().info("ours")
        logging.getLogger("somebody.else").warning("theirs")
    assert [line["request_id"] for line in lines(configured)] == ["r-1", "r-1"]


def test_secrets_do_not_appear_whatever_they_are_called(configured):
    log = structlog.get_logger()
    log.info("a", password=CANARY, headers={"Authorization": f"Bearer {CANARY}", "cookie": CANARY})
    log.info("b", note=f"used {CANARY}-signing-key and postgresql://me:{CANARY}-dbpass@h/d")
    log.info("c", text="Authorization: Bearer abcdefgh.ijklmnop")
    logging.getLogger("lib").error("failed with %s", f"{CANARY}-signing-key")
    try:
        raise ValueError(f"wrong: {CANARY}-signing-key")
    except ValueError:
        log.exception("d")
    out = configured.readouterr().out
    assert CANARY not in out
    assert "abcdefgh.ijklmnop" not in out
    assert "ValueError" in out


@dataclass
class Order:
    number: int
    password: str
    note: str


class Colour(Enum):
    RED = "red"


@pytest.mark.parametrize("form", ["json", "console"])
def test_secrets_in_an_exception_an_object_and_within_lists_and_mappings_do_not_appear(form, capsys):
    key = f"{CANARY}-signing-key"
    configure_logging(Settings(_env_file=None, logging={"format": form}, security={"secret_key": key}))
    log = structlog.get_logger()
    log.warning("a", error=ValueError(f"refused: {key}, Bearer abcdefgh.ijklmnop"))
    log.warning("b", data={"text": key, "errors": [KeyError(key)]}, items=[key, (key, {key})])
    log.warning("c", order=Order(7, "a-password-of-it", key), raw=key.encode(), kind=type(key, (), {}))
    logging.getLogger("lib").warning(ValueError(key), extra={"failure": RuntimeError(key)})
    out = capsys.readouterr().out
    assert CANARY not in out
    assert "abcdefgh.ijklmnop" not in out
    assert "a-password-of-it" not in out
    assert "refused: **********" in out


def test_what_is_no_text_and_harmless_looks_as_it_did(configured):
    number = UUID(int=1)
    when = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    structlog.get_logger().info(
        "x",
        number=number,
        when=when,
        days=[when.date()],
        kind=Colour.RED,
        error=KeyError("k"),
        price=Decimal("1.50"),
        order=Order(7, "", "n"),
        nothing=[None, True, 1.5],
    )
    (line,) = lines(configured)
    assert line["number"] == str(number)
    assert line["when"] == when.isoformat()
    assert line["days"] == ["2026-01-02"]
    assert (line["kind"], line["error"], line["price"]) == ("red", "'k'", "1.50")
    assert line["order"] == {"number": 7, "password": "", "note": "n"}
    assert line["nothing"] == [None, True, 1.5]


def test_the_secrets_of_the_settings_are_those_of_urls_and_of_the_object_store_too():
    url = "postgresql://h/d?user=me&password=from%20query&sslpassword=of+its+key"
    options = {"secret_access_key": "of-the-store", "account_key": "of-azure", "region": "eu-central-1",
               "endpoint": "http://minio:9000", "proxy_url": "http://me:of-the-proxy@p"}  # fmt: skip
    settings = Settings(
        _env_file=None,
        database={"database_url": url},
        redis={"redis_url": "redis://:p@ssword1234@h"},
        storage={"url": "s3://b", "options": options},
    )
    found = secrets_of(settings)
    assert {"from query", "of its key", "p@ssword1234", "of-the-store", "of-azure", "of-the-proxy"} < set(
        found
    )
    assert not {"eu-central-1", "http://minio:9000"} & set(found)


def test_debug_lines_are_left_out_at_level_info(configured):
    structlog.get_logger().debug("quiet")
    assert lines(configured) == []


def test_redaction_keeps_what_is_harmless():
    value = {"token_type": "bearer", "items": [1, "two"], "nested": {"name": "Ada"}}
    assert redact(value) == value


def test_redaction_reaches_into_lists_of_mappings():
    assert "hidden" not in str(redact([{"deep": [{"api_key": "hidden"}]}]))


def test_a_request_line_is_json_and_masks_secrets_in_the_path(configured):
    RequestLog("api").write("request", is_warning=False, path=f"/x/{CANARY}-signing-key", status=200)
    (line,) = lines(configured)
    assert (line["event"], line["level"], line["status"]) == ("request", "info", 200)
    assert line["timestamp"].endswith("Z")
    assert CANARY not in line["path"]


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_traceback_is_told_outside_its_except_and_its_secrets_are_masked(form, capsys):
    settings = Settings(
        _env_file=None, logging={"format": form}, security={"secret_key": f"{CANARY}-signing-key"}
    )
    configure_logging(settings)
    try:
        raise ValueError(f"wrong: {CANARY}-signing-key")
    except ValueError as error:
        caught = error
    failure = (type(caught), caught, caught.__traceback__)
    logging.getLogger("lib").error("theirs", exc_info=failure)
    structlog.get_logger("ours").error("ours", exc_info=failure)
    out = capsys.readouterr().out
    assert out.count("Traceback (most recent call last)") == 2
    assert out.count("ValueError: wrong: ") == 2
    assert CANARY not in out
