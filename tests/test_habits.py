"""Habits that no other tool checks: who touches whose private names, what stands where, how much one thing takes."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE, TESTS = ROOT / "edgekit", ROOT / "tests"
NAMED_TUPLE = {"_asdict", "_fields", "_make", "_replace"}
IN_THE_ROOT = {"__init__", "__main__", "cli", "errors", "progress", "terminal"}
MOST_ROOMS = 28  # modules and packages of the root together
MOST_PARAMETERS = 8

# Function -> why it may take more parameters.
MANY_PARAMETERS: Mapping[str, str] = {
    "edgekit/prove/publish.py: export": "the main job, with the options that its command has",
}


# The outermost edge of the command line, with only the interpreter behind it; and where one answer's
# error is kept for its own reader, since another's thread computes it.
CATCHES_EVERYTHING = ("edgekit/cli.py", "edgekit/runtime/generation/engine.py")


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def is_training(path: Path) -> bool:
    """The script that trained the reference models is no part of what is installed."""
    return "training" in path.parts


@dataclass
class Names(ast.NodeVisitor):
    """Where a test file touches what is private elsewhere.

    Its own objects may: `self` and `cls`, and a name with an underscore by itself. So may those of other projects,
    as far as they are reached from an import; named tuples' methods begin with an underscore and are public.
    """

    path: Path
    others: set[str] = field(default_factory=lambda: {"self", "cls"})
    wrong: list[str] = field(default_factory=list)

    def visit_Import(self, node: ast.Import) -> None:
        for name in node.names:
            if name.name.split(".")[0] != "edgekit":
                self.others.add(name.asname or name.name.split(".")[0])

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        package = (node.module or "").split(".")[0]
        ours = package == "edgekit" or (TESTS / f"{package}.py").exists() or (TESTS / package).is_dir()
        for name in node.names:
            if not ours:
                self.others.add(name.asname or name.name)
            elif is_private(name.name):
                self.found(node, f"import of {name.name}")

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.generic_visit(node)
        if is_private(node.attr) and node.attr not in NAMED_TUPLE and root_of(node) not in self.others:
            self.found(node, ast.unparse(node))

    def visit_Call(self, node: ast.Call) -> None:
        """`setattr` and its like name an attribute by a text, or a path to one."""
        self.generic_visit(node)
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called not in ("setattr", "delattr", "getattr", "hasattr", "patch", "object"):
            return
        names = [given.value for given in node.args[:2] if isinstance(given, ast.Constant)]
        for name in (name for name in names if isinstance(name, str)):
            if any(map(is_private, name.split("."))) and root_of(node.args[0]) not in self.others:
                self.found(node, f"{called} of {name}")

    def found(self, node: ast.AST, what: str) -> None:
        self.wrong.append(f"{self.path.name}:{getattr(node, 'lineno', 0)}: {what}")


def root_of(node: ast.AST) -> str | None:
    """The name that an expression of attributes, items and calls begins with."""
    while not isinstance(node, ast.Name):
        if isinstance(node, ast.Attribute | ast.Subscript | ast.Await):
            node = node.value
        elif isinstance(node, ast.Call):
            node = node.func
        else:
            return None
    return node.id


def sources(folder: Path) -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(folder.rglob("*.py")):
        yield path, ast.parse(path.read_text(encoding="utf-8"))


def private_names(text: str) -> list[str]:
    names = Names(Path("test_x.py"))
    names.visit(ast.parse(text))
    return names.wrong


@pytest.mark.parametrize(
    "text",
    [
        "from edgekit.a import _x",
        "from edgekit import a\na._x()",
        "import edgekit.a as b\nb.c._x",
        "import edgekit\nedgekit.a._x",
        "from edgekit.a import B\nB._x",
        "from edgekit.a import B\nb = B(1)\nb._x",
        "from edgekit.a import B\nB(1).c._x",
        "from edgekit.a import B\ndef test(b: B) -> None:\n    b._x",
        "from edgekit.a import B\ndef test(b: 'B') -> None:\n    type(b)._x",
        "from edgekit import a\nmonkeypatch.setattr(a, '_x', 1)",
        "from edgekit import a\nmonkeypatch.setitem(a._x, 'y', 1)",
        "def test(made: Any) -> None:\n    made.decoder()._x",
        "monkeypatch.setattr('edgekit.a._x', 1)",
    ],
)
def test_a_private_name_is_seen(text: str) -> None:
    assert len(private_names(text)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "from edgekit import a\na.x()",
        "from edgekit import a\na.__name__",
        "import os\nos._exit(1)",
        "class Stub:\n    def f(self) -> None:\n        self._x = 1",
        "from edgekit import a\nmonkeypatch.setattr(a, 'x', 1)",
        "usage = shutil.disk_usage('.')\nusage._replace(free=1)",
    ],
)
def test_what_is_public_or_anothers_may_be_used(text: str) -> None:
    assert private_names(text) == []


def test_no_test_touches_a_private_name() -> None:
    wrong = []
    for path, tree in sources(TESTS):
        names = Names(path)
        names.visit(tree)
        wrong += names.wrong
    assert not wrong, "\n".join(["", *wrong])


def test_no_error_is_caught_that_is_not_named() -> None:
    """`except Exception` hides mistakes; where a library raises nothing narrower, its line says so to ruff."""
    wrong = []
    for path, tree in sources(PACKAGE):
        lines = path.read_text(encoding="utf-8").splitlines()
        for node in ast.walk(tree):
            if isinstance(node, ast.ExceptHandler):
                caught = {part.id for part in ast.walk(node.type) if isinstance(part, ast.Name)} if node.type else set()
                if (not node.type or caught & {"Exception", "BaseException"}) and not reraises(node):
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: {lines[node.lineno - 1].strip()}")
    outermost = [line for line in wrong if line.startswith(CATCHES_EVERYTHING)]
    assert len(outermost) == len(CATCHES_EVERYTHING)
    assert wrong == outermost, "\n".join(["", *wrong])


def reraises(handler: ast.ExceptHandler) -> bool:
    """Whether every error goes on, as itself or as the cause of another."""
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and (last.exc is None or last.cause is not None)


def test_the_root_holds_what_everything_needs_and_nothing_else() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} <= IN_THE_ROOT


def test_the_root_is_small_enough_to_know() -> None:
    rooms = [path for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()]
    assert len(rooms) <= MOST_ROOMS, sorted(path.name for path in rooms)


Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, Function | ast.ClassDef]]:
    """Every function and class by its qualified name."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Function | ast.ClassDef):
            yield f"{prefix}{node.name}", node
            yield from functions(node, f"{prefix}{node.name}.")
        else:
            yield from functions(node, prefix)


def parameters(function: Function) -> int:
    """How many a caller sees."""
    given = function.args
    every = [*given.posonlyargs, *given.args, *given.kwonlyargs, *filter(None, (given.vararg, given.kwarg))]
    return sum(parameter.arg not in ("self", "cls") for parameter in every)


def test_no_function_takes_more_than_can_be_remembered() -> None:
    many = {
        f"{path.relative_to(ROOT)}: {name}"
        for path, tree in sources(PACKAGE)
        for name, node in functions(tree)
        if isinstance(node, Function) and parameters(node) > MOST_PARAMETERS
    }
    assert many == set(MANY_PARAMETERS)


def test_what_is_public_says_what_it_is() -> None:
    """Methods that a protocol or a base class describes may leave it to that."""
    silent = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {name}"
        for path, tree in sources(PACKAGE)
        if not is_training(path)
        for name, node in functions(tree)
        if is_seen(name, tree) and not ast.get_docstring(node)
    ]
    assert not silent, "\n".join(["", *silent])


def is_seen(name: str, tree: ast.Module) -> bool:
    """Whether others may use it: its name and those of the classes around it are public, and no function is."""
    known = dict(functions(tree))
    parents = name.split(".")[:-1]
    above = [known[".".join(parents[: i + 1])] for i in range(len(parents))]
    return not any(part.startswith("_") for part in name.split(".")) and all(
        isinstance(node, ast.ClassDef) for node in above
    )
