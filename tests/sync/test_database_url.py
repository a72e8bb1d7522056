"""Database URLs: passwords of any characters, inside the URL or beside it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.engine import make_url

from sync.database_url import with_password
from sync.settings import Settings


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("plain", "plain"),
        ("p@ss", "p@ss"),
        ("p/a/ss", "p/a/ss"),
        ("@/@", "@/@"),
        ("a:b", "a:b"),
        ("what?", "what?"),
        ("50%", "50%"),
        ("p%40ss", "p@ss"),  # escaped already
        ("p%2Fss", "p/ss"),
    ],
)
@pytest.mark.parametrize("tail", ["db/groundswell", "db:5432/groundswell?sslmode=require"])
def test_passwords_inside_of_the_url(written: str, meant: str, tail: str) -> None:
    url = make_url(with_password(f"postgresql+psycopg://me:{written}@{tail}"))
    assert (url.username, url.password, url.host, url.database) == ("me", meant, "db", "groundswell")
    assert url.query == ({"sslmode": "require"} if "?" in tail else {})


@given(st.text(min_size=1, max_size=30).filter(lambda text: text.encode(errors="ignore").decode() == text))
def test_any_password_beside_the_url(password: str) -> None:
    for start in ("me", "me:another"):
        url = make_url(with_password(f"postgresql+psycopg://{start}@db/groundswell?x=1", password))
        assert (url.username, url.password, url.host, url.query["x"]) == ("me", password, "db", "1")


@pytest.mark.parametrize(
    "url", ["sqlite:////tmp/a@b.db", "sqlite://", "postgresql+psycopg:///groundswell", "nonsense"]
)
def test_addresses_without_a_user_stay(url: str) -> None:
    assert with_password(url) == with_password(url, "secret") == url


def test_the_setting_is_used_and_not_shown() -> None:
    settings = Settings(database_url="postgresql+psycopg://me@db/x", database_password="p@ss/word")  # type: ignore[arg-type]
    assert make_url(settings.database()).password == "p@ss/word"
    assert "p@ss" not in repr(settings)
