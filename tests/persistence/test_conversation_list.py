from __future__ import annotations

from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings

from persistence import conversation_list
from persistence.conversation_list import Conversation, create, of_user, owners, rename, spellings
from persistence.database import Database
from tests.persistence.users import new_user
from tests.strategies import texts

SECONDS = 30.0
ALL = 10**9


async def make(database: Database, user: UUID, name: str = "n", chat_type: str = "general_chat") -> str:
    id_ = uuid4().hex
    assert await create(database, id_, user, name, chat_type, SECONDS)
    return id_


async def listed(
    database: Database,
    user: UUID,
    *,
    chat_types: list[str] | None = None,
    before: str | None = None,
    count: int = ALL,
) -> tuple[list[str], bool]:
    found = await of_user(database, user, chat_types, before, count, SECONDS)
    return [one.id for one in found.items], found.has_more


async def names(database: Database, user: UUID) -> list[str]:
    return [one.name for one in (await of_user(database, user, None, None, ALL, SECONDS)).items]


async def test_a_users_conversations_newest_first(database: Database) -> None:
    one, two = await new_user(database), await new_user(database)
    ids = [await make(database, one, chat_type=f"t{number % 3}") for number in range(6)]
    await make(database, two)
    assert await listed(database, one) == (ids[::-1], False)
    assert await listed(database, one, chat_types=["t0", "t2"]) == ([ids[5], ids[3], ids[2], ids[0]], False)
    assert await listed(database, one, chat_types=["' OR true --", "a\0b"]) == ([], False)
    assert await listed(database, uuid4()) == ([], False)


async def test_page_by_page_each_comes_once(database: Database) -> None:
    one, two = await new_user(database), await new_user(database)
    ids = [await make(database, one) for _ in range(7)][::-1]
    foreign = await make(database, two)
    assert await listed(database, one, count=3) == (ids[:3], True)
    assert await listed(database, one, count=3, before=ids[2]) == (ids[3:6], True)
    assert await listed(database, one, count=3, before=ids[5]) == (ids[6:], False)
    assert await listed(database, one, count=7) == (ids, False)
    for unknown in (foreign, "unknown", "a\0"):
        assert await listed(database, one, before=unknown) == ([], False)


async def test_no_more_come_than_are_allowed(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    user = await new_user(database)
    ids = [await make(database, user) for _ in range(4)][::-1]
    monkeypatch.setattr(conversation_list, "MOST_LISTED", 2)
    assert await listed(database, user) == (ids[:2], True)


async def test_only_for_a_user_who_is_there_and_under_an_id_that_is_free(database: Database) -> None:
    user = await new_user(database)
    assert not await create(database, "c", uuid4(), "n", "t", SECONDS)
    assert await create(database, "c", user, "n", "t", SECONDS)
    assert not await create(database, "c", await new_user(database), "other", "t", SECONDS)
    assert await names(database, user) == ["n"]
    assert await owners(database, "c", SECONDS) == {user}
    assert await owners(database, "d", SECONDS) == set()


async def test_it_is_renamed_by_its_owner_and_by_whoever_only_where_that_is_meant(database: Database) -> None:
    one, two = await new_user(database), await new_user(database)
    id_ = await make(database, one, "first")
    other = await make(database, one, "other")
    assert not await rename(database, id_, two, "foreign", SECONDS)
    assert not await rename(database, "unknown", one, "unknown", SECONDS)
    assert await names(database, one) == ["other", "first"]
    assert await rename(database, id_, one, "second", SECONDS)
    assert await rename(database, other, None, "third", SECONDS)
    assert await names(database, one) == ["third", "second"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(id_=texts.filter(lambda text: 0 < len(text) < 256), name=texts, chat_type=texts)
async def test_any_text_comes_back_as_it_was_as_far_as_a_name_goes(
    database: Database, id_: str, name: str, chat_type: str
) -> None:
    user = await new_user(database)
    if not await create(database, id_, user, name, chat_type, SECONDS):
        # Of an earlier example.
        return
    (found,) = (await of_user(database, user, [chat_type], None, ALL, SECONDS)).items
    assert found == Conversation(id_, name[:50], chat_type, found.create_time)
    assert await rename(database, id_, user, name[::-1], SECONDS)
    assert await names(database, user) == [name[::-1][:50]]


@pytest.mark.parametrize("stored", [lambda id_: id_.hex, str])
@pytest.mark.parametrize("given", [lambda id_: id_.hex, str, lambda id_: str(id_).upper()])
async def test_a_uuid_means_the_same_in_each_of_its_spellings(
    database: Database, stored: type[str], given: type[str]
) -> None:
    user, id_ = await new_user(database), uuid4()
    assert await create(database, stored(id_), user, "n", "t", SECONDS)
    assert await owners(database, given(id_), SECONDS) == {user}
    assert await rename(database, given(id_), user, "again", SECONDS)
    assert await names(database, user) == ["again"]


def test_what_is_no_uuid_is_spelled_in_one_way() -> None:
    for text in (
        "c",
        "{" + uuid4().hex + "}",
        "urn:uuid:" + str(uuid4()),
        "1" * 31,
        "g" * 32,
        uuid4().hex[:16] + "-" + "0" * 16,
    ):
        assert spellings(text) == [text]
