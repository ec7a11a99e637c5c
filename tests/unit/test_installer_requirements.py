"""Lock files: exact pins, read for any Python and system; the shipped ones are complete."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer_bridge.installer import recipe, requirements, sound
from trainer_bridge.installer.requirements import LOCKS, Pin, read_lock

PYTHONS = ("3.10.13", "3.11.7", "3.12.1", "3.13.0")
SYSTEMS = {"linux": ("Linux", "x86_64"), "darwin": ("Darwin", "arm64"), "win32": ("Windows", "AMD64")}


def markers(python: str, system: str) -> dict[str, str]:
    name, machine = SYSTEMS[system]
    return {
        **requirements.marker_variables(),
        "python_full_version": python,
        "python_version": python.rpartition(".")[0],
        "sys_platform": system,
        "platform_system": name,
        "platform_machine": machine,
    }


def lock(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "lock.txt"
    path.write_text(text, encoding="utf-8")
    return path


def test_pins_comments_and_spelling(tmp_path: Path) -> None:
    path = lock(tmp_path, "# head\n\nHuggingFace_Hub==1.0\nb.c==2.0+cpu ; sys_platform == 'nowhere'\n")
    assert read_lock(path) == (Pin("huggingface-hub", "1.0"),)


@pytest.mark.parametrize("line", ["torch", "torch>=2", "torch==2 ; os_name ~= 'x'", "-r other.txt", "a==1 ; 1 < 2 < 3"])
def test_what_is_no_pin_is_a_fault_of_the_lock(tmp_path: Path, line: str) -> None:
    with pytest.raises(ValueError):
        read_lock(lock(tmp_path, line + "\n"))


VERSIONS = st.from_regex(r"3\.(9|1[0-5])(\.[0-9]{1,2})?", fullmatch=True)
OPERATORS = st.sampled_from(["<", "<=", ">", ">=", "==", "!="])


@given(
    VERSIONS, OPERATORS, VERSIONS, st.booleans(), st.sampled_from(["and", "or"]), st.sampled_from(["linux", "win32"])
)
def test_markers_hold_as_the_packaging_library_says(
    own: str, operator: str, bound: str, series: bool, joint: str, system: str
) -> None:
    packaging = pytest.importorskip("packaging.markers")
    if series and operator in ("==", "!="):
        bound = ".".join(bound.split(".")[:2]) + ".*"
    text = f"python_full_version {operator} '{bound}' {joint} sys_platform == '{system}'"
    variables = {**markers("3.11.7", "linux"), "python_full_version": own}
    assert requirements.holds(text, variables) == packaging.Marker(text).evaluate(variables)


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("name", [recipe.FULL, recipe.TEST, *(lock for _, _, lock in recipe.OVERLAYS)])
def test_every_shipped_lock_has_one_version_of_each_package(name: str, system: str, python: str) -> None:
    pins = read_lock(LOCKS / name, markers(python, system))
    names = [pin.name for pin in pins]
    assert len(names) == len(set(names))
    expected = {"full.txt": {"torch", "diffusers", "transformers", "safetensors", "numpy", "pillow"}}
    overlay = {"diffusers", "transformers", "safetensors", "numpy", "pillow"}
    tools = {"pytest", "pytest-xdist", "hypothesis", "ruff", "mypy", "skia-python", "peft"}
    wanted = expected.get(name, tools if name == recipe.TEST else overlay)
    assert wanted <= set(names)
    if name.startswith("overlay"):
        assert not [pin for pin in pins if pin.name == "torch" or pin.gpu_only], "torch comes from below"
    if system != "linux":
        assert not [pin for pin in pins if pin.gpu_only]


def test_the_versions_are_those_that_were_tried() -> None:
    def versions(name: str, python: str = "3.11.7") -> dict[str, str]:
        return {pin.name: pin.version for pin in read_lock(LOCKS / name, markers(python, "linux"))}

    full, old, middle = versions("full.txt"), versions("overlay-torch2.1.txt"), versions("overlay-torch2.3.txt")
    assert (full["torch"], full["diffusers"], full["transformers"]) == ("2.13.0", "0.42.1", "5.23.0")
    for found in (old, middle):
        assert (found["diffusers"], found["transformers"]) == ("0.35.2", "4.49.0")
    assert requirements.release(old["numpy"]) < (2,), "torch 2.1 was built for NumPy 1"


@pytest.mark.parametrize(
    ("version", "lock_name"),
    [
        ("2.0.1", None),
        ("2.1.0", "overlay-torch2.1.txt"),
        ("2.1.2+cu121", "overlay-torch2.1.txt"),
        ("2.2.2", "overlay-torch2.1.txt"),
        ("2.3.0", "overlay-torch2.3.txt"),
        ("2.12.1+rocm6", "overlay-torch2.3.txt"),
        ("2.13.0+cpu", "overlay-torch2.13.txt"),
        ("2.20.0a0+git1", "overlay-torch2.13.txt"),
        ("3.0.0", None),
        ("unknown", None),
    ],
)
def test_which_torch_is_served_by_which_lock(version: str, lock_name: str | None) -> None:
    assert recipe.overlay_lock(version) == lock_name


def test_only_libraries_of_cards_are_left_out_without_one() -> None:
    pins = read_lock(LOCKS / "full.txt", markers("3.11.7", "linux"))
    spared = {pin.name for pin in pins if pin.gpu_only}
    assert {"nvidia-cublas", "nvidia-nccl-cu13", "cuda-bindings", "cuda-toolkit", "triton"} <= spared
    assert all(name.startswith(("nvidia-", "cuda-")) or name == "triton" for name in spared)


@pytest.mark.parametrize(
    ("found", "pins", "words"),
    [
        ({"a": "1.0"}, {"a": "1.0"}, ""),
        ({"torch": "2.13.0+cpu"}, {"torch": "2.13.0"}, ""),
        ({"a": "1"}, {"a": "1.0.0"}, ""),
        ({}, {"a": "1.0"}, "missing: a"),
        ({"a": "1.0", "b": "1"}, {"a": "1.0"}, "not in the lock: b"),
        ({"a": "1.1"}, {"a": "1.0"}, "another version: a 1.1 for 1.0"),
    ],
)
def test_what_is_installed_against_the_lock(found: dict[str, str], pins: dict[str, str], words: str) -> None:
    assert sound.difference(found, pins) == words
