"""``coordinator.toml``: bad input is named, and private ports stay private."""

from __future__ import annotations

from pathlib import Path

import pytest

from medunlearn_common.errors import Misconfigured
from medunlearn_server.service.config import open_folder, read_config, split_address


@pytest.mark.parametrize(("text", "named"), [
    ("[listen]\npublik = 'x'", "listen.publik"),
    ("[listen]\npublic = 'nowhere'", "host:port"),
    ("[listen]\npublic = '0.0.0.0:0'", "a port is"),
    ("[listen]\nsuperlink = '0.0.0.0:9092'", "this machine only"),
    ("[watch]\naddress = '10.0.0.1:80'", "this machine only"),
    ("[listen]\ncontrol = '127.0.0.1:9092'", "three different ports"),
    ("[limits]\nmax_request_mib = 0", "limits.max_request_mib"),
    ("[runs]\npoll_s = nan", "runs.poll_s"),
    ("[listen", "not valid TOML"), ("x" * ((1 << 20) + 1), "1 MiB"), ("\xff", "TOML"),
])
def test_a_wrong_key_is_named(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "coordinator.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(Misconfigured) as caught:
        read_config(path)
    assert caught.value.code == "COORDINATOR_CONFIG_INVALID" and named in caught.value.message


def test_a_folder_without_a_configuration_is_named(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured) as caught:
        open_folder(tmp_path)
    assert caught.value.code == "COORDINATOR_CONFIG_MISSING"
    (tmp_path / "coordinator.toml").write_text("")
    assert open_folder(tmp_path).config.listen.public == "0.0.0.0:9443"


def test_addresses_of_both_kinds() -> None:
    assert split_address("[::1]:80") == ("::1", 80)
    assert split_address("host.example:65535") == ("host.example", 65535)
