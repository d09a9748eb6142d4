"""MongoDB's connection string: what is wrong with one is told without a piece of it."""

from __future__ import annotations

from urllib.parse import quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymongo.uri_parser import parse_uri

from mailsender.queue.mongo.connection_string import fault, passwords

GOOD = [
    "mongodb://db.example.test",
    "mongodb://db.example.test/?tls=true&tlsCAFile=/etc/ssl/ca.pem",
    "mongodb://db.example.test?tls=true",
    "mongodb://u@db/",
    "mongodb://u:p%40ss%3Aword%2F@db-1:27017,db-2:27018,db-3/base?replicaSet=rs0",
    "mongodb://u:p!$&'()*+,;=-._~@[::1]:27017,[2001:db8::1]/",
    "mongodb://%2Ftmp%2Fmongodb-27017.sock/base",
    "mongodb://my_host.default.svc:27017/",
    "mongodb+srv://u:p@cluster.example.test/?retryWrites=true",
]


@pytest.mark.parametrize("uri", GOOD)
def test_what_the_driver_takes_is_no_fault(uri: str) -> None:
    assert fault(uri) == ""


@pytest.mark.parametrize(
    "password",
    ["geheim@wort/Zwei", "a@b", "a/b", "a:b", "a?b", "1/b", "1?b=c", "a@b?c=d", "a%b", "a%4", "a@", "/"],
)
@pytest.mark.parametrize("scheme", ["mongodb", "mongodb+srv"])
@pytest.mark.parametrize("user", ["user", "us@er.test"])
def test_a_password_that_is_not_encoded_is_told_without_a_piece_of_it(
    password: str, scheme: str, user: str
) -> None:
    plain = f"{scheme}://{user}:{password}@db.example.test/base"
    assert "percent-encoded" in fault(plain)
    assert "geheim" not in fault(plain)
    assert "Zwei" not in fault(plain)
    assert fault(f"{scheme}://{quote_plus(user)}:{quote_plus(password)}@db.example.test/base") == ""


@pytest.mark.parametrize(
    "uri",
    [
        *(
            "",
            "db:27017",
            "http://db/",
            "mongodb:/db/",
            "mongodb://",
            "mongodb://db:port/",
            "mongodb://db:0/",
        ),
        *("mongodb://db,,db/", "mongodb://[::1/", "mongodb://db:70000/", "mongodb://a b/"),
    ],
)
def test_what_the_driver_could_not_use_is_a_fault(uri: str) -> None:
    assert fault(uri)


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1))
def test_of_any_password_no_piece_becomes_a_host(password: str) -> None:
    uri = f"mongodb://user:{password}@db.example.test/"
    if not fault(uri):
        assert parse_uri(uri)["nodelist"] == [("db.example.test", 27017)]


@pytest.mark.parametrize(
    ("uri", "found"),
    [
        ("mongodb://u:pass@db/", ["pass"]),
        ("mongodb://u:p%40ss@a:1,b:2/", ["p%40ss", "p@ss"]),
        ("mongodb://u:pa#ss@db/", ["pa#ss"]),
        ("mongodb://u:pa[ss@db/", ["pa[ss"]),
        ("mongodb://u@db/", []),
        ("memory:", []),
    ],
)
def test_the_password_is_found(uri: str, found: list[str]) -> None:
    assert passwords(uri) == found
