"""Filter expressions such as `optim.lr < 0.1 and state == "finished"`, and the fields they name."""

import ast
import operator
import warnings
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from resnet_sweep.compare.format import shown
from resnet_sweep.compare.loaded_run import LoadedRun
from resnet_sweep.errors import ConfigError
from resnet_sweep.runs.signature import plain

RunFields = Mapping[str, Any]

_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.In: lambda value, values: value in values,
    ast.NotIn: lambda value, values: value not in values,
}


def run_fields(run: LoadedRun) -> RunFields:
    """Return all fields of a run that it can be filtered, sorted and grouped by.

    Settings have their names in the config (`optim.lr`); the name of a group alone is the choice
    made there (`optim`). The others are named as in `run.json` (`best.val_acc`, `seconds`, `host`),
    where `best` and `final` alone are the validation accuracies; `time` and `run` are the names
    that the table gives to `seconds` and to the run's name.
    """
    record = run.record
    return {
        **{name: plain(value) for name, value in run.config.items()},
        **record.choices,
        "run": run.name,
        "state": run.state,
        "reason": record.reason,
        "parameters": record.parameters,
        "best": run.best_accuracy,
        "final": run.final_accuracy,
        **{f"best.{name}": value for name, value in (record.best or {}).items()},
        **{f"final.{name}": value for name, value in (record.final or {}).items()},
        "gap": record.gap,
        "seconds": record.seconds,
        "time": record.seconds,
        "started": record.started,
        "ended": record.ended,
        "host": record.host,
        "device": record.device,
        "threads": record.threads,
        "precision": record.precision,
        "git_commit": record.git_commit,
        "fingerprint": record.fingerprint,
    }


def check_fields(names: Iterable[str], runs: Iterable[RunFields]) -> None:
    """Check that for each of the names some run has a field.

    Raises:
        ConfigError: no run has it; the error names the most similar field.
    """
    known = {name for fields in runs for name in fields}
    for name in sorted(names):
        # Without runs, nothing is known to be misspelt.
        if known and name not in known:
            similar = get_close_matches(name, sorted(known), n=1, cutoff=0.5)
            hint = f"did you mean {shown(similar[0])}?" if similar else "name one such as optim.lr"
            raise ConfigError(f"none of the runs has {shown(name)}: {hint}")


class FilterExpression:
    """A condition on runs, in a subset of Python's grammar that can only compare.

    It has comparisons, `and`, `or`, `not`, `in`, literals, and the names of fields, which may have
    dots. A comparison of values that have no order, such as of a number with a field that the run
    doesn't have, is false.

    Args:
        text: the expression.

    Attributes:
        text: as above.
        names: the fields that it uses.

    Raises:
        ConfigError: the text isn't such an expression.
    """

    def __init__(self, text: str) -> None:
        self.text = text = text.strip()
        self.names: set[str] = set()
        try:
            # Python warns of comparisons that look like mistakes in a program.
            with warnings.catch_warnings(action="ignore"):
                self._tree = ast.parse(text, mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            reason = error.msg if isinstance(error, SyntaxError) else str(error)
            raise self._error(f"can't be read ({reason})") from error
        self._check(self._tree)

    def matches(self, fields: RunFields) -> bool:
        """Return whether it is true of a run; a field that the run doesn't have is None."""
        return bool(self._value(self._tree, fields))

    def _check(self, node: ast.AST) -> None:
        match node:
            case ast.Name() | ast.Attribute():
                self.names.add(self._name(node))
                return
            case ast.Constant(value=bool() | int() | float() | str() | None):
                return
            case ast.BoolOp() | ast.List() | ast.Tuple():
                pass
            case ast.UnaryOp(op=ast.Not()):
                pass
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float())):
                pass
            case ast.Compare(ops=ops) if all(
                type(comparison) in _COMPARISONS for comparison in ops
            ):
                pass
            case _:
                raise self._error(f"has {self._source(node)}, which isn't allowed")
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self._check(child)

    def _name(self, node: ast.AST) -> str:
        parts = []
        first = node
        while isinstance(first, ast.Attribute):
            parts.append(first.attr)
            first = first.value
        if not isinstance(first, ast.Name):
            raise self._error(f"has {self._source(node)}, which isn't allowed")
        return ".".join([first.id, *reversed(parts)])

    def _source(self, node: ast.AST) -> str:
        return ast.get_source_segment(self.text, node) or ""

    def _error(self, what: str) -> ConfigError:
        return ConfigError(
            f"the condition {shown(self.text)} {shown(what)}: write comparisons of names and "
            "values, such as optim.lr < 0.1 and state == 'finished'"
        )

    def _value(self, node: ast.AST, fields: RunFields) -> Any:
        match node:
            case ast.Constant(value=value):
                return value
            case ast.List(elts=entries):
                return [self._value(entry, fields) for entry in entries]
            case ast.Tuple(elts=entries):
                return tuple(self._value(entry, fields) for entry in entries)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return not self._value(operand, fields)
            case ast.UnaryOp(operand=operand):
                return -self._value(operand, fields)
            case ast.BoolOp(op=connective, values=operands):
                stop = isinstance(connective, ast.Or)
                for operand in operands:
                    value = self._value(operand, fields)
                    if bool(value) == stop:
                        break
                return value
            case ast.Compare(left=left, ops=comparisons, comparators=others):
                value = self._value(left, fields)
                for comparison, other in zip(comparisons, others, strict=True):
                    right = self._value(other, fields)
                    if not _compare(comparison, value, right):
                        return False
                    value = right
                return True
        return fields.get(self._name(node))


def _compare(comparison: ast.cmpop, left: Any, right: Any) -> bool:
    try:
        return _COMPARISONS[type(comparison)](left, right)
    except TypeError:
        return False
