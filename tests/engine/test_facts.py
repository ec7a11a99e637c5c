from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

pytest.importorskip("torch")

from trainer_bridge.device import read_device  # noqa: E402
from trainer_bridge.engine import device, facts  # noqa: E402
from trainer_bridge.engine.__main__ import main  # noqa: E402


def test_facts_of_this_machine(tmp_path: Path) -> None:
    assert main(["facts", "--out", str(tmp_path / "device.json")]) == 0
    found = read_device(tmp_path / "device.json")
    assert found is not None
    assert found.kind == device.choose() and found.name and found.memory > 1 << 28
    assert 1e8 < found.matrix["no"] < 1e16 and 1e7 < found.attention["no"] < 1e16
    assert found.bf16 == ("bf16" in found.matrix)
    assert "fp16" not in found.matrix or found.kind == "cuda"


def test_measuring_is_bounded_and_takes_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    durations = iter([0.0, 0.2, 0.01, 0.3, 0.3])
    monkeypatch.setattr(facts, "_SECONDS", 0.4)

    def compute() -> object:
        time.sleep(next(durations))
        return None

    assert facts._speed("cpu", compute, 1.0) == pytest.approx(100, rel=0.3)  # type: ignore[arg-type]


def test_a_request_that_is_none_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "request.json").write_text("[1")
    assert main(["generate", str(tmp_path / "request.json")]) == 2
    assert "request" in json.loads(capsys.readouterr().out)["error"]["what"]
    (tmp_path / "request.json").write_text("[1]")
    assert main(["generate", str(tmp_path / "request.json")]) == 2
