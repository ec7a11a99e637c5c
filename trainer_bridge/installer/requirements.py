"""Lock files: exact pins, one a line, each with the marker of the Pythons and systems that it is for."""

from __future__ import annotations

import ast
import platform as system
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

LOCKS = Path(__file__).resolve().parent.parent / "locks"

_PIN = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;]+)\s*(?:;\s*(.+))?")
_GPU_LIBRARY = re.compile(r"(nvidia|cuda)-.+|triton")


@dataclass(frozen=True)
class Pin:
    """One package at one version; the name in its canonical spelling."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"

    @property
    def gpu_only(self) -> bool:
        """Whether torch needs it only to reach an NVIDIA card: gigabytes that a machine without one is spared."""
        return _GPU_LIBRARY.fullmatch(self.name) is not None


def canonical(name: str) -> str:
    """The one spelling of a package's name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_lock(path: Path, markers: Mapping[str, str] | None = None) -> tuple[Pin, ...]:
    """The pins of a lock file that are for this Python and system.

    Args:
        markers: PEP 508 variables to read it for another one.

    Raises:
        ValueError: a line is no pin, or its marker is not understood: a fault of the lock file.
    """
    variables = markers if markers is not None else marker_variables()
    pins = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        match = _PIN.fullmatch(text)
        if match is None:
            raise ValueError(f"{path.name}, line {number}: not an exact pin: {text!r}")
        name, version, marker = match.groups()
        if marker is None or holds(marker, variables):
            pins.append(Pin(canonical(name), version))
    return tuple(pins)


def marker_variables() -> dict[str, str]:
    """The PEP 508 variables of the running Python that our locks use."""
    return {
        "python_version": f"{sys.version_info[0]}.{sys.version_info[1]}",
        "python_full_version": ".".join(str(part) for part in sys.version_info[:3]),
        "sys_platform": sys.platform,
        "platform_machine": system.machine(),
        "platform_system": system.system(),
        "platform_python_implementation": system.python_implementation(),
        "implementation_name": sys.implementation.name,
    }


def holds(marker: str, variables: Mapping[str, str]) -> bool:
    """Whether a marker holds. It is written like Python's own comparisons, so Python's parser reads it.

    Raises:
        ValueError: it is not understood.
    """
    try:
        return _holds(ast.parse(marker, mode="eval").body, variables)
    except SyntaxError:
        raise ValueError(f"marker not understood: {marker}") from None


def _holds(node: ast.expr, variables: Mapping[str, str]) -> bool:
    if isinstance(node, ast.BoolOp):
        parts = [_holds(value, variables) for value in node.values]
        return all(parts) if isinstance(node.op, ast.And) else any(parts)
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        if _is_series(node.comparators[0]):
            return _in_series(node, variables)
        versions = any(isinstance(side, ast.Name) and "version" in side.id for side in (node.left, node.comparators[0]))
        left, right = (_value(side, variables, versions) for side in (node.left, node.comparators[0]))
        return _compare(node.ops[0], left, right)
    raise ValueError(f"marker not understood: {ast.dump(node)}")


def _is_series(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.endswith(".*")


def _in_series(node: ast.Compare, variables: Mapping[str, str]) -> bool:
    """`python_full_version == '3.11.*'`."""
    version = _value(node.left, variables, version=True)
    series = _value(node.comparators[0], variables, version=True)
    inside = version[: len(series)] == series
    if isinstance(node.ops[0], (ast.Eq, ast.NotEq)):
        return inside if isinstance(node.ops[0], ast.Eq) else not inside
    raise ValueError(f"marker not understood: {ast.dump(node)}")


def _value(node: ast.expr, variables: Mapping[str, str], version: bool) -> tuple[int, ...] | str:
    if isinstance(node, ast.Name) and node.id in variables:
        text = variables[node.id]
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        text = node.value
    else:
        raise ValueError(f"marker not understood: {ast.dump(node)}")
    return release(text) if version else text


def _compare(operator: ast.cmpop, left: tuple[int, ...] | str, right: tuple[int, ...] | str) -> bool:
    if isinstance(operator, ast.Eq):
        return left == right
    if isinstance(operator, ast.NotEq):
        return left != right
    if isinstance(left, tuple) and isinstance(right, tuple):
        if isinstance(operator, ast.Lt):
            return left < right
        if isinstance(operator, ast.LtE):
            return left <= right
        if isinstance(operator, ast.Gt):
            return left > right
        if isinstance(operator, ast.GtE):
            return left >= right
    raise ValueError(f"marker not understood: {ast.dump(operator)}")


def release(version: str) -> tuple[int, ...]:
    """The numbers of a version, without trailing zeros: 2.13.0+cpu -> (2, 13)."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    numbers = [int(part) for part in match.group().split(".")] if match else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
