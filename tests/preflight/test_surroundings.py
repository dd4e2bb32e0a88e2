"""The proxy of the environment, and Flower's version."""

import tomllib
from importlib.metadata import version
from pathlib import Path

import httpx
import pytest

from undertone.preflight.surroundings import FLOWER, flower, proxy


@pytest.mark.parametrize(
    ("environment", "status"),
    [
        ({}, "PASS"),
        ({"NO_PROXY": "127.0.0.1"}, "PASS"),
        ({"HTTPS_PROXY": ""}, "PASS"),
        ({"HTTPS_PROXY": "http://proxy:3128"}, "FAIL"),
        ({"https_proxy": "http://proxy:3128"}, "FAIL"),
        ({"ALL_PROXY": "http://proxy:3128"}, "FAIL"),
        ({"HTTP_PROXY": "http://proxy:3128", "NO_PROXY": ".example.org"}, "FAIL"),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "localhost"}, "FAIL"),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "127.0.0.0/8"}, "FAIL"),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "127.0.0.1", "no_proxy": ".example.org"}, "FAIL"),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": ".example.org, 127.0.0.1"}, "PASS"),
        ({"HTTPS_PROXY": "http://proxy:3128", "no_proxy": "*"}, "PASS"),
    ],
)
def test_what_is_for_this_machine_does_not_go_to_a_proxy(
    environment: dict[str, str], status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = proxy(environment)
    assert found.status == status
    assert "3128" not in found.sentence + found.remedy + "".join(found.details)  # an address may hold a password
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with httpx.Client() as client:  # whose rules these are: Flower's client is one
        ways = [client._transport_for_url(httpx.URL(f"{scheme}://127.0.0.1:9091")) for scheme in ("http", "https")]
        assert (status == "PASS") == all(way is client._transport for way in ways)


@pytest.mark.parametrize(
    ("installed", "status"),
    [
        ("1.40.9", "FAIL"),
        ("1.41.0", "PASS"),
        ("1.42.3", "PASS"),
        ("1.43.0", "FAIL"),
        ("2.41.0", "FAIL"),
        ("", "FAIL"),
        ("1.41rc1", "FAIL"),
    ],
)
def test_the_version_of_flower(installed: str, status: str) -> None:
    assert flower(installed).status == status


def test_the_bounds_are_those_of_the_project() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    (first, below) = FLOWER
    assert f"flwr>={first[0]}.{first[1]},<{below[0]}.{below[1]}" in project["dependencies"]
    assert flower(version("flwr")).status == "PASS"
