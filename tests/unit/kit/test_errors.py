"""The exceptions keep the guide's arguments and carry what an answer needs."""

from scalable_fastapi_system import (
    APIException,
    AuthenticationException,
    AuthorizationException,
    ValidationException,
)


def test_the_base_takes_message_status_and_code_in_the_guide_s_order():
    error = APIException("broken", 418, "TEAPOT")
    assert (error.message, error.status_code, error.error_code, str(error)) == (
        "broken",
        418,
        "TEAPOT",
        "broken",
    )


def test_the_base_is_a_400_without_a_code():
    assert (APIException("x").status_code, APIException("x").error_code) == (400, None)


def test_a_validation_error_names_its_field():
    error = ValidationException("too short", field="name")
    assert (error.status_code, error.error_code, error.field) == (422, "VALIDATION_ERROR", "name")
    assert [str(problem) for problem in error.problems] == ["name: too short"]


def test_authentication_and_authorization_have_the_guide_s_words():
    assert (AuthenticationException().status_code, AuthenticationException().message) == (
        401,
        "Authentication failed",
    )
    assert (AuthorizationException().status_code, AuthorizationException().message) == (
        403,
        "Insufficient permissions",
    )


def test_a_401_says_how_to_sign_in():
    assert AuthenticationException().headers == {"WWW-Authenticate": "Bearer"}
