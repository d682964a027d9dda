"""Where to listen, as operators write it."""

import pytest

from neuron.protocol.address import Address


@pytest.mark.parametrize(
    ("text", "host", "port", "loopback", "url"),
    [
        ("127.0.0.1:80", "127.0.0.1", 80, True, "http://127.0.0.1:80"),
        ("localhost:0", "localhost", 0, True, "http://localhost:0"),
        ("[::1]:80", "::1", 80, True, "http://[::1]:80"),
        ("0.0.0.0:80", "0.0.0.0", 80, False, "http://0.0.0.0:80"),
        ("gpu1:80", "gpu1", 80, False, "http://gpu1:80"),
    ],
)
def test_addresses(text: str, host: str, port: int, loopback: bool, url: str) -> None:
    address = Address.parse(text)
    assert (address.host, address.port) == (host, port)
    assert address.is_loopback is loopback
    assert address.url() == url


@pytest.mark.parametrize(
    "text", ["", "host", ":80", "host:", "host:x", "host:70000", "::1", "::1:80"]
)
def test_no_addresses(text: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        Address.parse(text)
