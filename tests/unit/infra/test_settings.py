"""Settings: where values come from, what is refused, and that secrets stay hidden."""

import time

import obstore.store
import pytest
from pydantic import ValidationError
from scalable_fastapi_system import APISettings, DatabaseSettings, RedisSettings, SecuritySettings, Settings
from scalable_fastapi_system.infra.settings import load_settings
from scalable_fastapi_system.infra.settings.loading import effective_values, explain
from scalable_fastapi_system.infra.settings.secrets import mask_url
from scalable_fastapi_system.kit.errors import ConfigurationError

GOOD_KEY = "k" * 40


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, tmp_path):
    import os

    for name in list(os.environ):
        if "__" in name and name.split("__")[0].lower() in Settings.model_fields:
            monkeypatch.delenv(name)
    monkeypatch.delenv("ENVIRONMENT", raising=False)
    monkeypatch.chdir(tmp_path)


def test_no_settings_at_all_is_development_on_a_temporary_sqlite():
    settings = Settings()
    assert settings.environment == "development"
    assert settings.is_ephemeral
    assert settings.are_jobs_embedded
    assert settings.redis.redis_url is None


def test_a_variable_named_as_a_section_is_another_program_s(monkeypatch, tmp_path):
    """Login shells set MAIL."""
    for name in set(Settings.model_fields) - {"environment"}:
        monkeypatch.setenv(name.upper(), f"/var/{name}")
    (tmp_path / ".env").write_text('DATABASE={"pool_size": 7}\nMAIL__SENDER=ours@example.com\n')
    settings = load_settings()
    assert settings.mail.sender == "ours@example.com"
    assert settings.database.pool_size == DatabaseSettings.model_fields["pool_size"].default
    sources = {found.variable: found.source for found in effective_values(settings)}
    assert sources["MAIL__SENDER"] == ".env"
    assert sources["DATABASE__POOL_SIZE"] == "default"


def test_the_guide_s_constructor_call_works():
    settings = Settings(
        database=DatabaseSettings(
            database_url="postgresql://user:password@localhost/dbname", pool_size=20, max_overflow=30
        ),
        redis=RedisSettings(redis_url="redis://localhost:6379", redis_db=0),
        security=SecuritySettings(secret_key="your-secret-key", access_token_expire_minutes=30),
        api=APISettings(title="My API", version="1.0.0", debug=False),
    )
    assert settings.security.secret_key == "your-secret-key"
    assert settings.database.database_url == "postgresql://user:password@localhost/dbname"
    assert settings.api.title == "My API"


def test_the_guide_s_dotenv_file_works(tmp_path):
    (tmp_path / ".env").write_text(
        "DATABASE__DATABASE_URL=postgresql://user:password@localhost/dbname\nDATABASE__POOL_SIZE=20\n"
        "REDIS__REDIS_URL=redis://localhost:6379\nSECURITY__SECRET_KEY=your-secret-key\n"
        "API__DEBUG=false\nAPI__HOST=0.0.0.0\nAPI__PORT=8000\n"
    )
    settings = Settings()
    assert settings.database.pool_size == 20
    assert settings.api.host == "0.0.0.0"
    assert settings.redis.redis_url == "redis://localhost:6379"


def test_the_environment_is_stronger_than_the_dotenv_file_and_arguments_than_both(monkeypatch, tmp_path):
    (tmp_path / ".env").write_text("API__PORT=1111\nAPI__TITLE=from file\nAPI__VERSION=1\n")
    monkeypatch.setenv("API__PORT", "2222")
    monkeypatch.setenv("API__TITLE", "from environment")
    settings = Settings(api={"title": "from argument"})
    assert (settings.api.port, settings.api.title, settings.api.version) == (2222, "from argument", "1")


def test_a_misspelt_name_in_a_section_is_refused_by_name(monkeypatch):
    monkeypatch.setenv("DATABASE__POOLSIZE", "3")
    with pytest.raises(ConfigurationError, match="DATABASE__POOLSIZE: there is no such setting"):
        load_settings()


def test_a_value_of_the_wrong_kind_is_refused_without_being_shown(monkeypatch):
    monkeypatch.setenv("API__PORT", "hunter2")
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert "API__PORT" in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "key", ["", "short", "your-secret-key", "development-only-secret-key-not-for-production"]
)
def test_production_refuses_a_default_or_short_secret(monkeypatch, key):
    monkeypatch.setenv("ENVIRONMENT", "production")
    monkeypatch.setenv("DATABASE__DATABASE_URL", "postgresql://u:p@h/d")
    monkeypatch.setenv("SECURITY__SECRET_KEY", key)
    with pytest.raises(ConfigurationError, match="SECURITY__SECRET_KEY"):
        load_settings()


def test_production_refuses_a_temporary_database_and_debugging(monkeypatch):
    monkeypatch.setenv("ENVIRONMENT", "production")
    monkeypatch.setenv("SECURITY__SECRET_KEY", GOOD_KEY)
    monkeypatch.setenv("API__DEBUG", "true")
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert "DATABASE__DATABASE_URL" in str(caught.value)
    assert "API__DEBUG" in str(caught.value)


def test_production_accepts_what_is_safe(monkeypatch):
    monkeypatch.setenv("ENVIRONMENT", "production")
    monkeypatch.setenv("SECURITY__SECRET_KEY", GOOD_KEY)
    monkeypatch.setenv("DATABASE__DATABASE_URL", "postgresql://u:p@h/d")
    assert load_settings().is_production


def test_a_wildcard_origin_with_credentials_is_refused():
    with pytest.raises(ValidationError, match="name the origins"):
        SecuritySettings(cors_origins=["*"], cors_allow_credentials=True)


@pytest.mark.parametrize("url", ["oracle://h/d", "http://h", "nonsense"])
def test_an_unknown_database_is_refused(url):
    with pytest.raises(ValidationError, match="use postgresql"):
        DatabaseSettings(database_url=url)


def test_a_binding_that_asyncpg_cannot_make_is_refused():
    url = "postgresql://app:secret@db/app?sslmode=require&channel_binding="
    assert Settings(_env_file=None, database={"database_url": f"{url}prefer"}).database.database_url
    with pytest.raises(ValidationError, match="sslmode=verify-full") as caught:
        Settings(_env_file=None, database={"database_url": f"{url}require"})
    assert "secret" not in explain(caught.value)


def test_secrets_do_not_show_in_repr_and_passwords_not_in_urls():
    settings = Settings(
        security=SecuritySettings(secret_key="very-secret-value"),
        database=DatabaseSettings(database_url="postgresql://me:hidden-password@db.example/app"),
    )
    shown = repr(settings) + repr(settings.security) + repr(settings.database)
    assert "very-secret-value" not in shown
    assert "hidden-password" not in shown
    assert "db.example" in shown


def test_every_effective_value_names_its_source_and_masks_secrets(monkeypatch, tmp_path):
    (tmp_path / ".env").write_text("API__TITLE=from file\n")
    monkeypatch.setenv("SECURITY__SECRET_KEY", "very-secret-value")
    rows = {row.variable: row for row in effective_values(Settings(api={"version": "9"}))}
    assert rows["API__TITLE"].source == ".env"
    assert rows["SECURITY__SECRET_KEY"].source == "environment"
    assert "very-secret-value" not in rows["SECURITY__SECRET_KEY"].value
    assert rows["API__VERSION"].source == "argument"
    assert rows["API__PORT"].source == "default"


def test_comma_separated_lists_are_split(monkeypatch):
    monkeypatch.setenv("SECURITY__CORS_ORIGINS", "https://a.example, https://b.example")
    assert Settings().security.cors_origins == ["https://a.example", "https://b.example"]


def test_lists_come_as_json_too_and_what_is_neither_is_refused(monkeypatch):
    monkeypatch.setenv("SECURITY__ALLOWED_HOSTS", '["a.example", "b.example"]')
    assert Settings().security.allowed_hosts == ["a.example", "b.example"]
    monkeypatch.setenv("SECURITY__ALLOWED_HOSTS", "[a.example]")
    with pytest.raises(ValidationError, match="neither a comma-separated list nor a JSON list"):
        Settings()


def test_every_setting_is_described():
    assert [row.variable for row in effective_values(Settings()) if not row.description] == []


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("redis://:pass@h:1/0", "redis://:**********@h:1/0"),
        ("postgresql://u:p%40ss@h/d", "postgresql://u:**********@h/d"),
        ("redis://h:1", "redis://h:1"),
        ("redis://:p@ssword@h:1/0", "redis://:**********@h:1/0"),
        ("mysql://me@corp:pass@h/d?email=a@b", "mysql://me@corp:**********@h/d?email=a@b"),
        ("redis://:p@ss@h/0 and amqp://u:q@i", "redis://:**********@h/0 and amqp://u:**********@i"),
        (
            "postgresql://h:1/d?user=u&password=p@ss&sslmode=require&sslpassword=q#x",
            "postgresql://h:1/d?user=u&password=**********&sslmode=require&sslpassword=**********#x",
        ),
        ("mysql://h/d?passwd=p", "mysql://h/d?passwd=**********"),
    ],
)
def test_only_the_passwords_of_a_url_are_masked(url, masked):
    assert mask_url(url) == masked


@pytest.mark.parametrize("part", ["a", "a1", "://", "a://", "a://a:", "://a:@", "?", "&passwd", "?a=", "@"])
def test_a_long_text_is_looked_through_once_and_not_once_for_each_of_its_letters(part):
    text = "@x://" + part * (65_536 // len(part))
    started = time.process_time()
    mask_url(text)
    assert time.process_time() - started < 0.5  # of a quadratic search seconds


def test_the_options_of_the_object_store_show_nowhere_and_are_plain_text_to_its_client():
    options = {"access_key_id": "an-id", "secret_access_key": "very-secret-value"}
    settings = Settings(storage={"url": "s3://bucket", "options": options})
    rows = {row.variable: row.value for row in effective_values(settings)}
    assert "very-secret-value" not in repr(settings) + repr(settings.storage) + rows["STORAGE__OPTIONS"]
    assert "secret_access_key" in rows["STORAGE__OPTIONS"]
    config = obstore.store.from_url("s3://bucket", config=settings.storage.options).config
    assert options.items() <= config.items()
