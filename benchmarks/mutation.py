"""How many small faults in the package the tests find.

python -m benchmarks.mutation [--seed 0] [--survivors-of REVISION]

A fault is one changed operator, constant or condition, or one statement that is left out. They are
drawn by the seed: 10 in training/, 8 in runs/, 7 in sweeps/ and 5 elsewhere. Each is made in a copy
of the working tree, and the default tier of the tests runs on that copy until its first failure,
beginning with the test files that import the changed module. What no test finds can be run against
the test files of another revision. Prints a row of a table for each fault.
"""

import argparse
import ast
import io
import os
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

ROOT = Path(__file__).parents[1]
PACKAGE = "resnet_sweep"
COUNTS = {"training": 10, "runs": 8, "sweeps": 7, "": 5}
# A fault that has the tests run longer than this has been found: something hangs.
LIMIT_SECONDS = 1500
HEAD = "| Fault | Found | By |\n|---|---|---|"
OPERATORS = {
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.Is: "is not",
    ast.IsNot: "is",
    ast.In: "not in",
    ast.NotIn: "in",
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "/",
    ast.Div: "*",
    ast.FloorDiv: "/",
    ast.And: "or",
    ast.Or: "and",
}
# What this program can't reach without a GPU isn't changed.
ELSEWHERE = ("cuda", "mps", "nccl")


@dataclass(frozen=True)
class Fault:
    """A changed piece of a source file.

    Attributes:
        path: of the file, relative to the working tree.
        line: where the piece begins, from 1.
        start: its first byte in the file.
        end: the byte after its last.
        old: the piece.
        new: the piece that replaces it.
    """

    path: Path
    line: int
    start: int
    end: int
    old: str
    new: str

    def __str__(self) -> str:
        old, new = (" ".join(text.split()).replace("|", "\\|") for text in (self.old, self.new))
        return f"`{self.path}:{self.line}`: `{old}` becomes `{new}`"

    @property
    def module(self) -> str:
        """The name of the changed module."""
        return ".".join(self.path.with_suffix("").parts).removesuffix(".__init__")


class Finder(ast.NodeVisitor):
    """Collect the faults that one file can have."""

    def __init__(self, path: Path, source: str) -> None:
        self.path, self.source = path, source.encode()
        self.faults: list[Fault] = []
        self.lines = [0]
        for line in self.source.splitlines(keepends=True):
            self.lines.append(self.lines[-1] + len(line))
        self.visit(ast.parse(source))

    def _start(self, node: ast.AST) -> int:
        return self.lines[node.lineno - 1] + node.col_offset

    def _end(self, node: ast.AST) -> int:
        return self.lines[node.end_lineno - 1] + node.end_col_offset

    def _text(self, node: ast.AST) -> str:
        return self.source[self._start(node) : self._end(node)].decode()

    def _add(self, node: ast.AST, new: str) -> None:
        old = self._text(node)
        if not any(word in old.lower() for word in ELSEWHERE):
            self.faults.append(
                Fault(self.path, node.lineno, self._start(node), self._end(node), old, new)
            )

    def _replace_between(self, node: ast.expr, left: ast.expr, right: ast.expr, new: str) -> None:
        """Replace the operator between two parts of an expression."""
        between = self.source[self._end(left) : self._start(right)].decode()
        before, after = len(between) - len(between.lstrip(") \n")), len(between.rstrip("( \n"))
        if before < after and "#" not in between:
            operator = f"{between[:before]}{new}{between[after:]}"
            start, end = self._end(left) - self._start(node), self._start(right) - self._start(node)
            old = self._text(node).encode()
            self._add(node, (old[:start] + operator.encode() + old[end:]).decode())

    def visit_Compare(self, node: ast.Compare) -> None:
        if len(node.ops) == 1:
            self._replace_between(
                node, node.left, node.comparators[0], OPERATORS[type(node.ops[0])]
            )
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if type(node.op) in OPERATORS:
            self._replace_between(node, node.left, node.right, OPERATORS[type(node.op)])
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        self._replace_between(node, *node.values[:2], OPERATORS[type(node.op)])
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self._add(node, str(not node.value))
        elif isinstance(node.value, (int, float)):
            self._add(node, repr(node.value + 1))

    def _negate(self, node: ast.If | ast.IfExp | ast.While) -> None:
        # What is below a condition on the hardware isn't reached here.
        if not any(word in self._text(node.test).lower() for word in ELSEWHERE):
            self._add(node.test, f"not ({self._text(node.test)})")
            self.generic_visit(node)

    visit_If = visit_IfExp = _negate

    def _leave_out(self, node: ast.stmt) -> None:
        self._add(node, "pass")
        self.generic_visit(node)

    visit_Raise = visit_AugAssign = _leave_out

    def visit_Expr(self, node: ast.Expr) -> None:
        # Text that stands by itself is documentation.
        if not isinstance(node.value, ast.Constant):
            self._leave_out(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        # Without an assignment to a name, a NameError would follow at once.
        if not any(isinstance(target, ast.Name | ast.Tuple) for target in node.targets):
            self._add(node, "pass")
        self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value:
            self.visit(node.value)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for part in (*node.args.defaults, *filter(None, node.args.kw_defaults), *node.body):
            self.visit(part)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Messages aren't changed."""


def draw(seed: int) -> list[Fault]:
    """Draw the faults of a seed, in the order in which they are tried."""
    chance = random.Random(seed)
    found: dict[str, list[Fault]] = {part: [] for part in COUNTS}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        relative = path.relative_to(ROOT)
        part = relative.parts[1] if relative.parts[1] in COUNTS else ""
        found[part] += Finder(relative, path.read_text()).faults
    return [fault for part, count in COUNTS.items() for fault in chance.sample(found[part], count)]


def near_and_far(tests: Path, fault: Fault) -> tuple[list[str], list[str]]:
    """Return the test files that import the changed module or its package, and the others.

    Those that import the module itself come first.
    """
    package = fault.module.rpartition(".")[0]
    names = {
        f"tests/{path.name}": (fault.module in text) * 2 + (package in text)
        for path in sorted(tests.glob("test_*.py"))
        for text in [path.read_text()]
    }
    near = sorted((name for name in names if names[name]), key=lambda name: -names[name])
    return near, [name for name in names if not names[name]]


class Copy:
    """A copy of the working tree, in which faults are made and tests run.

    Args:
        folder: where it is made.
        revision: whose tests it has; None for those of the working tree.
    """

    def __init__(self, folder: Path, revision: str | None = None) -> None:
        self.top = folder / "copy"
        listed = subprocess.run(
            ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        for name in listed.splitlines():
            (self.top / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, self.top / name)
        if revision:
            shutil.rmtree(self.top / "tests")
            packed = subprocess.run(
                ["git", "archive", revision, "tests"], cwd=ROOT, capture_output=True, check=True
            )
            with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
                archive.extractall(self.top, filter="data")
        # Tests ask git for the files of the project.
        for words in (["init", "--quiet"], ["add", "--all"]):
            subprocess.run(["git", *words], cwd=self.top, check=True)
        self.tests = self.top / "tests"
        self.options = [] if revision else ["-m", "not slow", "-n", "0"]
        self.changes = 0

    def find(self, fault: Fault, only_near: bool = False) -> str | None:
        """Return the first test that fails by a fault; None if all pass.

        Args:
            fault: to make in this copy.
            only_near: run the test files alone that import the changed module or its package.

        Raises:
            RuntimeError: the test fails without the fault, too.
        """
        path = self.top / fault.path
        whole = path.read_bytes()
        self._write(path, whole[: fault.start] + fault.new.encode() + whole[fault.end :])
        try:
            near, far = near_and_far(self.tests, fault)
            found = self._run(near) or (None if only_near else self._run(far))
        finally:
            self._write(path, whole)
        if found and found.startswith("tests/") and self._run([found]):
            raise RuntimeError(f"{found} fails without {fault}, too: fix that first")
        return found

    def _write(self, path: Path, content: bytes) -> None:
        path.write_bytes(content)
        # Python takes compiled code for current if the time of the source, in seconds, is the same.
        self.changes += 2
        later = time.time() + self.changes
        os.utime(path, (later, later))

    def _run(self, names: list[str]) -> str | None:
        if not names:
            return None
        data = os.environ.get("RESNET_SWEEP_DATA") or ROOT.parent / "shared" / "data"
        try:
            done = subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "pytest",
                    "-x",
                    "-q",
                    "--tb=line",
                    "--timeout=300",
                    *self.options,
                    *names,
                ],
                cwd=self.top,
                capture_output=True,
                text=True,
                timeout=LIMIT_SECONDS,
                check=False,
                env=os.environ
                | {
                    "PYTHONPATH": str(self.top),
                    "OMP_NUM_THREADS": "1",
                    "RESNET_SWEEP_DATA": str(data),
                },
            )
        except subprocess.TimeoutExpired:
            return "timeout"
        if done.returncode in (0, 5):
            return None
        lines = [
            line
            for line in done.stdout.splitlines()
            if line.startswith(("FAILED tests/", "ERROR tests/"))
        ]
        if not lines:
            raise RuntimeError(
                f"the tests can't be run: {done.stdout[-1000:]}{done.stderr[-1000:]}"
            )
        return lines[0].split(" - ")[0].split(" ", 1)[1]


def find_all(
    faults: list[Fault], revision: str | None, side_by_side: int, only_near: bool
) -> Iterator[str | None]:
    """Yield for each fault the first test that fails by it; None if all pass."""
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(side_by_side) as pool:
        copies: SimpleQueue[Copy] = SimpleQueue()
        for number in range(side_by_side):
            copies.put(Copy(Path(name) / str(number), revision))

        def find(fault: Fault) -> str | None:
            copy = copies.get()
            try:
                found = copy.find(fault, only_near)
            finally:
                copies.put(copy)
            print(f"{fault.path}:{fault.line}: {found}", file=sys.stderr, flush=True)
            return found

        yield from pool.map(find, faults)


def main() -> None:
    """Make the faults of a seed, and print which test finds each."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.mutation",
        description="Count how many small faults in the package the default tier of the tests "
        "finds.",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the faults (default: 0)")
    parser.add_argument(
        "--survivors-of",
        metavar="REVISION",
        help="run what no test finds against the test files of this revision that concern it",
    )
    parser.add_argument(
        "--near",
        action="store_true",
        help="run the test files alone that import the changed module or its package",
    )
    parser.add_argument("--only", type=int, nargs="*", help="the faults of these rows alone")
    parser.add_argument("--list", action="store_true", help="list the faults, and run no test")
    parser.add_argument(
        "--side-by-side", type=int, default=os.cpu_count() or 1, help="faults at once"
    )
    arguments = parser.parse_args()
    faults = draw(arguments.seed)
    if arguments.only:
        faults = [faults[number - 1] for number in arguments.only]
    if arguments.list:
        print(*(f"{number}. {fault}" for number, fault in enumerate(faults, 1)), sep="\n")
        return
    print(HEAD, flush=True)
    survivors = []
    for fault, found in zip(
        faults, find_all(faults, None, arguments.side_by_side, arguments.near), strict=True
    ):
        print(f"| {fault} | {'yes' if found else 'no'} | {found or ''} |", flush=True)
        if not found:
            survivors.append(fault)
    print(f"\n{len(faults) - len(survivors)} of {len(faults)} faults were found.", flush=True)
    if arguments.survivors_of and survivors:
        print(f"\nWhat survived, against the tests of {arguments.survivors_of}:\n\n{HEAD}")
        later = find_all(survivors, arguments.survivors_of, arguments.side_by_side, True)
        for fault, found in zip(survivors, later, strict=True):
            print(f"| {fault} | {'yes' if found else 'no'} | {found or ''} |", flush=True)


if __name__ == "__main__":
    main()
