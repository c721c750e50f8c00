"""Two runs from one seed do the same: only adapters read clocks and roll dice, no set is walked in its own order.

The linter knows names it was told (``banned-api``), file by file, and a file of the simulations may do anything;
``tests/sync/test_purity.py`` looks at what ``sync`` imports. This looks at every use, whatever it was imported as, and
at the order of sets: that of strings and bytes changes with each process, and with it whatever is made of it. What is
inferred is what a reader of one function would see: literals, ``set(...)``, operators, annotations, assignments.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("sync", "edge", "cloud", "simulations")

# The adapters: where the real clock and the real dice are read.
ADAPTERS = {"edge/ports.py", "cloud/ports.py"}
# They run real processes against the real clock, and are not part of any simulation. The simulator's command line says
# how long it took, and draws the seeds that nobody chose.
REAL_TIME = (
    *("simulations/benchmarks/", "simulations/crash/", "simulations/demo/"),
    *("simulations/device.py", "simulations/growth.py", "simulations/__main__.py"),
)
# Waiting for another process is waiting in real time, whoever's clock it is: (file, what is called).
WAITS = {
    ("cloud/server/home.py", "time.sleep"),
    ("edge/agent/embedder_adapters.py", "time.sleep"),
    ("edge/link/live.py", "time.sleep"),
    ("edge/link/runner.py", "time.sleep"),
    ("edge/storage/store_lock.py", "time.sleep"),
    ("edge/storage/tables_borrowed.py", "time.sleep"),
}

FORBIDDEN_MODULES = ("time", "random", "secrets", "numpy.random")
FORBIDDEN = {
    *("datetime.datetime.now", "datetime.datetime.utcnow", "datetime.datetime.today", "datetime.date.today"),
    *("os.urandom", "os.getrandom", "uuid.uuid1", "uuid.uuid4"),
}
SEEDED = {"random.Random", "numpy.random.default_rng"}  # simulations may, with a seed
SET_NAMES = {"set", "frozenset", "Set", "AbstractSet", "MutableSet"}
SET_METHODS = {"union", "intersection", "difference", "symmetric_difference", "copy"}
# What does not depend on the order in which it is given things; of ``min`` and ``max`` only without a key, for with one
# the first of those that are equal by it is taken.
ORDERLESS = {"sorted", "set", "frozenset", "len", "any", "all", "min", "max", "bool"}
IN_ORDER = {
    "list",
    "tuple",
    "enumerate",
    "iter",
    "next",
    "map",
    "filter",
    "zip",
    "reversed",
    "sum",
    "min",
    "max",
    "print",
}
IN_ORDER_METHODS = {"join", "extend", "fromkeys", "writelines", "executemany", "chain", "from_iterable", "gather"}


def files() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# -- clocks and dice --------------------------------------------------------------------------------------------------


def imported(tree: ast.AST) -> dict[str, str]:
    """Local name → what it was imported as, in full."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.partition(".")[0]
                names[alias.asname or first] = alias.name if alias.asname else first
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
    return names


def dotted(node: ast.expr, names: dict[str, str]) -> str:
    """The full name of what an expression refers to; empty if it is not an imported thing."""
    if isinstance(node, ast.Name):
        return names.get(node.id, "")
    if isinstance(node, ast.Attribute):
        owner = dotted(node.value, names)
        return f"{owner}.{node.attr}" if owner else ""
    return ""


def clocks_and_dice(tree: ast.AST) -> Iterator[tuple[int, str, ast.AST]]:
    """(line, full name, node) of every use of what is forbidden, called or handed on."""
    names = imported(tree)
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Name, ast.Attribute)) or id(node) in inner:
            continue
        full = dotted(node, names)
        if full in FORBIDDEN or any(full == it or full.startswith(it + ".") for it in FORBIDDEN_MODULES):
            yield node.lineno, full, node


def is_seeded(tree: ast.AST, full: str, node: ast.AST) -> bool:
    """``random.Random(seed)``, or the type in an annotation."""
    if full not in SEEDED:
        return False
    calls = [call for call in ast.walk(tree) if isinstance(call, ast.Call) and call.func is node]
    return all(call.args or call.keywords for call in calls)


@pytest.mark.parametrize("path", files(), ids=name_of)
def test_only_the_adapters_read_clocks_and_roll_dice(path: Path) -> None:
    name = name_of(path)
    if name in ADAPTERS or name.startswith(REAL_TIME):
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = [
        f"{name}:{line}: {full}"
        for line, full, node in clocks_and_dice(tree)
        if (name, full) not in WAITS and not (name.startswith("simulations/") and is_seeded(tree, full, node))
    ]
    assert not found, "the clock and the dice are constructor arguments (sync.ports)"


# -- sets -------------------------------------------------------------------------------------------------------------


class SetWalker(ast.NodeVisitor):
    """Finds walks over sets in one module; ``found`` has (line, what)."""

    def __init__(self, tree: ast.Module) -> None:
        self.found: list[tuple[int, str]] = []
        self._known: list[set[str]] = [set()]  # names that hold sets: of the module, then of each function inside
        self._returning = {
            node.name
            for node in ast.walk(tree)
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and _says_set(node.returns)
        }
        self._fields = {
            node.target.attr if isinstance(node.target, ast.Attribute) else node.target.id
            for node in ast.walk(tree)
            if isinstance(node, ast.AnnAssign)
            and _says_set(node.annotation)
            and isinstance(node.target, (ast.Attribute, ast.Name))
        }
        self._excused: set[int] = set()  # comprehensions in the hands of what does not care for the order
        self._learn(tree.body)
        self.visit(tree)

    # what is a set

    def is_set(self, node: ast.expr) -> bool:
        if isinstance(node, (ast.Set, ast.SetComp)):
            return True
        if isinstance(node, ast.Name):
            return any(node.id in names for names in self._known)
        if isinstance(node, ast.Attribute):
            return node.attr in self._fields and isinstance(node.value, ast.Name)
        if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.BitOr, ast.BitAnd, ast.BitXor, ast.Sub)):
            return any(self.is_set(side) or _is_keys(side) for side in (node.left, node.right))
        if isinstance(node, ast.IfExp):
            return self.is_set(node.body) or self.is_set(node.orelse)
        if isinstance(node, ast.BoolOp):
            return any(map(self.is_set, node.values))
        if isinstance(node, ast.NamedExpr):
            return self.is_set(node.value)
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name):
                return node.func.id in SET_NAMES or node.func.id in self._returning
            if isinstance(node.func, ast.Attribute):
                own = isinstance(node.func.value, ast.Name) and node.func.attr in self._returning
                return own or (node.func.attr in SET_METHODS and self.is_set(node.func.value))
        return False

    def _learn(self, body: list[ast.stmt]) -> None:
        """Names that are given a set anywhere in this body, but for functions and classes inside it."""
        pending: list[ast.AST] = list(body)
        while pending:
            node = pending.pop()
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
                continue
            if isinstance(node, ast.Assign) and self.is_set(node.value):
                self._known[-1] |= {target.id for target in node.targets if isinstance(target, ast.Name)}
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                self._known[-1] |= {node.target.id} if _says_set(node.annotation) else set()
            elif isinstance(node, ast.NamedExpr) and self.is_set(node.value):
                self._known[-1].add(node.target.id)
            pending += ast.iter_child_nodes(node)

    # where it is walked

    def _function_of(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        self._known.append({argument.arg for argument in arguments if _says_set(argument.annotation)})
        self._learn(node.body)
        self._learn(node.body)  # what was given a name that was learned later
        self.generic_visit(node)
        self._known.pop()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._function_of(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._function_of(node)

    def visit_For(self, node: ast.For) -> None:
        self._walk(node.iter, "for")
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if isinstance(node.op, ast.Add):  # a list takes anything that can be walked
            self._walk(node.value, "+=")
        self.generic_visit(node)

    def visit_ListComp(self, node: ast.ListComp) -> None:
        self._comprehension(node, node.generators)

    def visit_GeneratorExp(self, node: ast.GeneratorExp) -> None:
        self._comprehension(node, node.generators)

    def visit_DictComp(self, node: ast.DictComp) -> None:
        self._comprehension(node, node.generators)

    def visit_Starred(self, node: ast.Starred) -> None:
        if id(node) not in self._excused:
            self._walk(node.value, "*")
        self.generic_visit(node)

    def visit_Set(self, node: ast.Set) -> None:
        self._excused |= {id(element) for element in node.elts}
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        called = node.func.id if isinstance(node.func, ast.Name) else ""
        method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        keyed = any(keyword.arg == "key" for keyword in node.keywords)
        if called == "sorted" or (called in ORDERLESS and not keyed):
            self._excused |= {id(argument) for argument in node.args}
        elif called in IN_ORDER or method in IN_ORDER_METHODS:
            for argument in node.args:
                self._walk(argument, called or method)
        elif method == "pop" and not node.args and isinstance(node.func, ast.Attribute):
            self._walk(node.func.value, "pop")
        self.generic_visit(node)

    def _comprehension(self, node: ast.AST, generators: list[ast.comprehension]) -> None:
        if id(node) not in self._excused:
            for generator in generators:
                self._walk(generator.iter, "comprehension")
        self.generic_visit(node)

    def _walk(self, node: ast.expr, how: str) -> None:
        if self.is_set(node):
            self.found.append((node.lineno, f"{how} over {ast.unparse(node)}"))


def _says_set(annotation: ast.expr | None) -> bool:
    if isinstance(annotation, ast.BinOp):
        return _says_set(annotation.left) or _says_set(annotation.right)
    if isinstance(annotation, ast.Subscript):
        return _says_set(annotation.value)
    return isinstance(annotation, ast.Name) and annotation.id in SET_NAMES


def _is_keys(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("keys", "items")


def test_the_exceptions_are_needed() -> None:
    used: set[tuple[str, str]] = set()
    for path in files():
        uses = clocks_and_dice(ast.parse(path.read_text(encoding="utf-8")))
        used |= {(name_of(path), full) for _, full, _ in uses}
    reading = {name for name, full in used if full != "time.sleep"}
    assert used >= WAITS
    assert reading >= ADAPTERS
    for prefix in REAL_TIME:
        assert any(name.startswith(prefix) for name, _ in used), f"{prefix} needs no exception"


@pytest.mark.parametrize("path", files(), ids=name_of)
def test_no_set_is_walked_in_its_own_order(path: Path) -> None:
    name = name_of(path)
    walker = SetWalker(ast.parse(path.read_text(encoding="utf-8")))
    found = [f"{name}:{line}: {what}" for line, what in walker.found]
    assert not found, "the order of a set differs from run to run: sorted(...)"


# -- do they find anything? -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        "import time\ntime.time()",
        "import time as t\nx = t.monotonic_ns",
        "from time import perf_counter\nperf_counter()",
        "from datetime import datetime\ndatetime.now()",
        "import datetime\ndatetime.datetime.utcnow()",
        "from datetime import date as d\nd.today()",
        "import os\nos.urandom(8)",
        "from secrets import token_bytes\ntoken_bytes(4)",
        "import uuid\nuuid.uuid4()",
        "import numpy as np\nnp.random.rand()",
        "import random\nrandom.random()",
    ],
)
def test_clocks_and_dice_are_found(source: str) -> None:
    assert list(clocks_and_dice(ast.parse(source)))


def test_a_seed_is_asked_for() -> None:
    for source, seeded in (("random.Random(seed)", True), ("random.Random()", False)):
        tree = ast.parse(f"import random\n{source}")
        ((_, full, node),) = clocks_and_dice(tree)
        assert is_seeded(tree, full, node) == seeded


@pytest.mark.parametrize(
    "source",
    [
        "for x in {1, 2}: pass",
        "x = [y for y in set(z)]",
        "a = {1}\nb = list(a)",
        "def f(a: set[str]) -> str:\n    return ','.join(a)",
        "def f(a: frozenset[str] | None) -> None:\n    print(*a)",
        "def f(a):\n    b = a.keys() - {1}\n    return tuple(b)",
        "def f(a):\n    b = set(a)\n    c = b | a\n    return {k: 1 for k in c}",
        "class A:\n    def f(self):\n        self._s: set[int] = set()\n    def g(self):\n        return [*self._s]",
        "def g() -> set[int]: ...\nx = dict.fromkeys(g())",
        "a = set()\nb = a.pop()",
        "a = set()\nb = max(a, key=len)",
        "def f(a: list[int], b: set[int]) -> None:\n    a += b - {1}",
        "a = set()\nb = sum(x for x in a.union({1}))",
    ],
)
def test_walks_over_sets_are_found(source: str) -> None:
    assert SetWalker(ast.parse(source)).found


@pytest.mark.parametrize(
    "source",
    [
        "a = set()\nb = sorted(a)",
        "a = set()\nb = sorted(x for x in a)",
        "a = set()\nb = 1 in a",
        "a = set()\nb = {*a, 1}",
        "a = set()\nb = {x for x in a}",
        "a = set()\nb = max(a)",
        "a = set()\nb = any(x for x in a)",
        "for x in [1, 2]: pass",
    ],
)
def test_what_needs_no_order_is_let_be(source: str) -> None:
    assert not SetWalker(ast.parse(source)).found
