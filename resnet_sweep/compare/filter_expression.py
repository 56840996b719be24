"""Filter expressions such as `optim.lr < 0.1 and state == "finished"`, and the fields they name."""

import ast
import operator
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from resnet_sweep.compare.format import shown
from resnet_sweep.compare.loaded_run import LoadedRun
from resnet_sweep.errors import ConfigError
from resnet_sweep.runs.signature import normalize_number

RunFields = Mapping[str, Any]
# Returns the value of a part of an expression for a run.
_ValueOf = Callable[[RunFields], Any]

_COMPARISONS: Mapping[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.In: lambda value, values: value in values,
    ast.NotIn: lambda value, values: value not in values,
}
# As configs and tables have them, beside Python's own names for them.
_LITERALS = {"null": None, "true": True, "false": False}


def run_fields(run: LoadedRun) -> RunFields:
    """Return all fields of a run that it can be filtered, sorted and grouped by.

    Settings have their names in the config (`optim.lr`); the name of a group alone is the choice
    made there (`optim`). The others are named as in `run.json` (`best.val_acc`, `seconds`, `host`),
    where `best` and `final` alone are the validation accuracies; `time` and `run` are the names
    that the table gives to `seconds` and to the run's name.
    """
    record = run.record
    recorded = (
        "reason",
        "parameters",
        "gap",
        "seconds",
        "started",
        "ended",
        "host",
        "device",
        "threads",
        "precision",
        "git_commit",
        "fingerprint",
    )
    return {
        **{name: normalize_number(value) for name, value in run.config.items()},
        **record.choices,
        "run": run.name,
        "state": run.state,
        "best": run.best_accuracy,
        "final": run.final_accuracy,
        "time": record.seconds,
        **{f"best.{name}": value for name, value in (record.best or {}).items()},
        **{f"final.{name}": value for name, value in (record.final or {}).items()},
        **{name: getattr(record, name) for name in recorded},
    }


def check_fields(
    names: Iterable[str], runs: Iterable[RunFields], in_expression: bool = True
) -> None:
    """Check that for each of the names some run has a field.

    Args:
        names: the names of fields.
        runs: the fields of each run; without runs, no name is wrong.
        in_expression: whether a name may be text that lacks its quotes.

    Raises:
        ConfigError: no run has it; the error names the most similar field.
    """
    known = {name for fields in runs for name in fields}
    for name in sorted(names):
        if known and name not in known:
            similar = get_close_matches(name, sorted(known), n=1)
            hint = f"did you mean {shown(similar[0])}?" if similar else "use one such as optim.lr"
            if in_expression and "." not in name:
                quoted = f'write "{shown(name)}" if it is text'
                hint = f"{hint} Or {quoted}" if similar else quoted
            raise ConfigError(f"{shown(name)} isn't a setting or result of these runs: {hint}")


class FilterExpression:
    """A condition on runs, in a subset of Python's grammar that can only compare.

    It has comparisons, `and`, `or`, `not`, `in`, literals (with null, true and false), and the
    names of fields, which may have dots. A comparison of values that have no order, such as of a
    number with a field that the run doesn't have, is false.

    Attributes:
        text: the expression.
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
                self._value_of = self._compiled(ast.parse(text, mode="eval").body)
        except (SyntaxError, RecursionError, MemoryError, ValueError) as error:
            if isinstance(error, ConfigError):
                raise
            reason = error.msg if isinstance(error, SyntaxError) else str(error)
            raise self._error(f"can't be read ({reason})") from error

    def matches(self, fields: RunFields) -> bool:
        """Return whether it is true of a run; a field that the run doesn't have is None."""
        return bool(self._value_of(fields))

    def _compiled(self, node: ast.expr) -> _ValueOf:
        match node:
            case ast.Constant(value=bool() | int() | float() | str() | None as value):
                return lambda fields: value
            case ast.Name(id=name) if name in _LITERALS:
                return lambda fields: _LITERALS[name]
            case ast.Name() | ast.Attribute() if _is_name(node):
                name = ast.unparse(node)
                self.names.add(name)
                return lambda fields: fields.get(name)
            case ast.List(elts=elements) | ast.Tuple(elts=elements):
                entries = [self._compiled(element) for element in elements]
                return lambda fields: [entry(fields) for entry in entries]
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                negated = self._compiled(operand)
                return lambda fields: not negated(fields)
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
                return lambda fields: -value
            case ast.BoolOp(op=connective, values=values):
                operands = [self._compiled(value) for value in values]
                decisive = isinstance(connective, ast.Or)
                return lambda fields: _connected(operands, decisive, fields)
            case ast.Compare(left=left, ops=ops, comparators=others) if all(
                type(op) in _COMPARISONS for op in ops
            ):
                operands = [self._compiled(operand) for operand in (left, *others)]
                comparisons = [_COMPARISONS[type(op)] for op in ops]
                return lambda fields: _compared(operands, comparisons, fields)
        source = ast.get_source_segment(self.text, node)
        raise self._error(f"has {source}, which isn't allowed")

    def _error(self, what: str) -> ConfigError:
        return ConfigError(
            f"the condition {shown(self.text)} {shown(what)}: write comparisons of names and "
            "values, such as optim.lr < 0.1 and state == 'finished'"
        )


def _is_name(node: ast.expr) -> bool:
    parts = (ast.Name, ast.Attribute, ast.Load)
    return all(isinstance(part, parts) for part in ast.walk(node))


def _connected(operands: Iterable[_ValueOf], decisive: bool, fields: RunFields) -> Any:
    """Return the first value that decides `and` (False) or `or` (True), or else the last."""
    value = None
    for operand in operands:
        value = operand(fields)
        if bool(value) == decisive:
            break
    return value


def _compared(
    operands: Sequence[_ValueOf],
    comparisons: Iterable[Callable[[Any, Any], bool]],
    fields: RunFields,
) -> bool:
    """Return whether all comparisons of neighbors hold; what has no order doesn't."""
    values = [operand(fields) for operand in operands]
    try:
        return all(map(operator.call, comparisons, values, values[1:]))
    except TypeError:
        return False
