"""Addresses an operator may write, and those refused with a reason."""

import re

import pytest

from cortex_tui.target import Target, TargetError, parse


@pytest.mark.parametrize(
    ("text", "url", "socket"),
    [
        ("http://gpu7:8080", "http://gpu7:8080", None),
        ("gpu7", "http://gpu7:31313", None),
        ("gpu7:8080", "http://gpu7:8080", None),
        ("https://cortex.example/", "https://cortex.example", None),
        ("http://host/prefix/", "http://host/prefix", None),
        ("[::1]:9", "http://[::1]:9", None),
        ("unix:/run/gateway.sock", "http://localhost", "/run/gateway.sock"),
        ("unix:///run/gateway.sock", "http://localhost", "/run/gateway.sock"),
    ],
)
def test_addresses(text: str, url: str, socket: str | None) -> None:
    assert parse(text) == Target(url, socket)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ftp://host",
        "http://",
        "host:port",
        "host:99999",
        "unix:relative",
        "http://[::1",
        "a..b",
        "http://" + "x" * 64,
    ],
)
def test_refused_addresses_say_why(text: str) -> None:
    with pytest.raises(TargetError, match=re.escape(f"'{text}'")):
        parse(text)


def test_labels_are_short() -> None:
    assert Target("http://127.0.0.1:31313", "/run/x.sock").label == "local:31313"
    assert parse("gpu7").label == "gpu7:31313"


def test_credentials_in_an_address_are_refused_and_not_repeated() -> None:
    with pytest.raises(TargetError, match="--key") as refused:
        parse("http://me:secret@gpu7:31313")
    assert "secret" not in str(refused.value)
