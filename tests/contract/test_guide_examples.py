"""The guide's examples, section by section, as its reader would type them. docs/guide.md maps headings to these tests."""

import asyncio
import time
import uuid
from datetime import timedelta

import pytest
import structlog
from fastapi import Depends, FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.testclient import TestClient
from scalable_fastapi_system import (
    APIException,
    APISettings,
    AuthenticationException,
    AuthorizationException,
    CacheManager,
    DatabaseManager,
    DatabaseSettings,
    MetricsManager,
    RateLimitingMiddleware,
    RedisSettings,
    RequestLoggingMiddleware,
    SecurityManager,
    SecuritySettings,
    Settings,
    User,
    UserCreate,
    UserUpdate,
    ValidationException,
    background_task,
    cache_response,
    create_app,
    get_current_active_user,
    get_current_user,
    get_db,
    install_error_handlers,
)
from sqlalchemy.orm import Session, load_only
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import JSONResponse, Response

pytestmark = pytest.mark.usefixtures("chosen_database")

GOOD_PASSWORD = "testpassword123"


@pytest.fixture
def settings():
    return Settings(_env_file=None, security={"bcrypt_rounds": 4})


@pytest.fixture
def client():
    return TestClient(create_app())


@pytest.fixture
def token(client):
    user = {"username": "reader", "email": "reader@example.com", "password": GOOD_PASSWORD}
    client.post("/auth/register", json=user)
    answer = client.post("/auth/login", data={"username": "reader", "password": GOOD_PASSWORD})
    return answer.json()["access_token"]


# -- Configuration Management / Production Configuration ------------------------------------------------------


def test_production_settings_from_the_environment_by_hand(monkeypatch):
    import os

    monkeypatch.setenv("DATABASE_URL", "postgresql://u:p@db/app")
    monkeypatch.setenv("SECRET_KEY", "s" * 40)
    production_settings = Settings(
        database=DatabaseSettings(
            database_url=os.getenv("DATABASE_URL"),
            pool_size=int(os.getenv("DB_POOL_SIZE", "20")),
            max_overflow=int(os.getenv("DB_MAX_OVERFLOW", "30")),
        ),
        redis=RedisSettings(
            redis_url=os.getenv("REDIS_URL"), redis_ssl=os.getenv("REDIS_SSL", "false").lower() == "true"
        ),
        security=SecuritySettings(
            secret_key=os.getenv("SECRET_KEY"),
            access_token_expire_minutes=int(os.getenv("ACCESS_TOKEN_EXPIRE_MINUTES", "30")),
        ),
        api=APISettings(
            debug=False,
            host="0.0.0.0",
            port=int(os.getenv("PORT", "8000")),
            workers=int(os.getenv("WORKERS", "4")),
        ),
    )
    assert production_settings.api.workers == 4
    assert production_settings.database.max_overflow == 30
    assert production_settings.redis.redis_ssl is False


def test_database_pool_settings_of_the_guide():
    settings = DatabaseSettings(
        pool_size=20, max_overflow=30, pool_pre_ping=True, pool_recycle=3600, echo=False
    )
    assert (settings.pool_recycle, settings.echo) == (3600, False)


# -- Database Integration ------------------------------------------------------------------------------------


def create_user(db: Session, user_data: UserCreate, security_manager):
    hashed_password = security_manager.get_password_hash(user_data.password)
    user = User(username=user_data.username, email=user_data.email, hashed_password=hashed_password)
    db.add(user)
    db.commit()
    db.refresh(user)
    return user


def get_user(db: Session, user_id: int):
    return db.query(User).filter(User.id == user_id).first()


@pytest.fixture
def db(settings):
    db_manager = DatabaseManager(settings)
    session = db_manager.SessionLocal()
    yield session
    session.close()
    db_manager.engine.dispose()


@pytest.fixture
def security_manager(settings):
    return SecurityManager(settings)


def test_a_user_is_created_found_and_updated_by_the_guide_s_functions(db, security_manager):
    data = UserCreate(username="john_1", email="john@example.com", password=GOOD_PASSWORD)
    user = create_user(db, data, security_manager)
    assert user.id is not None
    found = get_user(db, user.id)
    assert (found.username, found.is_active) == ("john_1", True)
    update = UserUpdate(email="new@example.com")
    for field, value in update.model_dump(exclude_unset=True).items():
        setattr(found, field, value)
    db.commit()
    db.refresh(found)
    assert get_user(db, user.id).email == "new@example.com"
    assert found.updated_at >= found.created_at


def test_queries_by_name_role_and_page_with_load_only(db, security_manager):
    for number in range(3):
        data = UserCreate(username=f"user_{number}", email=f"u{number}@example.com", password=GOOD_PASSWORD)
        create_user(db, data, security_manager)
    assert db.query(User).filter(User.username == "user_1").first().email == "u1@example.com"
    assert len(db.query(User).filter(User.role == "user").all()) == 3
    page = db.query(User).options(load_only(User.id, User.username, User.email)).offset(1).limit(1).all()
    assert [user.username for user in page] == ["user_1"]


def test_users_are_added_in_a_batch(db, security_manager):
    users = [
        User(
            username=f"b_{n}",
            email=f"b{n}@example.com",
            hashed_password=security_manager.get_password_hash("x" * 12),
        )
        for n in range(5)
    ]
    db.add_all(users)
    db.commit()
    assert db.query(User).count() == 5


async def test_asynchronous_sessions(settings):
    from sqlalchemy import select

    db_manager = DatabaseManager(settings)

    async def get_async_db():
        async with db_manager.AsyncSessionLocal() as session:
            try:
                yield session
            finally:
                await session.close()

    async for session in get_async_db():
        assert (await session.execute(select(User))).all() == []
    db_manager.engine.dispose()


# -- Caching System ------------------------------------------------------------------------------------------


async def test_basic_cache_operations(settings):
    cache_manager = CacheManager(settings)
    await cache_manager.set("user:123", {"name": "John", "email": "john@example.com"}, ttl=3600)
    assert await cache_manager.get("user:123") == {"name": "John", "email": "john@example.com"}
    await cache_manager.delete("user:123")
    assert await cache_manager.get("user:123") is None
    await cache_manager.set("a", 1, ttl=10)
    await cache_manager.clear()
    assert await cache_manager.get("a", 0) == 0
    assert await cache_manager.health_check() == "healthy"


async def test_cache_decorators_keep_the_answers_of_different_arguments_apart():
    calls = []

    @cache_response(ttl=300, key_prefix="api")
    async def get_user_profile(user_id: int):
        calls.append(user_id)
        return {"id": user_id}

    @cache_response(ttl=600, key_prefix="user")
    async def get_user_posts(user_id: int, page: int = 1):
        calls.append((user_id, page))
        return [user_id, page]

    assert await get_user_profile(1) == {"id": 1}
    assert await get_user_profile(user_id=1) == {"id": 1}
    assert await get_user_profile(2) == {"id": 2}
    assert await get_user_posts(1) == [1, 1]
    assert await get_user_posts(1, page=1) == [1, 1]
    assert await get_user_posts(1, 2) == [1, 2]
    assert calls == [1, 2, (1, 1), (1, 2)]


async def test_the_guide_s_two_levels_by_key(settings):
    cache_manager = CacheManager(settings)
    fetched = []

    async def get_user_data(user_id: int):
        user_data = await cache_manager.get(f"memory:user:{user_id}")
        if user_data:
            return user_data
        user_data = await cache_manager.get(f"redis:user:{user_id}")
        if user_data:
            await cache_manager.set(f"memory:user:{user_id}", user_data, ttl=300)
            return user_data
        fetched.append(user_id)
        user_data = {"id": user_id}
        await cache_manager.set(f"redis:user:{user_id}", user_data, ttl=3600)
        await cache_manager.set(f"memory:user:{user_id}", user_data, ttl=300)
        return user_data

    assert await get_user_data(7) == await get_user_data(7) == {"id": 7}
    assert fetched == [7]


# -- Security Implementation ---------------------------------------------------------------------------------


def test_tokens_and_passwords_by_the_guide_s_calls(security_manager):
    token = security_manager.create_access_token({"sub": "john", "user_id": 1}, timedelta(minutes=5))
    claims = security_manager.verify_token(token)
    assert (claims["sub"], claims["user_id"]) == ("john", 1)
    assert security_manager.create_refresh_token(data={"sub": "john", "user_id": 1}) != token
    hashed = security_manager.get_password_hash("secret password")
    assert security_manager.verify_password("secret password", hashed)
    assert not security_manager.verify_password("another password", hashed)


def test_a_second_registration_is_refused_with_the_guide_s_words(client, token):
    user = {"username": "reader", "email": "other@example.com", "password": GOOD_PASSWORD}
    answer = client.post("/auth/register", json=user)
    assert answer.status_code == 400
    assert answer.json()["message"] == "Username or email already registered"


def test_a_wrong_password_is_refused_with_the_guide_s_words(client, token):
    answer = client.post("/auth/login", data={"username": "reader", "password": "wrong password 1"})
    assert answer.status_code == 401
    assert answer.json()["message"] == "Incorrect username or password"


def test_login_gives_both_tokens_at_the_top_and_in_data(client, token):
    body = client.post("/auth/login", data={"username": "reader", "password": GOOD_PASSWORD}).json()
    assert body["token_type"] == "bearer"
    assert body["access_token"] == body["data"]["access_token"]
    assert body["refresh_token"] == body["data"]["refresh_token"]


def test_the_current_user_at_the_top_of_users_me(client, token):
    body = client.get("/users/me", headers={"Authorization": f"Bearer {token}"}).json()
    assert body["username"] == body["data"]["username"] == "reader"
    assert "hashed_password" not in str(body)


def test_the_current_user_as_a_dependency_of_one_s_own_endpoint():
    app = create_app()

    @app.get("/mine")
    async def mine(
        current_user: User = Depends(get_current_active_user), same: User = Depends(get_current_user)
    ):
        return {"username": current_user.username, "id": current_user.id, "same": same.id}

    client = TestClient(app)
    assert client.get("/mine").status_code == 401
    client.post(
        "/auth/register", json={"username": "dep_1", "email": "d@example.com", "password": GOOD_PASSWORD}
    )
    login = client.post("/auth/login", data={"username": "dep_1", "password": GOOD_PASSWORD}).json()
    answer = client.get("/mine", headers={"Authorization": f"Bearer {login['access_token']}"})
    assert answer.json()["username"] == "dep_1"


def test_a_session_as_a_dependency_of_one_s_own_endpoint():
    app = create_app()

    @app.get("/count")
    def count(db: Session = Depends(get_db)):
        return {"users": db.query(User).count()}

    assert TestClient(app).get("/count").json() == {"users": 0}


@pytest.mark.parametrize("place", ["alone", "mounted"])
def test_the_dependencies_on_an_application_of_one_s_own(place):
    """As the guide makes it, by FastAPI's class: they use the resources of the application made last, or the settings'."""
    platform = create_app()
    own = FastAPI()
    install_error_handlers(own)

    @own.get("/count")
    def count(db: Session = Depends(get_db)):
        return {"users": db.query(User).count()}

    @own.get("/mine")
    async def mine(current_user=Depends(get_current_active_user)):
        return {"username": current_user.username}

    platform.mount("/own", own)
    client = TestClient(platform)
    client.post(
        "/auth/register", json={"username": "dep_2", "email": "d2@example.com", "password": GOOD_PASSWORD}
    )
    login = client.post("/auth/login", data={"username": "dep_2", "password": GOOD_PASSWORD}).json()
    if place == "alone":
        client, prefix = TestClient(own), ""
    else:
        prefix = "/own"
    assert client.get(f"{prefix}/count").json() == {"users": 1}
    headers = {"Authorization": f"Bearer {login['access_token']}"}
    assert client.get(f"{prefix}/mine", headers=headers).json() == {"username": "dep_2"}
    another = create_app()
    another.mount("/own", own)
    if place == "mounted":  # it asks the application that it is mounted in by now, which has no such user
        assert TestClient(another).get("/own/mine", headers=headers).status_code == 401
        client = TestClient(another)
    refused = client.get(f"{prefix}/mine")
    assert (refused.status_code, refused.json()["success"]) == (401, False)


# -- Rate Limiting -------------------------------------------------------------------------------------------


def test_the_rate_limiting_middleware_on_an_application_of_one_s_own():
    # A minute may end in the middle of the test; with it the count begins anew.
    settings = Settings(_env_file=None, rate_limit={"anonymous": "3/day"})
    app = FastAPI()
    app.add_middleware(RateLimitingMiddleware, cache_manager=CacheManager(settings), settings=settings)

    @app.get("/")
    async def root():
        return {}

    client = TestClient(app)
    answers = [client.get("/").status_code for _ in range(5)]
    assert answers == [200, 200, 200, 429, 429]
    refused = client.get("/")
    assert "Rate limit exceeded" in refused.text
    assert int(refused.headers["Retry-After"]) > 0


def test_the_guide_s_own_limiter_by_the_cache(settings):
    cache_manager = CacheManager(settings)
    app = create_app(settings)

    @app.middleware("http")
    async def custom_rate_limit(request: Request, call_next):
        rate_limit_key = f"rate_limit:{request.client.host}"
        current_requests = await cache_manager.get(rate_limit_key, 0)
        if current_requests >= 2:
            return JSONResponse(status_code=429, content={"detail": "Rate limit exceeded"})
        await cache_manager.set(rate_limit_key, current_requests + 1, ttl=60)
        return await call_next(request)

    client = TestClient(app)
    assert [client.get("/").status_code for _ in range(3)] == [200, 200, 429]


# -- Monitoring and Metrics / Request Logging ----------------------------------------------------------------


def test_metrics_are_recorded_by_the_guide_s_middleware_and_served(client):
    metrics_manager = MetricsManager()
    metrics_manager.record_request(method="GET", endpoint="/guide", status=200, duration=0.01)
    text = client.get("/metrics").text
    assert 'http_requests_total{handler="/guide",method="GET",status="2xx"}' in text


def test_health_has_the_guide_s_members(client):
    body = client.get("/health").json()
    assert body["status"] == "healthy"
    assert body["version"] == Settings(_env_file=None).api.version
    assert set(body["memory_usage"]) == {"total", "used", "percent"}
    assert {"timestamp", "database", "redis", "cpu_usage"} <= set(body)


def test_the_request_logging_middleware_on_an_application_of_one_s_own(settings):
    app = FastAPI()
    app.add_middleware(
        RequestLoggingMiddleware, db_manager=DatabaseManager(settings), metrics_manager=MetricsManager()
    )

    @app.get("/")
    async def root(request: Request):
        return {"request_id": request.state.request_id}

    with structlog.testing.capture_logs() as logs:
        answer = TestClient(app).get("/")
    assert answer.headers["x-request-id"] == answer.json()["request_id"]
    assert [(line["event"], line["status"]) for line in logs] == [("request", 200)]


# -- Middleware Stack ----------------------------------------------------------------------------------------


def test_the_guide_s_whole_stack_on_an_application_of_one_s_own(settings):
    app = FastAPI(
        title=settings.api.title,
        version=settings.api.version,
        description=settings.api.description,
        debug=settings.api.debug,
    )
    app.add_middleware(
        CORSMiddleware, allow_origins=["https://app.example"], allow_methods=["*"], allow_headers=["*"]
    )
    app.add_middleware(GZipMiddleware, minimum_size=1000)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=["*"])
    app.add_middleware(
        RequestLoggingMiddleware, db_manager=DatabaseManager(settings), metrics_manager=MetricsManager()
    )
    app.add_middleware(RateLimitingMiddleware, cache_manager=CacheManager(settings), settings=settings)

    @app.get("/")
    async def root():
        return {"ok": True}

    assert TestClient(app).get("/").json() == {"ok": True}


def test_custom_middleware_by_starlette_s_base_class(client):
    class CustomMiddleware(BaseHTTPMiddleware):
        def __init__(self, app, custom_config: dict):
            super().__init__(app)
            self.custom_config = custom_config

        async def dispatch(self, request: Request, call_next) -> Response:
            start_time = time.time()
            request.state.custom_data = "custom_value"
            response = await call_next(request)
            response.headers["X-Custom-Duration"] = str(time.time() - start_time)
            return response

    app = create_app()
    app.add_middleware(CustomMiddleware, custom_config={"key": "value"})
    assert float(TestClient(app).get("/").headers["X-Custom-Duration"]) >= 0


# -- Background Tasks ----------------------------------------------------------------------------------------


def test_a_background_task_started_with_asyncio_create_task_runs_as_a_durable_job(client, token):
    app = create_app()
    started = []

    @app.post("/start")
    async def start(task_data: dict):
        task_id = str(uuid.uuid4())
        task = asyncio.create_task(background_task(task_id, task_data))
        started.append(task_id)
        await task
        return {"task_id": task_id, "status": "created"}

    mine = TestClient(app)
    body = mine.post("/start", json={"id": 1, "values": [1, 2, 3]}).json()
    assert body == {"task_id": started[0], "status": "created"}
    jobs = app.state.jobs
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        record = asyncio.run(jobs.get(uuid.UUID(started[0])))
        if str(record.state.name).lower() == "succeeded":
            break
        time.sleep(0.05)
    assert str(record.state.name).lower() == "succeeded"


# -- Error Handling ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (APIException("broken", status_code=418, error_code="TEAPOT"), 418, "TEAPOT"),
        (ValidationException("too short", field="name"), 422, "VALIDATION_ERROR"),
        (AuthenticationException(), 401, "AUTHENTICATION_ERROR"),
        (AuthorizationException(), 403, "AUTHORIZATION_ERROR"),
    ],
)
def test_exceptions_of_the_guide_become_its_envelope(error, status, code):
    app = create_app()

    @app.get("/raise")
    async def raise_it():
        raise error

    answer = TestClient(app).get("/raise")
    body = answer.json()
    assert answer.status_code == status
    assert (body["success"], body["message"], body["error_code"]) == (False, error.message, code)
    assert body["request_id"] == answer.headers["x-request-id"]


def test_a_validation_error_lists_its_reasons_as_text(client):
    body = client.post("/auth/register", json={"username": "x"}).json()
    assert body["success"] is False
    assert body["errors"]
    assert all(isinstance(error, str) for error in body["errors"])


def test_an_unhandled_exception_is_a_plain_internal_server_error():
    app = create_app()

    @app.get("/boom")
    async def boom():
        raise RuntimeError("inside")

    answer = TestClient(app, raise_server_exceptions=False).get("/boom")
    assert (answer.status_code, answer.json()["message"]) == (500, "Internal server error")
    assert "inside" not in answer.text


# -- Security Best Practices ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "user",
    [
        {"username": "ab", "email": "a@example.com", "password": "Abcdefg1"},
        {"username": "has space", "email": "a@example.com", "password": "Abcdefg1"},
        {"username": "good_1", "email": "no address", "password": "Abcdefg1"},
        {"username": "good_1", "email": "a@example.com", "password": "Short1"},
        {"username": "good_1", "email": "a@example.com", "password": "nouppercase1"[:11]},
        {"username": "good_1", "email": "a@example.com", "password": "NOLOWERCAS1"},
        {"username": "good_1", "email": "a@example.com", "password": "NoDigitsHer"},
    ],
)
def test_input_that_the_guide_refuses_is_refused(client, user):
    assert client.post("/auth/register", json=user).status_code == 422


def test_input_that_the_guide_accepts_is_accepted(client):
    user = {"username": "good_1", "email": "a@example.com", "password": "Plover42"}
    assert client.post("/auth/register", json=user).status_code == 200


def test_security_headers_are_on_every_answer(client):
    headers = client.get("/").headers
    assert "default-src" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert "X-XSS-Protection" in headers


def test_sql_in_a_name_is_only_a_name(db, security_manager):
    create_user(
        db, UserCreate(username="mallory", email="m@example.com", password=GOOD_PASSWORD), security_manager
    )
    assert db.query(User).filter(User.username == "x' OR '1'='1").first() is None
    assert db.query(User).count() == 1


# -- Deployment ----------------------------------------------------------------------------------------------


def test_the_application_by_the_name_in_the_guide_s_dockerfile():
    import importlib

    module = importlib.import_module("scalable_fastapi_system")
    assert TestClient(module.app).get("/health").status_code == 200
