"""A small OpenID Connect provider, a process of its own: `python -m tests.support.oidc_provider PORT`.

authlib's authorization server behind Python's own HTTP server: it checks client, redirect URI, code and PKCE as a real one
does. The person at its login page always agrees. `POST /control` with JSON sets who that person is (`user`) and what the
provider does wrong from then on (`faults`), see `OpenID` and `Handler`; `{"rotate": true}` gives it a new key. What its
documents say besides is in `metadata` and `more_keys`, their status in `document_status`.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote_plus, urlsplit

os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"  # loopback, without TLS

from authlib.common.security import generate_token
from authlib.oauth2.rfc6749 import (
    AuthorizationServer,
    ClientMixin,
    OAuth2Payload,
    OAuth2Request,
)
from authlib.oauth2.rfc6749.grants import AuthorizationCodeGrant
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oidc.core import UserInfo
from authlib.oidc.core.grants import OpenIDCode
from joserfc.jwk import RSAKey

# Every character that means something in HTTP's basic scheme or in a form, and one that is not ASCII.
CLIENT_ID = "the service: +1"
CLIENT_SECRET = "a secret: 100%25 + é/&=~"


class State:
    """What this provider knows, and how it misbehaves."""

    def __init__(self, issuer: str) -> None:
        self.issuer = issuer
        self.redirect_uri = ""
        self.user: dict[str, Any] = {"sub": "subject-1", "email": "oidc@example.com", "email_verified": True}
        self.faults: set[str] = set()
        self.metadata: dict[str, Any] = {}
        self.more_keys: list[Any] = []
        self.document_status = 200
        self.codes: dict[str, Code] = {}
        self.tokens: dict[str, dict[str, Any]] = {}
        self.key = RSAKey.generate_key(2048, {"kid": "provider-1"})
        self.generation = 1

    def rotate(self) -> None:
        self.generation += 1
        self.key = RSAKey.generate_key(2048, {"kid": f"provider-{self.generation}"})


STATE: State


@dataclass
class Code:
    code: str
    client_id: str
    redirect_uri: str
    scope: str
    nonce: str
    code_challenge: str | None
    code_challenge_method: str | None
    user: dict[str, Any]

    def get_redirect_uri(self) -> str:
        return self.redirect_uri

    def get_scope(self) -> str:
        return self.scope

    def get_nonce(self) -> str:
        return self.nonce

    def get_auth_time(self) -> int:
        return int(time.time())

    def get_acr(self) -> None:
        return None

    def get_amr(self) -> None:
        return None


class Client(ClientMixin):
    def get_client_id(self) -> str:
        return CLIENT_ID

    def get_default_redirect_uri(self) -> str:
        return STATE.redirect_uri

    def get_allowed_scope(self, scope: str | None) -> str:
        return scope or ""

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        return redirect_uri == STATE.redirect_uri

    def check_client_secret(self, client_secret: str) -> bool:
        return client_secret == CLIENT_SECRET

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        if "only_secret_post" in STATE.faults:
            return method == "client_secret_post"
        return method == "client_secret_basic"

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code"

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type == "authorization_code"


class Payload(OAuth2Payload):
    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self._lists: defaultdict[str, list[str]] = defaultdict(list)
        for name, value in pairs:
            self._lists[name].append(value)

    @property
    def data(self) -> dict[str, str]:
        return {name: values[0] for name, values in self._lists.items()}

    @property
    def datalist(self) -> defaultdict[str, list[str]]:
        return self._lists


class Request(OAuth2Request):
    def __init__(self, handler: Handler, body: str) -> None:
        super().__init__(handler.command, STATE.issuer + handler.path, headers=dict(handler.headers))
        self._args = dict(parse_qsl(urlsplit(handler.path).query))
        self._form = dict(parse_qsl(body))
        self.payload = Payload([*parse_qsl(urlsplit(handler.path).query), *parse_qsl(body)])

    @property
    def args(self) -> dict[str, str]:
        return self._args

    @property
    def form(self) -> dict[str, str]:
        return self._form


class Server(AuthorizationServer):
    def query_client(self, client_id: str) -> Client | None:
        return Client() if client_id == CLIENT_ID else None

    def save_token(self, token: dict[str, Any], request: Request) -> None:
        STATE.tokens[token["access_token"]] = request.user

    def create_oauth2_request(self, request: Request) -> Request:
        return request

    def handle_response(self, status: int, body: Any, headers: Any) -> tuple[int, Any, Any]:
        return status, body, headers

    def send_signal(self, name: str, *args: Any, **kwargs: Any) -> None:
        """Nobody listens."""


def authenticate_basic(query_client: Any, request: Request) -> Client | None:
    """RFC 6749, section 2.3.1: each half is form-encoded. authlib's own does not take `+` for a blank."""
    scheme, _, sent = request.headers.get("Authorization", "").partition(" ")
    if scheme != "Basic":
        return None
    client_id, _, secret = base64.b64decode(sent).decode().partition(":")
    client = query_client(unquote_plus(client_id))
    return client if client is not None and client.check_client_secret(unquote_plus(secret)) else None


class CodeGrant(AuthorizationCodeGrant):
    TOKEN_ENDPOINT_AUTH_METHODS = ["client_secret_basic", "client_secret_post"]

    def save_authorization_code(self, code: str, request: Request) -> None:
        data = request.payload.data
        STATE.codes[code] = Code(
            code=code,
            client_id=request.client.get_client_id(),
            redirect_uri=data["redirect_uri"],
            scope=request.scope,
            nonce=data.get("nonce", ""),
            code_challenge=data.get("code_challenge"),
            code_challenge_method=data.get("code_challenge_method"),
            user=request.user,
        )

    def query_authorization_code(self, code: str, client: Client) -> Code | None:
        return STATE.codes.get(code)

    def delete_authorization_code(self, authorization_code: Code) -> None:
        del STATE.codes[authorization_code.code]

    def authenticate_user(self, authorization_code: Code) -> dict[str, Any]:
        return authorization_code.user


class OpenID(OpenIDCode):
    def exists_nonce(self, nonce: str, request: Request) -> bool:
        return any(code.nonce == nonce for code in STATE.codes.values())

    def get_client_claims(self, client: Client) -> dict[str, Any]:
        return {"iss": STATE.issuer, "aud": [client.get_client_id()]}

    def get_client_algorithm(self, client: Client) -> str:
        return "none" if "alg_none" in STATE.faults else "RS256"

    def get_encode_header(self, client: Client) -> dict[str, Any]:
        return {"alg": self.get_client_algorithm(client), "kid": STATE.key.kid}

    def resolve_client_private_key(self, client: Client) -> RSAKey:
        if "foreign_key" in STATE.faults:
            return RSAKey.generate_key(2048, {"kid": STATE.key.kid})
        return STATE.key

    def generate_user_info(self, user: dict[str, Any], scope: str) -> UserInfo:
        now = int(time.time())
        wrong: dict[str, dict[str, Any]] = {
            "wrong_nonce": {"nonce": "another"},
            "wrong_issuer": {"iss": "https://another.example"},
            "wrong_audience": {"aud": ["another-service"]},
            "two_audiences": {"aud": [CLIENT_ID, "another-service"]},
            "wrong_party": {"azp": "another-service"},
            "wrong_access_token_hash": {"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"},
            "expired": {"exp": now - 3600, "iat": now - 7200},
        }
        shown = dict(user)
        if "email_by_userinfo" in STATE.faults:
            for name in ("email", "email_verified"):
                shown.pop(name, None)
        for fault in STATE.faults:
            shown |= wrong.get(fault, {})
        return UserInfo(shown)


class Challenge(CodeChallenge):
    def get_authorization_code_challenge(self, authorization_code: Code) -> str | None:
        return authorization_code.code_challenge

    def get_authorization_code_challenge_method(self, authorization_code: Code) -> str | None:
        return authorization_code.code_challenge_method


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path == "/.well-known/openid-configuration":
            self._answer(STATE.document_status, {**self._metadata(), **STATE.metadata})
        elif path == "/keys":
            own = [] if "no_keys" in STATE.faults else [{**STATE.key.as_dict(private=False), "use": "sig"}]
            self._answer(200, {"keys": [*STATE.more_keys, *own]})
        elif path == "/authorize":
            request = Request(self, "")
            status, body, headers = SERVER.create_authorization_response(request, grant_user=STATE.user)
            self._answer(status, body, headers)
        elif path == "/userinfo":
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            user = STATE.tokens.get(token)
            if user is not None and "userinfo_of_another" in STATE.faults:
                user = {**user, "sub": "somebody-else"}
            self._answer(*((200, user) if user is not None else (401, {"error": "invalid_token"})))
        else:
            self._answer(404, {})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        if self.path == "/control":
            self._control(json.loads(body))
        elif self.path == "/token" and "token_endpoint_broken" in STATE.faults:
            self._answer(500, {"error": "server_error"})
        elif self.path == "/token" and "token_endpoint_html" in STATE.faults:
            self._answer(200, "<html>")
        elif self.path == "/token" and "token_endpoint_nested" in STATE.faults:
            self._answer(200, "[" * 100_000)
        elif self.path == "/token":
            status, answer, headers = SERVER.create_token_response(Request(self, body))
            if "no_id_token" in STATE.faults:
                answer.pop("id_token", None)
            self._answer(status, answer, headers)
        else:
            self._answer(404, {})

    def _control(self, wanted: dict[str, Any]) -> None:
        STATE.user = wanted.get("user", STATE.user)
        STATE.faults = set(wanted.get("faults", ()))
        STATE.redirect_uri = wanted.get("redirect_uri", STATE.redirect_uri)
        STATE.metadata = wanted.get("metadata", {})
        STATE.more_keys = wanted.get("more_keys", [])
        STATE.document_status = wanted.get("document_status", 200)
        if wanted.get("rotate"):
            STATE.rotate()
        self._answer(200, {})

    def _metadata(self) -> dict[str, Any]:
        issuer = STATE.issuer
        method = "client_secret_post" if "only_secret_post" in STATE.faults else "client_secret_basic"
        return {
            "issuer": "https://another.example" if "metadata_of_another" in STATE.faults else issuer,
            "authorization_endpoint": f"{issuer}/authorize",
            "token_endpoint": f"{issuer}/token",
            "userinfo_endpoint": f"{issuer}/userinfo",
            "jwks_uri": f"{issuer}/keys",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "token_endpoint_auth_methods_supported": [method],
            "code_challenge_methods_supported": ["S256"],
            "authorization_response_iss_parameter_supported": "promises_iss" in STATE.faults,
        }

    def _answer(self, status: int, body: Any, headers: Any = ()) -> None:
        raw = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        for name, value in headers:
            if name.lower() != "content-length":
                self.send_header(name, value)
        if not any(name.lower() == "content-type" for name, _ in headers):
            self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - the name it has there
        """Silent."""


def _make_token(**_facts: Any) -> dict[str, Any]:
    return {
        "token_type": "Bearer",
        "access_token": generate_token(32),
        "expires_in": 300,
        "scope": _facts.get("scope"),
    }


SERVER = Server()
SERVER.register_token_generator("default", _make_token)
SERVER.register_client_auth_method("client_secret_basic", authenticate_basic)
SERVER.register_grant(CodeGrant, [OpenID(require_nonce=True), Challenge(required=True)])


def main() -> None:
    global STATE
    port = int(sys.argv[1])
    STATE = State(f"http://127.0.0.1:{port}")
    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    print("ready", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
