"""What the machine can do, measured once by the trainer's environment and kept in `device.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

VERSION = 1

_MAX_BYTES = 64 * 1024
_FASTEST = 1e20
KINDS: tuple[str, ...] = ("cpu", "cuda", "mps", "xpu")
PRECISIONS: tuple[str, ...] = ("no", "bf16", "fp16")


@dataclass(frozen=True)
class DeviceFacts:
    """What the device that trains can do.

    Attributes:
        name: as its maker calls it.
        kind: one of :data:`KINDS`; ROCm counts as `cuda`, as torch has it.
        memory: bytes that a run may use: the GPU's, or the machine's for a CPU.
        matrix: precision -> operations a second of large matrix products.
        attention: precision -> operations a second of self-attention; where missing, `matrix` holds.
        bf16: whether it computes in bf16 at all.
        speeds: `family/precision` -> operations a second that past runs reached.
    """

    name: str
    kind: str
    memory: int
    matrix: Mapping[str, float]
    attention: Mapping[str, float] = field(default_factory=dict)
    bf16: bool = False
    speeds: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the text of `device.json`."""
        return json.dumps({"version": VERSION, **asdict(self)}, indent=2, sort_keys=True)

    @property
    def bf16_is_fast(self) -> bool:
        """Whether bf16 saves time: on a CPU without units for it, it costs time instead."""
        return self.bf16 and self.matrix.get("bf16", 0.0) > 1.2 * self.matrix.get("no", 0.0)


def read_device(path: Path) -> DeviceFacts | None:
    """Read `device.json`; None when it is missing or not usable, so that it is measured anew."""
    try:
        with path.open("rb") as file:
            data = json.loads(file.read(_MAX_BYTES))
        return parse(data)
    except (OSError, ValueError, RecursionError):
        return None


def parse(data: Any) -> DeviceFacts:
    """Return the facts in what `device.json` holds.

    Raises:
        ValueError: a value is missing or cannot be.
    """
    if not isinstance(data, dict) or data.get("version") != VERSION:
        raise ValueError("not the facts of a device")
    name, kind, memory = data.get("name"), data.get("kind"), data.get("memory")
    if not isinstance(name, str) or kind not in KINDS or type(memory) is not int or not 0 < memory < 1 << 50:
        raise ValueError("not the facts of a device")
    return DeviceFacts(
        name=name[:200],
        kind=kind,
        memory=memory,
        matrix=_speeds(data.get("matrix"), PRECISIONS),
        attention=_speeds(data.get("attention", {}), PRECISIONS),
        bf16=data.get("bf16") is True,
        speeds=_speeds(data.get("speeds", {}), None),
    )


def _speeds(value: object, keys: tuple[str, ...] | None) -> dict[str, float]:
    """Return the speeds that can be, of a table; an unknown speed only costs the forecast of the time."""
    if not isinstance(value, dict):
        return {}
    return {
        str(key): float(speed)
        for key, speed in value.items()
        if (keys is None or key in keys)
        and isinstance(speed, (int, float))
        and not isinstance(speed, bool)
        and 0 < speed < _FASTEST
    }
