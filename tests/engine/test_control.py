from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from trainer_bridge.engine.control import Control


def ask(folder: Path, command: object, serial: object = 1) -> None:
    (folder / "control.json").write_text(json.dumps({"command": command, "serial": serial}))


def test_nothing_is_asked_without_a_file(tmp_path: Path) -> None:
    assert Control(tmp_path).poll() is None


def test_a_command_is_obeyed_once(tmp_path: Path) -> None:
    control = Control(tmp_path)
    ask(tmp_path, "save")
    assert control.poll() == "save"
    assert control.poll() is None


def test_what_stopped_the_last_start_does_not_stop_the_next(tmp_path: Path) -> None:
    ask(tmp_path, "stop")
    assert Control(tmp_path).poll() == "stop"
    assert Control(tmp_path).poll() is None


def test_a_stop_that_was_asked_for_before_the_start_is_obeyed(tmp_path: Path) -> None:
    ask(tmp_path, "stop")
    assert Control(tmp_path).poll() == "stop"


def test_the_same_serial_at_another_time_is_another_command(tmp_path: Path) -> None:
    control = Control(tmp_path)
    ask(tmp_path, "save", 1)
    os.utime(tmp_path / "control.json", ns=(1, 1))
    assert control.poll() == "save"
    ask(tmp_path, "stop", 1)
    assert control.poll() == "stop"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"command": "rm"}', '{"command": ["stop"], "serial": 1}', "\x00" * 9000]
)
def test_nonsense_is_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "control.json").write_text(text)
    assert Control(tmp_path).poll() is None


def test_sigterm_means_stop(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        control = Control(tmp_path)
        control.listen()
        os.kill(os.getpid(), signal.SIGTERM)
        assert control.poll() == "stop"
    finally:
        signal.signal(signal.SIGTERM, before)
