"""The user's pip settings (index, find-links, constraint, proxy, certificate, ...), for pip and uv alike.

They are read as pip reads them: files, then `PIP_*` variables; `[global]`, then `[install]`. Both installers then
get exactly these, so that a setting which makes no sense here (`user`, `target`, `require-virtualenv`) does no harm.
Source: https://pip.pypa.io/en/stable/topics/configuration/ and https://docs.astral.sh/uv/reference/environment/
"""

from __future__ import annotations

import configparser
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from .. import platform

#: Of pip's `config` options the ones that say where packages come from and how they are reached.
_TEXT = ("index_url", "proxy", "cert", "client_cert", "timeout", "retries", "keyring_provider")
_LIST = ("extra_index_url", "find_links", "constraint", "trusted_host")
_FLAG = ("no_index", "no_cache_dir")
_BINARY = ("only_binary", "no_binary")
_TRUE = frozenset({"1", "true", "yes", "on", "y", "t"})


@dataclass(frozen=True)
class PipSettings:
    """What the user told pip; empty where nothing was said."""

    index_url: str = ""
    extra_index_url: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    constraint: tuple[str, ...] = ()
    trusted_host: tuple[str, ...] = ()
    proxy: str = ""
    cert: str = ""
    client_cert: str = ""
    timeout: str = ""
    retries: str = ""
    keyring_provider: str = ""
    no_index: bool = False
    no_cache_dir: bool = False
    only_binary: str = ""
    no_binary: str = ""

    def with_index(self, url: str) -> PipSettings:
        """The same with one more index."""
        return replace(self, extra_index_url=(*self.extra_index_url, url))

    def arguments(self) -> list[str]:
        """Arguments that pip and uv have in common. Index addresses, which may hold a password, are not here."""
        words = []
        for name, values in (("--find-links", self.find_links), ("--constraint", self.constraint)):
            words += [word for value in values for word in (name, value)]
        words += ["--no-index"] if self.no_index else []
        for name, value in (("--only-binary", self.only_binary), ("--no-binary", self.no_binary)):
            words += [word for part in value.split(",") if part.strip() for word in (name, part.strip())]
        return words

    def pip_environ(self, base: Mapping[str, str]) -> dict[str, str]:
        """The variables for pip: no settings files, no settings of `base`, but these."""
        variables = {name: value for name, value in base.items() if not name.startswith("PIP_")}
        variables.update(PIP_CONFIG_FILE=os.devnull, PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INPUT="1")
        for name in _TEXT:
            if getattr(self, name):
                variables[f"PIP_{name.upper()}"] = getattr(self, name)
        for name in ("extra_index_url", "trusted_host"):
            if getattr(self, name):
                variables[f"PIP_{name.upper()}"] = " ".join(getattr(self, name))
        if self.no_cache_dir:
            variables["PIP_NO_CACHE_DIR"] = "1"
        return variables

    def uv_environ(self, base: Mapping[str, str]) -> dict[str, str]:
        """The variables for uv. All indexes count alike, as they do for pip, and no Python is downloaded."""
        variables = dict(base)
        variables.update(UV_PYTHON_DOWNLOADS="never", UV_INDEX_STRATEGY="unsafe-best-match", UV_NO_PROGRESS="1")
        pairs = {
            "UV_DEFAULT_INDEX": self.index_url,
            "UV_INDEX": " ".join(self.extra_index_url),
            "UV_INSECURE_HOST": " ".join(self.trusted_host),
            "UV_HTTP_TIMEOUT": self.timeout,
            "UV_HTTP_RETRIES": self.retries,
            "UV_NO_CACHE": "1" if self.no_cache_dir else "",
            "UV_KEYRING_PROVIDER": "subprocess" if self.keyring_provider == "subprocess" else "",
            "SSL_CERT_DIR" if os.path.isdir(self.cert) else "SSL_CERT_FILE": self.cert,
            "SSL_CLIENT_CERT": self.client_cert,
            "HTTP_PROXY": self.proxy,
            "HTTPS_PROXY": self.proxy,
            "ALL_PROXY": self.proxy,
        }
        for name, value in pairs.items():
            if value:
                variables[name] = value
        return variables


def read(environ: Mapping[str, str] | None = None) -> PipSettings:
    """The settings that pip would use for `pip install`. A file that is not well-formed says nothing."""
    variables = environ if environ is not None else os.environ
    found: dict[str, str] = {}
    for section in ("global", "install"):
        for path in _files(variables):
            found.update(_section(path, section))
    found.update(_variables(variables))
    return _settings(found)


def _files(variables: Mapping[str, str]) -> list[Path]:
    named = variables.get("PIP_CONFIG_FILE", "")
    if named == os.devnull:
        return []
    places = platform.pip_files()
    user = [] if named and os.path.exists(named) else places["user"]
    return [*places["global"], *user, *places["site"], *([Path(named)] if named else [])]


def _section(path: Path, section: str) -> dict[str, str]:
    parser = configparser.RawConfigParser()
    try:
        parser.read(path, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError):
        return {}
    return {_key(name): value for name, value in parser.items(section)} if parser.has_section(section) else {}


def _variables(variables: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for name, value in variables.items():
        if name.startswith("PIP_") and value:
            found[_key(name[4:])] = value
    return found


def _key(name: str) -> str:
    key = name.strip().lower().replace("-", "_").lstrip("_")
    return "timeout" if key == "default_timeout" else key


def _settings(found: Mapping[str, str]) -> PipSettings:
    values: dict[str, str | bool | tuple[str, ...]] = {
        name: found[name].strip() for name in (*_TEXT, *_BINARY) if name in found
    }
    values.update({name: tuple(found[name].split()) for name in _LIST if name in found})
    values.update({name: found[name].strip().lower() in _TRUE for name in _FLAG if name in found})
    settings = PipSettings(**values)  # type: ignore[arg-type]
    return replace(
        settings,
        find_links=tuple(_absolute(place) for place in settings.find_links),
        constraint=tuple(_absolute(place) for place in settings.constraint),
    )


def _absolute(place: str) -> str:
    """The installers run in another folder, so a relative place is made absolute; an address stays."""
    return place if "://" in place else os.path.abspath(os.path.expanduser(place))
