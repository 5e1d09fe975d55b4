"""Changes of one statement, straight to the driver: stored at once, refused like any other, never tried twice."""

import asyncio
import enum
import gc

import asyncpg
import pytest
from scalable_fastapi_system.infra.database import DatabaseManager, Read, Write
from scalable_fastapi_system.infra.database.observe import StatementCount, counted
from scalable_fastapi_system.kit.errors import ServiceUnavailableException
from sqlalchemy import (
    Column,
    Enum,
    Integer,
    MetaData,
    String,
    Table,
    bindparam,
    delete,
    insert,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError, StatementError

pytestmark = pytest.mark.databases("sqlite", "postgres", "mariadb", "pgbouncer")

things = Table(
    "things",
    MetaData(),
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("name", String(20), unique=True),
)
ADD = Write(insert(things).returning(things.c.id, things.c.name))
RENAME = Write(update(things).where(things.c.id == bindparam("thing_id")).values(name=bindparam("new_name")))
REMOVE = Write(delete(things).where(things.c.id >= bindparam("first")))


class Colour(enum.Enum):
    RED = "#f00"
    BLUE = "#00f"


paints = Table(
    "paints",
    things.metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("colour", Enum(Colour)),
    Column(
        "below", Enum(Colour, native_enum=False, values_callable=lambda kind: [one.value for one in kind])
    ),
)
NAMES = Read(select(things.c.name).order_by(things.c.id))


@pytest.fixture
async def database(make_settings, database_section):
    manager = DatabaseManager(make_settings(database=database_section))
    things.metadata.create_all(manager.engine)
    await manager.start()
    yield manager
    await manager.stop()


async def names(database):
    return [row["name"] for row in await NAMES.all(database)]


async def test_a_write_is_stored_when_it_returns_and_gives_what_it_stored(database):
    assert await names(database) == []  # the first connection of an engine asks about its server
    token = counted.set(StatementCount())
    assert await ADD.one(database, id=1, name="a") == {"id": 1, "name": "a"}
    assert counted.get().total == 1
    counted.reset(token)
    assert await names(database) == ["a"]


async def test_a_write_says_how_many_rows_it_touched(database):
    for number in range(3):
        await ADD.run(database, id=number, name=f"n{number}")
    assert await RENAME.run(database, thing_id=1, new_name="other") == 1
    assert await RENAME.run(database, thing_id=99, new_name="nobody") == 0
    assert await REMOVE.run(database, first=1) == 2
    assert await names(database) == ["n0"]


async def test_an_absent_value_may_be_none(database):
    await ADD.one(database, id=1, name=None)
    assert await names(database) == [None]


async def test_a_write_that_a_constraint_refuses_raises_as_a_session_does(database):
    await ADD.one(database, id=1, name="a")
    with pytest.raises(IntegrityError) as raised:
        await ADD.one(database, id=2, name="a")
    assert raised.value.params is None or database.backend != "postgresql"
    assert await names(database) == ["a"]


async def test_a_none_in_the_statement_itself_is_stored_and_compared_as_one(database):
    clear = Write(update(things).where(things.c.id == bindparam("thing_id")).values(name=None))
    add_nameless = Write(insert(things).values(id=bindparam("thing_id"), name=None))
    named = Read(select(things.c.id).where(things.c.name == bindparam("name", None, type_=String)))
    await ADD.run(database, id=1, name="a")
    assert await clear.run(database, thing_id=1) == 1
    assert await add_nameless.run(database, thing_id=2) == 1
    assert await names(database) == [None, None]
    assert await named.all(database) == []


def test_a_value_that_only_the_model_would_make_is_asked_for_by_name():
    """It would be a NULL on the driver, and the model's elsewhere."""
    notes = Table(
        "notes",
        MetaData(),
        Column("id", Integer, primary_key=True, autoincrement=False),
        Column("text", String(20)),
        Column("kind", String(20), default="plain"),
        Column("changed", Integer, onupdate=lambda: 1),
    )
    Write(insert(notes))  # takes one for each column
    with pytest.raises(ValueError, match="no value for changed,"):
        Write(update(notes).values(text=bindparam("new_text")))
    with pytest.raises(ValueError, match="no value for kind,"):
        Write(insert(notes).values(id=bindparam("note_id"), text=bindparam("new_text")))
    Write(update(notes).values(text=bindparam("new_text"), changed=bindparam("at")))


async def test_an_enum_is_one_in_the_statement_among_the_given_values_and_in_the_rows(database):
    add = Write(insert(paints).returning(paints.c.colour, paints.c.below.label("under")))
    assert await add.one(database, id=1, colour=Colour.RED, below=Colour.BLUE) == {
        "colour": Colour.RED,
        "under": Colour.BLUE,
    }
    await add.run(database, id=2, colour=None, below=None)
    repaint = Write(update(paints).where(paints.c.id == bindparam("paint")).values(colour=Colour.BLUE))
    assert await repaint.run(database, paint=1) == 1
    blue = Read(
        select(paints.c.id).where(paints.c.colour == Colour.BLUE, paints.c.below == bindparam("under"))
    )
    assert await blue.one(database, under=Colour.BLUE) == {"id": 1}
    assert await blue.one(database, under=Colour.RED) is None
    among = Read(select(paints.c.below).where(paints.c.below.in_([Colour.RED, Colour.BLUE])))
    assert await among.all(database) == [{"below": Colour.BLUE}]
    rows = await Read(select(paints).order_by(paints.c.id)).all(database)
    assert rows == [
        {"id": 1, "colour": Colour.BLUE, "below": Colour.BLUE},
        {"id": 2, "colour": None, "below": None},
    ]


async def test_a_value_that_the_caller_forgets_is_an_error_and_no_null(database):
    await ADD.run(database, id=1, name="a")
    with pytest.raises((KeyError, StatementError)):
        await RENAME.run(database, thing_id=1)
    assert await names(database) == ["a"]


@pytest.mark.only_on("postgres", reason="asyncpg is what refuses the value")
async def test_a_value_of_the_wrong_kind_is_the_callers_mistake_and_no_outage(
    make_settings, empty_postgres_url
):
    manager = DatabaseManager(make_settings(database={"database_url": empty_postgres_url}))
    things.metadata.create_all(manager.engine)
    await manager.start()
    for statement in (ADD, Read(select(things.c.name).where(things.c.id == bindparam("id")))):
        with pytest.raises(asyncpg.DataError):
            await statement.one(manager, id="not a number", name="a")
    await manager.stop()


async def test_a_write_whose_connection_dies_on_the_way_is_not_tried_again(
    make_settings, disposable_database
):
    # A pooler holds statements for a server that is away, until they take too long.
    section = {**disposable_database.section, "statement_timeout_seconds": 3}
    manager = DatabaseManager(make_settings(database=section))
    things.metadata.create_all(manager.engine)
    await manager.start()
    await ADD.run(manager, id=1, name="before")
    async with manager.AsyncSessionLocal() as session:
        await session.execute(update(things).values(name="locked"))
        change = asyncio.create_task(RENAME.run(manager, thing_id=1, new_name="on the way"))
        await asyncio.sleep(0.3)  # it waits for the lock
        disposable_database.kill()
        with pytest.raises(ServiceUnavailableException):
            await change
        await session.invalidate()
    with pytest.raises(ServiceUnavailableException):
        await ADD.run(manager, id=3, name="while it is away")
    disposable_database.start()
    async with asyncio.timeout(60):  # a pooler tries the server again a second later
        while await manager.health_check() != "healthy":
            await asyncio.sleep(0.1)
    assert await ADD.run(manager, id=4, name="after") == 1
    assert await names(manager) == ["before", "after"]
    await manager.stop()


async def test_another_loop_than_the_services_leaves_no_connection_open(database):
    async def in_another_loop():
        assert await ADD.one(database, id=1, name="a") == {"id": 1, "name": "a"}
        assert await names(database) == ["a"]
        assert await RENAME.run(database, thing_id=1, new_name="b") == 1

    await asyncio.to_thread(asyncio.run, in_another_loop())
    gc.collect()  # a connection that nobody closed says so when it is found
    assert await names(database) == ["b"]
