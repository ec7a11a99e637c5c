"""The user's pip settings: read as pip reads them, and handed to pip and uv."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trainer_bridge import platform
from trainer_bridge.installer import pip_settings
from trainer_bridge.installer.pip_settings import PipSettings

PIP_PYTHON = str(getattr(sys, "_base_executable", None) or sys.executable)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home whose only settings are those that a test writes."""
    for name in list(os.environ):
        if name.startswith(("PIP_", "XDG_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path / "xdg"))
    files = platform.pip_files()
    monkeypatch.setattr(
        platform, "pip_files", lambda: {**files, "global": [tmp_path / "xdg/pip/pip.conf"], "site": [tmp_path / "site"]}
    )
    return tmp_path


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_nothing_said(home: Path) -> None:
    assert pip_settings.read() == PipSettings()


def test_files_variables_and_sections_win_in_pips_order(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(home / "xdg/pip/pip.conf", "[global]\nindex-url = https://global\nproxy = http://one\ntimeout = 5\n")
    put(home / "home/.config/pip/pip.conf", "[global]\nindex_url = https://user\n[install]\nproxy = http://two\n")
    put(home / "site", "[global]\ntrusted-host = a b\n")
    found = pip_settings.read()
    assert (found.index_url, found.proxy, found.timeout) == ("https://user", "http://two", "5")
    assert found.trusted_host == ("a", "b")
    monkeypatch.setenv("PIP_INDEX_URL", "https://variable")
    monkeypatch.setenv("PIP_DEFAULT_TIMEOUT", "60")
    monkeypatch.setenv("PIP_PROXY", "")
    found = pip_settings.read()
    assert (found.index_url, found.timeout, found.proxy) == ("https://variable", "60", "http://two")


def test_a_named_file_replaces_the_users(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(home / "home/.config/pip/pip.conf", "[global]\nindex-url = https://user\n")
    put(home / "named", "[global]\nextra-index-url =\n    https://a\n    https://b\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(home / "named"))
    found = pip_settings.read()
    assert (found.index_url, found.extra_index_url) == ("", ("https://a", "https://b"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    assert pip_settings.read() == PipSettings()


def test_places_are_made_absolute_and_addresses_kept(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setenv("PIP_FIND_LINKS", "wheels https://links file:///opt/x ~/w")
    monkeypatch.setenv("PIP_CONSTRAINT", "constraints.txt")
    found = pip_settings.read()
    assert found.find_links == (str(home / "wheels"), "https://links", "file:///opt/x", str(home / "home" / "w"))
    assert found.constraint == (str(home / "constraints.txt"),)


@pytest.mark.parametrize(("text", "expected"), [("1", True), ("true", True), ("no", False), ("0", False)])
def test_flags(home: Path, monkeypatch: pytest.MonkeyPatch, text: str, expected: bool) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", text)
    assert pip_settings.read().no_index is expected


@pytest.mark.parametrize("text", ["no section\n", "[global\n", "\x00\xff", "[global]\n[global]\n"])
def test_a_broken_file_says_nothing(home: Path, text: str) -> None:
    put(home / "home/.config/pip/pip.conf", text)
    assert pip_settings.read() == PipSettings()


def test_pip_itself_reads_the_same(home: Path) -> None:
    """pip's own word, of a file with odd spacing, a comment, a percent sign and a list over lines."""
    put(
        home / "home/.config/pip/pip.conf",
        "[global]\n; a comment\nindex-url: https://u:p%40ss@host/simple\nfind-links =\n   /opt/a\n   /opt/b\n\n"
        "[install]\nno-index = yes\nretries=3\n",
    )
    told = subprocess.run(
        [PIP_PYTHON, "-m", "pip", "config", "list"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": ""},
    )
    if told.returncode != 0:
        pytest.skip("this Python has no pip to compare with")
    lines = dict(line.split("=", 1) for line in told.stdout.splitlines())
    found = pip_settings.read()
    assert lines["global.index-url"] == repr(found.index_url)
    assert lines["global.find-links"] == repr("\n/opt/a\n/opt/b") and found.find_links == ("/opt/a", "/opt/b")
    assert lines["install.retries"] == repr(found.retries)
    assert lines["install.no-index"] == "'yes'" and found.no_index


@pytest.mark.parametrize("system", ["linux", "darwin", "win32"])
def test_the_files_of_each_system_are_pips(system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "SYSTEM", system)
    for name, value in {"HOME": "/u", "XDG_CONFIG_DIRS": "/x:/y", "APPDATA": "/a", "PROGRAMDATA": "/p"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    expected = {
        "linux": (
            ["/x/pip/pip.conf", "/y/pip/pip.conf", "/etc/pip.conf"],
            ["/u/.pip/pip.conf", "/u/.config/pip/pip.conf"],
        ),
        "darwin": (["/Library/Application Support/pip/pip.conf"], ["/u/.pip/pip.conf", "/u/.config/pip/pip.conf"]),
        "win32": (["/p/pip/pip.ini"], ["/u/pip/pip.ini", "/a/pip/pip.ini"]),
    }
    files = platform.pip_files()
    assert ([p.as_posix() for p in files["global"]], [p.as_posix() for p in files["user"]]) == expected[system]


EVERYTHING = PipSettings(
    index_url="https://u:secret@index",
    extra_index_url=("https://a", "file:///opt/b"),
    find_links=("/opt/w",),
    constraint=("/etc/c.txt",),
    trusted_host=("h1", "h2"),
    proxy="http://p:1",
    cert="/etc/cert.pem",
    client_cert="/etc/own.pem",
    timeout="9",
    retries="2",
    no_cache_dir=True,
    only_binary="numpy,torch",
)


def test_pip_gets_them_and_nothing_else() -> None:
    variables = EVERYTHING.pip_environ({"PATH": "/bin", "PIP_TARGET": "/elsewhere", "PIP_REQUIRE_VIRTUALENV": "1"})
    assert variables == {
        "PATH": "/bin",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_INPUT": "1",
        "PIP_INDEX_URL": "https://u:secret@index",
        "PIP_EXTRA_INDEX_URL": "https://a file:///opt/b",
        "PIP_TRUSTED_HOST": "h1 h2",
        "PIP_PROXY": "http://p:1",
        "PIP_CERT": "/etc/cert.pem",
        "PIP_CLIENT_CERT": "/etc/own.pem",
        "PIP_TIMEOUT": "9",
        "PIP_RETRIES": "2",
        "PIP_NO_CACHE_DIR": "1",
    }


def test_uv_gets_the_same_in_its_own_words() -> None:
    variables = EVERYTHING.uv_environ({"PATH": "/bin"})
    assert variables == {
        "PATH": "/bin",
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_NO_PROGRESS": "1",
        "UV_DEFAULT_INDEX": "https://u:secret@index",
        "UV_INDEX": "https://a file:///opt/b",
        "UV_INSECURE_HOST": "h1 h2",
        "HTTP_PROXY": "http://p:1",
        "HTTPS_PROXY": "http://p:1",
        "ALL_PROXY": "http://p:1",
        "SSL_CERT_FILE": "/etc/cert.pem",
        "SSL_CLIENT_CERT": "/etc/own.pem",
        "UV_HTTP_TIMEOUT": "9",
        "UV_HTTP_RETRIES": "2",
        "UV_NO_CACHE": "1",
    }


def test_no_secret_stands_on_a_command_line() -> None:
    words = EVERYTHING.arguments()
    assert words == [
        *("--find-links", "/opt/w", "--constraint", "/etc/c.txt"),
        *("--only-binary", "numpy", "--only-binary", "torch"),
    ]
    assert "--no-index" in PipSettings(no_index=True).arguments()
