"""The pages that links in messages lead to, in a real browser under their own policy: nothing is refused, nothing kept."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.browser import Browser, find_browser
from tests.support.mail_server import MailServer
from tests.support.service_processes import ServiceProcess, started_services

PASSWORD = "a password that is new"
ADDRESS = "ada@example.com"


@pytest.fixture
def mail() -> Iterator[MailServer]:
    with MailServer() as server:
        yield server


@pytest.fixture
def service(
    tmp_path: Path, database_environment: dict[str, str], mail: MailServer
) -> Iterator[ServiceProcess]:
    find_browser()
    more = {
        "MAIL__SMTP_URL": mail.url,
        "JOBS__MODE": "embedded",
        "SECURITY__LOGIN_ATTEMPTS_PER_MINUTE": "1000",
    }
    with started_services(tmp_path, RATE_LIMIT__ENABLED="false", **database_environment, **more) as start:
        yield start("api")


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with Browser(tmp_path) as running:
        yield running


def shown(browser: Browser) -> str:
    text: str = browser.ask("document.querySelector('main').innerText")
    return text


def test_who_forgot_a_password_sets_another_by_the_two_pages(
    service: ServiceProcess, browser: Browser, mail: MailServer
) -> None:
    user = {"username": "ada", "email": ADDRESS, "password": "testpassword123"}
    httpx.post(f"{service.url}/auth/register", json=user, timeout=60).raise_for_status()
    browser.open(f"{service.url}/auth/password/forgot")
    browser.set_width(320)
    browser.write("#email", ADDRESS)
    browser.press("Enter")
    browser.await_true("document.querySelector('#outcome').className === 'success'")
    assert "a message is on its way" in shown(browser)
    (letter,) = mail.wait_for(1)
    found = re.search(r"/auth/password/reset#token=\S+", letter.get_content())
    assert found is not None

    browser.open(service.url + found[0])
    browser.await_true("document.querySelector('form').hidden === false")
    assert browser.ask("location.href") == f"{service.url}/auth/password/reset", "the token is not in the bar"
    assert browser.ask("document.documentElement.scrollWidth <= innerWidth"), "it fits a phone"
    for one, other, told in (
        (PASSWORD, f"{PASSWORD}er", "The two passwords are not the same."),
        ("Password1", "Password1", "Password is one of the most common ones"),
    ):
        browser.write("#new_password", one)
        browser.write("#again", other)
        browser.press("Enter")
        browser.await_true(f"document.querySelector('main').innerText.includes({told!r})")
    assert re.search(r"Request id: \S+", shown(browser))
    browser.write("#new_password", PASSWORD)
    browser.write("#again", PASSWORD)
    browser.press("Enter")
    browser.await_true("document.querySelector('#outcome').className === 'success'")
    assert "Password set: sign in with it" in shown(browser)
    assert browser.ask("document.querySelector('form').hidden")
    signed_in = httpx.post(
        f"{service.url}/auth/login", data={"username": "ada", "password": PASSWORD}, timeout=60
    )
    assert signed_in.status_code == 200

    # The same link again, put into the address bar of that page.
    browser.call("Page.navigate", url=service.url + found[0])
    browser.await_true("document.querySelector('form').hidden === false")
    browser.write("#new_password", f"{PASSWORD}er")
    browser.write("#again", f"{PASSWORD}er")
    browser.press("Enter")
    browser.await_true("document.querySelector('#outcome').className === 'failure'")
    assert "This link is not valid any more: ask for a new one" in shown(browser)
    assert found[0].partition("=")[2] not in service.log()
    answered = re.compile(r"Failed to load resource: the server responded with a status of 4\d\d")
    assert [text for text in browser.said if not answered.match(text)] == []


def test_page_that_was_opened_without_a_link_leads_to_the_other(
    service: ServiceProcess, browser: Browser
) -> None:
    browser.open(f"{service.url}/auth/password/reset")
    assert browser.ask("document.querySelector('form').hidden")
    assert "Open the link once more, or ask for a new one." in shown(browser)
    browser.ask("document.querySelector('a').click()")
    browser.await_true("location.pathname === '/auth/password/forgot' && document.readyState === 'complete'")
    assert browser.said == []


def test_each_page_says_that_it_needs_javascript(service: ServiceProcess, tmp_path: Path) -> None:
    with Browser(tmp_path, has_scripts=False) as browser:
        for name in ("forgot", "reset"):
            browser.call("Page.navigate", url=f"{service.url}/auth/password/{name}")
            browser.await_true(
                "document.readyState === 'complete' && document.querySelector('main') !== null"
            )
            assert "This page needs JavaScript" in shown(browser)
            assert browser.ask("document.querySelector('form').checkVisibility()") is False
