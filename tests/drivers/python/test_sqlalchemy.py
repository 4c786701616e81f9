"""SQLAlchemy over psycopg and asyncpg, unchanged: its pools, what it asks of the catalogue, server-side cursors, batches of
INSERT, isolation levels, settings made when a connection is opened."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, selectinload

CLIENTS, POOL = 20, 5


def address(urls, driver):
    return sa.make_url(urls.postgres).set(drivername=f"postgresql+{driver}", query={})


@pytest.fixture
def engine(urls):
    made = sa.create_engine(address(urls, "psycopg"), pool_size=POOL, max_overflow=0, pool_pre_ping=True)
    yield made
    made.dispose()


@pytest.fixture
def table(engine, name):
    made = sa.Table(
        name,
        sa.MetaData(),
        sa.Column("id", sa.Integer, sa.Identity(), primary_key=True),
        sa.Column("v", sa.Text, unique=True),
        sa.Column("extra", JSONB),
    )
    made.create(engine)
    yield made
    made.drop(engine)


def test_threads_share_a_pool_that_is_asked_before_use(engine, table):
    def work(number):
        for step in range(5):
            with engine.begin() as conn:
                conn.execute(table.insert(), {"v": f"{number}/{step}", "extra": {"n": number}})
                mine = sa.select(sa.func.count()).where(table.c.extra["n"].as_integer() == number)
                assert conn.scalar(mine) == step + 1

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(work, range(CLIENTS)))
    with engine.connect() as conn:
        assert conn.scalar(sa.select(sa.func.count()).select_from(table)) == CLIENTS * 5


def test_what_is_set_when_a_connection_opens_stays_with_it(urls):
    def made(number):
        engine = sa.create_engine(address(urls, "psycopg"), pool_size=2)

        def prepare(connection, _record):
            connection.autocommit = True
            connection.execute(f"SET search_path TO s{number}, public")
            connection.execute(f"SET statement_timeout TO {60001 + number}")
            connection.autocommit = False

        sa.event.listen(engine, "connect", prepare)
        return engine

    engines = [made(number) for number in range(3)]
    try:
        for _ in range(10):
            for number, engine in enumerate(engines):
                with engine.connect() as conn:
                    assert conn.scalar(sa.text("SHOW search_path")) == f"s{number}, public"
                    assert conn.scalar(sa.text("SHOW statement_timeout")) == f"{60001 + number}ms"
    finally:
        for engine in engines:
            engine.dispose()


def test_the_catalogue_tells_what_was_made(engine, name):
    made = sa.MetaData()
    sa.Table(f"{name}_a", made, sa.Column("id", sa.Integer, primary_key=True), sa.Column("v", sa.String(40), index=True))
    sa.Table(
        f"{name}_b",
        made,
        sa.Column("id", sa.BigInteger, primary_key=True),
        sa.Column("a", sa.ForeignKey(f"{name}_a.id", ondelete="CASCADE"), nullable=False),
        sa.Column("when", sa.DateTime(timezone=True), server_default=sa.func.now()),
        sa.UniqueConstraint("a", "when"),
    )
    made.create_all(engine)
    try:
        found = sa.MetaData()
        found.reflect(engine, only=lambda table, _: table.startswith(name))
        assert set(found.tables) == set(made.tables)
        for table in made.tables.values():
            assert [column.name for column in found.tables[table.name].columns] == [column.name for column in table.columns]
        inspector = sa.inspect(engine)
        (key,) = inspector.get_foreign_keys(f"{name}_b")
        assert (key["referred_table"], key["options"]) == (f"{name}_a", {"ondelete": "CASCADE"})
        assert [index["column_names"] for index in inspector.get_indexes(f"{name}_a")] == [["v"]]
    finally:
        made.drop_all(engine)


def test_rows_stream_from_a_server_side_cursor(engine):
    with engine.connect() as conn:
        rows = conn.execution_options(stream_results=True, max_row_buffer=100).execute(
            sa.text("SELECT n FROM generate_series(1, 5000) AS n")
        )
        assert [row.n for row in rows] == list(range(1, 5001))


def test_batches_of_insert_give_back_their_keys_in_order(engine, table):
    insert = table.insert().returning(table.c.id, table.c.v, sort_by_parameter_order=True)
    with engine.begin() as conn:
        rows = conn.execute(insert, [{"v": f"v{n}", "extra": None} for n in range(5000)]).all()
    assert [row.v for row in rows] == [f"v{n}" for n in range(5000)]
    assert len({row.id for row in rows}) == 5000


def test_isolation_levels_end_with_their_use(engine):
    level = sa.text("SHOW transaction_isolation")
    for wanted in ("SERIALIZABLE", "REPEATABLE READ", "AUTOCOMMIT"):
        with engine.connect() as conn:
            conn = conn.execution_options(isolation_level=wanted)
            assert conn.scalar(level) == ("read committed" if wanted == "AUTOCOMMIT" else wanted.lower())
        with engine.connect() as conn:
            assert conn.scalar(level) == "read committed"


def test_a_savepoint_survives_what_fails_in_it(engine, table):
    with engine.begin() as conn:
        conn.execute(table.insert(), {"v": "outer"})
        with pytest.raises(sa.exc.IntegrityError), conn.begin_nested():
            conn.execute(table.insert(), {"v": "outer"})
        conn.execute(table.insert(), {"v": "after"})
    with engine.connect() as conn:
        assert conn.scalars(sa.select(table.c.v).order_by(table.c.id)).all() == ["outer", "after"]


def test_objects_are_written_and_loaded(engine, name):
    class Base(DeclarativeBase):
        pass

    class Author(Base):
        __tablename__ = f"{name}_author"
        id: Mapped[int] = mapped_column(primary_key=True)
        books: Mapped[list["Book"]] = relationship(back_populates="author", order_by="Book.id")

    class Book(Base):
        __tablename__ = f"{name}_book"
        id: Mapped[int] = mapped_column(primary_key=True)
        title: Mapped[str]
        author_id: Mapped[int] = mapped_column(sa.ForeignKey(f"{name}_author.id"))
        author: Mapped[Author] = relationship(back_populates="books")

    Base.metadata.create_all(engine)
    try:
        with Session(engine) as session:
            session.add_all(Author(books=[Book(title=f"{a}.{b}") for b in range(3)]) for a in range(10))
            session.commit()
        with Session(engine) as session:
            authors = session.scalars(sa.select(Author).options(selectinload(Author.books)).order_by(Author.id)).all()
            assert [[book.title for book in author.books] for author in authors] == [
                [f"{a}.{b}" for b in range(3)] for a in range(10)
            ]
    finally:
        Base.metadata.drop_all(engine)


def test_tasks_share_a_pool_by_asyncpg(urls, table):
    async def work(engine, number):
        for step in range(5):
            async with engine.begin() as conn:
                await conn.execute(table.insert(), {"v": f"{number}/{step}", "extra": {"n": number}})
            async with AsyncSession(engine) as session:
                mine = sa.select(table.c.extra).where(table.c.extra["n"].as_integer() == number)
                assert (await session.scalars(mine)).all() == [{"n": number}] * (step + 1)

    async def run():
        engine = create_async_engine(address(urls, "asyncpg"), pool_size=POOL, max_overflow=0, pool_pre_ping=True)
        await asyncio.gather(*(work(engine, number) for number in range(CLIENTS)))
        async with engine.connect() as conn:
            rows = await conn.stream(sa.select(table.c.v).order_by(table.c.id))
            assert len([row.v async for row in rows]) == CLIENTS * 5
        for wanted in ("SERIALIZABLE", "AUTOCOMMIT"):
            async with engine.connect() as conn:
                conn = await conn.execution_options(isolation_level=wanted)
                level = await conn.scalar(sa.text("SHOW transaction_isolation"))
                assert level == ("read committed" if wanted == "AUTOCOMMIT" else "serializable")
        await engine.dispose()

    asyncio.run(run())
