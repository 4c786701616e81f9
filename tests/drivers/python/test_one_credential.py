"""One name and one password on three protocols; and what is wrong is refused in each protocol's own words, and alike."""

import psycopg
import pymongo
import pymongo.errors
import pytest
import redis

from conftest import MONGODB_DATABASE, login_of, with_login

WRONG = "not-the-password"


def postgres_login(url):
    with psycopg.connect(url, connect_timeout=30) as conn:
        return conn.execute("SELECT 1").fetchone() == (1,)


def redis_login(url, protocol=3):
    with redis.Redis.from_url(url, protocol=protocol, socket_timeout=30) as client:
        return client.ping()


def mongodb_login(url):
    with pymongo.MongoClient(url, serverSelectionTimeoutMS=30000) as client:
        return client[MONGODB_DATABASE].command("count", "no_such_collection")["n"] == 0


def postgres_refusal(url):
    with pytest.raises(psycopg.OperationalError) as caught:
        postgres_login(url)
    return str(caught.value)


def redis_refusal(url, protocol=3):
    with pytest.raises(redis.AuthenticationError) as caught:
        redis_login(url, protocol)
    return str(caught.value)


def mongodb_refusal(url):
    with pytest.raises(pymongo.errors.OperationFailure) as caught:
        mongodb_login(url)
    return caught.value.code, caught.value.details["codeName"], caught.value.details["errmsg"]


def sqlstate_of_refusal(url):
    """libpq does not give the SQLSTATE of a failed login, so it is read from the wire by a driver that does."""
    import asyncio

    import asyncpg

    async def attempt():
        with pytest.raises(asyncpg.PostgresError) as caught:
            await asyncpg.connect(url, timeout=30)
        return caught.value.sqlstate

    return asyncio.run(attempt())


@pytest.mark.gateway
def test_three_urls_carry_one_login(urls):
    logins = {login_of(url) for url in urls.all.values()}
    assert len(logins) == 1
    user, _, tenant = next(iter(logins))[0].rpartition(".")
    assert user and tenant


def test_it_logs_in_on_each(urls):
    assert postgres_login(urls.postgres)
    assert redis_login(urls.redis, 2)
    assert redis_login(urls.redis, 3)
    assert mongodb_login(urls.mongodb)


def test_wrong_password_is_refused_on_each(urls):
    assert sqlstate_of_refusal(with_login(urls.postgres, password=WRONG)) == "28P01"
    assert "password authentication failed" in postgres_refusal(with_login(urls.postgres, password=WRONG))
    for protocol in (2, 3):
        # With no user name in a direct URL, redis-py sends the password alone; the words are the same.
        assert "invalid username-password pair" in redis_refusal(with_login(urls.redis, password=WRONG), protocol)
    assert mongodb_refusal(with_login(urls.mongodb, password=WRONG))[:2] == (18, "AuthenticationFailed")


@pytest.mark.gateway
@pytest.mark.parametrize("username", ["app.no-such-project", "nobody.{tenant}", "nobody"])
def test_unknown_names_are_refused_like_a_wrong_password(urls, username):
    known, password = login_of(urls.postgres)
    unknown = username.format(tenant=known.rpartition(".")[2])

    def postgres(**login):
        message = postgres_refusal(with_login(urls.postgres, **login))
        return message.replace(unknown, "USER").replace(known, "USER")

    assert sqlstate_of_refusal(with_login(urls.postgres, username=unknown)) == "28P01"
    assert postgres(username=unknown) == postgres(password=WRONG)
    assert redis_refusal(with_login(urls.redis, username=unknown)) == redis_refusal(with_login(urls.redis, password=WRONG))
    assert mongodb_refusal(with_login(urls.mongodb, username=unknown)) == mongodb_refusal(with_login(urls.mongodb, password=WRONG))
    assert password != WRONG


def test_without_a_login_nothing_is_served(urls):
    with redis.Redis.from_url(urls.redis.replace(urls.redis.split("//")[1].rpartition("@")[0] + "@", "")) as client:
        with pytest.raises(redis.AuthenticationError):
            client.get("anything")
    bare = urls.mongodb.replace(urls.mongodb.split("//")[1].rpartition("@")[0] + "@", "").split("?")[0]
    with pymongo.MongoClient(bare, serverSelectionTimeoutMS=30000) as client:
        with pytest.raises(pymongo.errors.OperationFailure) as caught:
            client[MONGODB_DATABASE].command("count", "no_such_collection")
    assert caught.value.code == 13
