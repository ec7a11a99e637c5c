"""Who may import whom, as the design says, checked in the text of every file: also for imports inside functions."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "trainer_bridge"
FILES = sorted(PACKAGE.rglob("*.py"))
FAMILIES = sorted((PACKAGE / "engine" / "families").glob("[!_]*.py"))

#: What each part may use besides the standard library and the contracts. The longest match counts.
FOREIGN: dict[str, frozenset[str]] = {
    "": frozenset(),
    "dataset": frozenset({"PIL", "numpy"}),
    "engine": frozenset({"torch", "numpy", "PIL", "safetensors", "diffusers", "transformers", "peft"}),
    "pocket": frozenset({"PIL", "numpy"}),
    "pocket/make": frozenset({"torch", "numpy", "PIL", "safetensors", "diffusers", "transformers", "skia"}),
}

#: Folder -> those that may import from it besides itself; every other folder is open to all of the package.
CLOSED: dict[str, tuple[str, ...]] = {
    "engine": (),  # started by command line
    "systems": ("platform.py",),
    "installer": (),
    "pocket": (),
    "pocket/make": (),
}

#: Stays on the standard library although Pillow and NumPy are allowed around it.
PLAIN = ("dataset/captions.py", "dataset/buckets.py", "dataset/order.py")


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, absolute name of the module) of each import; for `from . import x` the name of x."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield node.lineno, absolute(path, node, alias.name)


def absolute(path: Path, node: ast.ImportFrom, name: str) -> str:
    if not node.level:
        return node.module or ""
    parts = ["trainer_bridge", *path.relative_to(PACKAGE).parts[:-1]]
    start = parts[: len(parts) - (node.level - 1)]
    module = ".".join([*start, *([node.module] if node.module else [])])
    folder = ROOT.joinpath(*module.split("."))
    within = (folder / f"{name}.py").exists() or (folder / name).is_dir()
    return f"{module}.{name}" if within else module


def part(path: Path) -> str:
    """Folder of a file within the package, as `/` path."""
    folder = path.relative_to(PACKAGE).parent.as_posix()
    return "" if folder == "." else folder


def longest(table: dict[str, frozenset[str]], folder: str) -> frozenset[str]:
    matching = [key for key in table if key == "" or folder == key or folder.startswith(key + "/")]
    return table[max(matching, key=len)]


def inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder + "/")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_file_imports_only_what_its_place_allows(path: Path) -> None:
    name = path.relative_to(PACKAGE).as_posix()
    allowed = frozenset() if name in PLAIN else longest(FOREIGN, part(path))
    for line, module in imports(path):
        top = module.partition(".")[0]
        where = f"{name}, line {line}: {module}"
        if top == "trainer_bridge":
            target = "/".join(module.split(".")[1:])
            for folder, guests in CLOSED.items():
                if inside(target, folder):
                    assert inside(name, folder) or name in guests, f"{where} is closed to it"
        else:
            assert top == "__future__" or top in sys.stdlib_module_names or top in allowed, where


@pytest.mark.parametrize("path", FAMILIES, ids=lambda path: path.name)
def test_a_family_knows_no_other_family(path: Path) -> None:
    families = "trainer_bridge.engine.families"
    seen = {module for _, module in imports(path) if module.startswith(families + ".")}
    assert seen <= {f"{families}.base", f"{families}.unet", f"{families}.{path.stem}"}  # unet: what U-Nets share


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_inside_the_package_imports_are_relative(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    named = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level]
    named += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    assert not [module for module in named if module and module.partition(".")[0] == "trainer_bridge"]


def test_the_rules_see_imports_in_functions_and_of_every_form(tmp_path: Path) -> None:
    path = PACKAGE / "engine" / "families" / "nowhere.py"
    node = ast.parse("def f():\n    from ..keys import x\n    from . import base\n    from ... import platform\n")
    found = [absolute(path, each, each.names[0].name) for each in ast.walk(node) if isinstance(each, ast.ImportFrom)]
    assert found == ["trainer_bridge.engine.keys", "trainer_bridge.engine.families.base", "trainer_bridge.platform"]


def test_the_contracts_start_without_any_package() -> None:
    """The front runs on any Python: its modules are imported with nothing but the standard library."""
    code = (
        "import importlib, pathlib, sys\n"
        "for path in sorted(pathlib.Path('trainer_bridge').glob('*.py')):\n"
        "    if path.stem not in ('__main__', '__init__'):\n"
        "        importlib.import_module('trainer_bridge.' + path.stem)\n"
        "print(sorted(name for name in ('torch', 'numpy', 'PIL') if name in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, '.')\n{code}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr
