"""Processes are tested with a fake trainer, so that each takes seconds."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.fakes.front import Front, make

if sys.platform == "win32":
    collect_ignore_glob = ["test_cli_*.py"]


@pytest.fixture
def front(tmp_path: Path) -> Front:
    pytest.importorskip("PIL")
    return make(tmp_path)
