"""Count how many mutants of the package the default tier of the tests kills.

python -m benchmarks.mutation [--seed 0] [--survivors-of REVISION]

A mutant is the package with one small fault: a changed operator, constant or condition, or a
removed statement. The seed selects 10 mutants of training/, 8 of runs/, 7 of sweeps/ and 5 of the
rest. The tests run on each mutant, in a copy of the working tree, until the first failure, which
kills the mutant. The test files that import the changed module run first. `--survivors-of` runs the
test files of another revision on the mutants that survive. The result is a table with a row for
each mutant.
"""

import ast
import io
import os
import random
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from benchmarks.command_line import make_parser
from benchmarks.markdown import table_header, table_row
from benchmarks.processes import ROOT, temporary_folder

PACKAGE = "resnet_sweep"
COUNTS = {"training": 10, "runs": 8, "sweeps": 7, "": 5}
# A mutant whose tests take longer hangs, which counts as killed.
LIMIT_SECONDS = 1500
HEADER = table_header("Mutant", "Killed", "By")
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
# Code with these words isn't changed, because tests without a GPU don't reach it.
HARDWARE_WORDS = ("cuda", "mps", "nccl")


@dataclass(frozen=True)
class Mutant:
    """A change to a source file.

    Attributes:
        path: of the file, relative to the working tree.
        line: of the change, from 1.
        start: offset of the first changed byte.
        end: offset after the last changed byte.
        old: the replaced code.
        new: the code that replaces it.
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
        """Return the name of the changed module."""
        return ".".join(self.path.with_suffix("").parts).removesuffix(".__init__")


class MutantCollector(ast.NodeVisitor):
    """Collects all mutants of one file."""

    def __init__(self, path: Path, source: str) -> None:
        self.path, self.source = path, source.encode()
        self.mutants: list[Mutant] = []
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
        if not any(word in old.lower() for word in HARDWARE_WORDS):
            self.mutants.append(
                Mutant(self.path, node.lineno, self._start(node), self._end(node), old, new)
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
        # The branches of a condition on the hardware aren't reached either.
        if not any(word in self._text(node.test).lower() for word in HARDWARE_WORDS):
            self._add(node.test, f"not ({self._text(node.test)})")
            self.generic_visit(node)

    visit_If = visit_IfExp = _negate

    def _remove(self, node: ast.stmt) -> None:
        self._add(node, "pass")
        self.generic_visit(node)

    visit_Raise = visit_AugAssign = _remove

    def visit_Expr(self, node: ast.Expr) -> None:
        # A constant as a statement is a docstring.
        if not isinstance(node.value, ast.Constant):
            self._remove(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        # Without the assignment to a name, its next use would raise a NameError.
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
        """Skip f-strings, since most are messages."""


def sample_mutants(seed: int) -> list[Mutant]:
    """Return the mutants of a seed, in the order in which they are tested."""
    generator = random.Random(seed)
    mutants: dict[str, list[Mutant]] = {part: [] for part in COUNTS}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        relative = path.relative_to(ROOT)
        part = relative.parts[1] if relative.parts[1] in COUNTS else ""
        mutants[part] += MutantCollector(relative, path.read_text()).mutants
    return [
        mutant
        for part, count in COUNTS.items()
        for mutant in generator.sample(mutants[part], count)
    ]


def split_test_files(tests: Path, mutant: Mutant) -> tuple[list[str], list[str]]:
    """Return the test files that import the changed module or its package, and all others.

    The files that import the module itself come first.
    """
    package = mutant.module.rpartition(".")[0]
    names = {
        f"tests/{path.name}": (mutant.module in text) * 2 + (package in text)
        for path in sorted(tests.glob("test_*.py"))
        for text in [path.read_text()]
    }
    near = sorted((name for name in names if names[name]), key=lambda name: -names[name])
    return near, [name for name in names if not names[name]]


class Copy:
    """A copy of the working tree, in which tests run on mutants.

    Args:
        folder: that contains the copy.
        revision: whose tests replace those of the working tree; None keeps them.
    """

    def __init__(self, folder: Path, revision: str | None = None) -> None:
        self.top = folder / "copy"
        files = subprocess.run(
            ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        for name in files.splitlines():
            (self.top / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, self.top / name)
        if revision:
            shutil.rmtree(self.top / "tests")
            archived = subprocess.run(
                ["git", "archive", revision, "tests"], cwd=ROOT, capture_output=True, check=True
            )
            with tarfile.open(fileobj=io.BytesIO(archived.stdout)) as archive:
                archive.extractall(self.top, filter="data")
        # Some tests list the files of the project with git.
        for arguments in (["init", "--quiet"], ["add", "--all"]):
            subprocess.run(["git", *arguments], cwd=self.top, check=True)
        self.tests = self.top / "tests"
        self.options = [] if revision else ["-m", "not slow", "-n", "0"]
        self.changes = 0

    def test(self, mutant: Mutant, only_near: bool = False) -> str | None:
        """Return the first test that fails on a mutant; None if the mutant survives.

        Args:
            mutant: to test in this copy.
            only_near: run only the test files that import the changed module or its package.

        Raises:
            RuntimeError: the test also fails without the change.
        """
        path = self.top / mutant.path
        source = path.read_bytes()
        self._write(path, source[: mutant.start] + mutant.new.encode() + source[mutant.end :])
        try:
            near, far = split_test_files(self.tests, mutant)
            failed = self._run(near) or (None if only_near else self._run(far))
        finally:
            self._write(path, source)
        if failed and failed.startswith("tests/") and self._run([failed]):
            raise RuntimeError(f"{failed} also fails without the change {mutant}: fix it first")
        return failed

    def _write(self, path: Path, content: bytes) -> None:
        path.write_bytes(content)
        # Python reuses compiled code if the source has the same modification time in seconds.
        self.changes += 2
        later = time.time() + self.changes
        os.utime(path, (later, later))

    def _run(self, names: list[str]) -> str | None:
        if not names:
            return None
        data = os.environ.get("RESNET_SWEEP_DATA") or ROOT.parent / "shared" / "data"
        try:
            process = subprocess.run(
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
        if process.returncode in (0, 5):
            return None
        lines = [
            line
            for line in process.stdout.splitlines()
            if line.startswith(("FAILED tests/", "ERROR tests/"))
        ]
        if not lines:
            raise RuntimeError(
                f"cannot run the tests: {process.stdout[-1000:]}{process.stderr[-1000:]}"
            )
        return lines[0].split(" - ")[0].split(" ", 1)[1]


def test_all(
    mutants: list[Mutant], revision: str | None, jobs: int, only_near: bool
) -> Iterator[str | None]:
    """Yield for each mutant the first test that fails on it; None if the mutant survives."""
    with temporary_folder() as folder, ThreadPoolExecutor(jobs) as pool:
        copies: SimpleQueue[Copy] = SimpleQueue()
        for number in range(jobs):
            copies.put(Copy(folder / str(number), revision))

        def test(mutant: Mutant) -> str | None:
            copy = copies.get()
            try:
                failed = copy.test(mutant, only_near)
            finally:
                copies.put(copy)
            print(f"{mutant.path}:{mutant.line}: {failed}", file=sys.stderr, flush=True)
            return failed

        yield from pool.map(test, mutants)


def print_results(mutants: list[Mutant], failures: Iterator[str | None]) -> list[Mutant]:
    """Print a table, row by row as the results arrive, and return the survivors."""
    print(HEADER, flush=True)
    survivors = []
    for mutant, failed in zip(mutants, failures, strict=True):
        print(table_row(f"{mutant}", "yes" if failed else "no", failed or ""), flush=True)
        if not failed:
            survivors.append(mutant)
    return survivors


def main() -> None:
    """Test the mutants of a seed, and print which test kills each of them."""
    parser = make_parser("mutation", __doc__)
    parser.add_argument(
        "--seed", type=int, default=0, help="seed that selects the mutants (default: 0)"
    )
    parser.add_argument(
        "--survivors-of",
        metavar="REVISION",
        help="also test the survivors with the test files of this revision that import the "
        "changed module or its package",
    )
    parser.add_argument(
        "--near",
        action="store_true",
        help="run only the test files that import the changed module or its package",
    )
    parser.add_argument(
        "--only", type=int, nargs="*", metavar="N", help="test only the mutants of these rows"
    )
    parser.add_argument("--list", action="store_true", help="list the mutants without testing them")
    parser.add_argument(
        "--jobs",
        type=int,
        default=os.cpu_count() or 1,
        help="mutants tested at once (default: number of cores)",
    )
    arguments = parser.parse_args()
    mutants = sample_mutants(arguments.seed)
    if arguments.only:
        mutants = [mutants[number - 1] for number in arguments.only]
    if arguments.list:
        print(*(f"{number}. {mutant}" for number, mutant in enumerate(mutants, 1)), sep="\n")
        return
    failures = test_all(mutants, None, arguments.jobs, arguments.near)
    survivors = print_results(mutants, failures)
    killed = len(mutants) - len(survivors)
    print(f"\n{killed} of {len(mutants)} mutants were killed.", flush=True)
    if arguments.survivors_of and survivors:
        print(f"\nThe survivors, with the tests of {arguments.survivors_of}:\n")
        print_results(
            survivors, test_all(survivors, arguments.survivors_of, arguments.jobs, only_near=True)
        )


if __name__ == "__main__":
    main()
