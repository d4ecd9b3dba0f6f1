"""The import rules of ARCHITECTURE.md, read from the syntax tree, and what `import mixkd` costs."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("mixkd", "theory", "reports", "benchmarks")
# The store, and what these may import: the standard library, one another and a little more.
STORE = ("mixkd/store.py", "mixkd/files.py", "mixkd/provenance.py")
STORE_MAY = {"pydantic", "filelock", "mixkd.files", "mixkd.provenance"}


def imports(source, package):
    """Every module that some source code imports, anywhere in it: dotted names, `from a import b` as `a.b`."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parent = node.module or ""
            if node.level:
                parent = ".".join([*package.split(".")[: len(package.split(".")) - node.level + 1], *parent.split(".")])
            found |= {f"{parent}.{alias.name}".strip(".") for alias in node.names}
    return found


def within(module, *roots):
    return any(module == root or module.startswith(f"{root}.") for root in roots)


def violations(name, source):
    """Imports of the file with this name (such as `mixkd/store.py`) that break a rule."""
    package = name.partition("/")[0]
    wrong = []
    for module in sorted(imports(source, package)):
        if name == "mixkd/commands.py":
            allowed = True  # the composition root; see the test of its top level
        elif name in STORE:
            allowed = within(module, *sys.stdlib_module_names, *STORE_MAY)
        elif package == "mixkd":
            allowed = not within(module, "theory", "reports", "benchmarks")
        elif package == "theory":
            allowed = not within(module, "transformers", "reports", "benchmarks") and (
                not within(module, "mixkd") or within(module, "mixkd.store")
            )
        elif package == "reports":
            allowed = not within(module, "torch", "transformers", "benchmarks") and (
                not within(module, "mixkd", "theory") or within(module, "mixkd.store", "theory.studies")
            )
        else:
            allowed = not within(module, "reports")
        if not allowed:
            wrong.append(module)
    return wrong


def files():
    return [str(path.relative_to(ROOT)) for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


@pytest.mark.parametrize("name", files())
def test_nobody_imports_what_is_not_theirs(name):
    assert violations(name, (ROOT / name).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("name", "source", "wrong"),
    [
        ("mixkd/store.py", "import json, torch", ["torch"]),
        ("mixkd/store.py", "from pydantic import BaseModel\nfrom mixkd import tasks", ["mixkd.tasks"]),
        ("mixkd/files.py", "import os\nfrom mixkd.tasks import load_task", ["mixkd.tasks.load_task"]),
        ("mixkd/suite.py", "def f():\n    import theory.worlds as w", ["theory.worlds"]),
        ("mixkd/suite.py", "from . import store\nfrom .tasks import load_task\nimport theoryless", []),
        ("mixkd/suite.py", "from reports import claims", ["reports.claims"]),
        ("theory/worlds.py", "from mixkd.store import Store\nfrom mixkd.models import f", ["mixkd.models.f"]),
        ("theory/worlds.py", "from mixkd import store, run", ["mixkd.run"]),
        ("theory/worlds.py", "if True:\n    import transformers.utils", ["transformers.utils"]),
        ("theory/worlds.py", "import mixkd", ["mixkd"]),
        ("reports/page.py", "from theory.studies import STUDIES\nfrom theory import worlds", ["theory.worlds"]),
        ("reports/page.py", "import torch", ["torch"]),
        ("reports/page.py", "from mixkd import store\nimport mixkd.evaluate", ["mixkd.evaluate"]),
        ("benchmarks/test_size.py", "import mixkd, theory.worlds, reports.page", ["reports.page"]),
        ("mixkd/commands.py", "import reports, theory", []),
    ],
)
def test_the_rules_notice_a_wrong_import(name, source, wrong):
    assert violations(name, source) == wrong


def top_level_imports(source):
    """What is imported when the module is: not inside functions, not for type checkers only."""
    tree = ast.parse(source)
    kept = [
        node
        for node in tree.body
        if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        and not isinstance(node, ast.FunctionDef | ast.ClassDef)
    ]
    return imports("\n".join(map(ast.unparse, kept)), "mixkd")


def test_the_command_imports_other_packages_inside_its_functions():
    source = (ROOT / "mixkd/commands.py").read_text(encoding="utf-8")
    assert [m for m in top_level_imports(source) if within(m, "theory", "reports", "benchmarks", "torch")] == []
    assert any(within(module, "theory") for module in imports(source, "mixkd"))
    assert top_level_imports("import theory\ndef f():\n    import reports") == {"theory"}  # control


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout


def heavy_modules(modules):
    heavy = ("torch", "transformers", "pandas", "datasets")
    code = f"import sys, {modules}; print([m for m in {heavy} if m in sys.modules])"
    return run_python(code).strip()


def test_importing_mixkd_is_fast_and_imports_no_torch():
    assert heavy_modules("mixkd") == "[]"
    assert "torch" in heavy_modules("mixkd.trainer")  # control

    def seconds(code):
        start = time.perf_counter()
        run_python(code)
        return time.perf_counter() - start

    empty = min(seconds("pass") for _ in range(3))
    assert min(seconds("import mixkd") for _ in range(5)) - empty < 0.3


def test_reports_never_load_torch():
    modules = [f"reports.{path.stem}" for path in sorted((ROOT / "reports").glob("[!_]*.py"))]
    assert len(modules) > 5
    assert "torch" not in heavy_modules(", ".join(modules))


def test_public_names_are_there_and_lazy():
    import mixkd

    assert set(dir(mixkd)) == set(mixkd.__all__)
    for name in mixkd.__all__:
        assert name == "RECIPES" or getattr(mixkd, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = mixkd.nothing
