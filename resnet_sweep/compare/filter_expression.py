"""Filter expressions, for example `optim.lr < 0.1 and state == "finished"`, and their fields."""

import ast
import operator
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from resnet_sweep.compare.format import safe_text
from resnet_sweep.compare.loaded_run import LoadedRun
from resnet_sweep.errors import ConfigError
from resnet_sweep.runs.signature import normalize_number

RunFields = Mapping[str, Any]
# A compiled part of an expression: returns its value for a run.
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
# Names in configs and tables, which are allowed in addition to Python's None, True and False.
_LITERALS = {"null": None, "true": True, "false": False}


def run_fields(run: LoadedRun) -> RunFields:
    """Return the fields by which a run can be filtered, sorted and grouped.

    Settings have their names in the config (`optim.lr`), and the name of a group is the choice
    made there (`optim`). Other fields have their names in `run.json` (`best.val_acc`, `seconds`,
    `host`); `best` and `final` are the validation accuracies, and `cpu_share` is the CPU share. As
    in the table, `time` is `seconds`, and `run` is the run's name. A further metric has the name of
    its column, and its best value. `tags`, a list, and `note` are the annotations.
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
        "code_commit",
        "fingerprint",
        "cpu_share",
        "reused_from",
    )
    return {
        **{name: normalize_number(value) for name, value in run.config.items()},
        **record.choices,
        **run.inputs,
        "run": run.name,
        "tags": run.tags,
        "note": run.note,
        "state": run.state,
        "best": run.best_accuracy,
        "final": run.final_accuracy,
        "time": record.seconds,
        **{f"best.{name}": value for name, value in (record.best or {}).items()},
        **{f"final.{name}": value for name, value in (record.final or {}).items()},
        **{f"usage.{name}": value for name, value in (record.usage or {}).items()},
        **{name: getattr(record, name) for name in recorded},
        **run.best_metrics,
    }


def check_fields(
    names: Iterable[str], runs: Iterable[RunFields], in_expression: bool = True
) -> None:
    """Check that each name is a field of at least one run.

    Args:
        names: names of fields.
        runs: the fields of each run; without runs, all names are accepted.
        in_expression: whether the names are from an expression, where an unknown name may be a
            text whose quotes were forgotten.

    Raises:
        ConfigError: no run has a field with this name; the message suggests the most similar field.
    """
    known = {name for fields in runs for name in fields}
    for name in sorted(names):
        if known and name not in known:
            similar = get_close_matches(name, sorted(known), n=1)
            hint = (
                f"did you mean {safe_text(similar[0])}?" if similar else "use one such as optim.lr"
            )
            if in_expression and "." not in name:
                quoted = f'write "{safe_text(name)}" if it is text'
                hint = f"{hint} Or {quoted}" if similar else quoted
            raise ConfigError(f"{safe_text(name)} isn't a setting or result of these runs: {hint}")


class FilterExpression:
    """A condition on runs, in a subset of Python's expressions.

    Allowed are comparisons, `and`, `or`, `not`, `in`, literals (including null, true and false),
    and names of fields, which may contain dots. A comparison of values that have no order, for
    example of a number and a missing field, is false.

    Attributes:
        text: the expression.
        names: names of the fields in the expression.

    Raises:
        ConfigError: the text isn't such an expression.
    """

    def __init__(self, text: str) -> None:
        self.text = text = text.strip()
        self.names: set[str] = set()
        try:
            # Python warns of comparisons that would be mistakes in a program.
            with warnings.catch_warnings(action="ignore"):
                body = ast.parse(text, mode="eval").body
            if _is_literal(body):
                raise self._error("is a value, not a comparison")
            self._value_of = self._compile(body)
        except (SyntaxError, RecursionError, MemoryError, ValueError) as error:
            if isinstance(error, ConfigError):
                raise
            reason = error.msg if isinstance(error, SyntaxError) else str(error)
            raise self._error(f"can't be read ({reason})") from error

    def matches(self, fields: RunFields) -> bool:
        """Return whether the condition is true for a run; a field that the run lacks is None."""
        return bool(self._value_of(fields))

    def _compile(self, node: ast.expr) -> _ValueOf:
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
                entries = [self._compile(element) for element in elements]
                return lambda fields: [entry(fields) for entry in entries]
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                negated = self._compile(operand)
                return lambda fields: not negated(fields)
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
                return lambda fields: -value
            case ast.BoolOp(op=connective, values=values):
                operands = [self._compile(value) for value in values]
                decisive = isinstance(connective, ast.Or)
                return lambda fields: _evaluate_and_or(operands, decisive, fields)
            case ast.Compare(left=left, ops=ops, comparators=others) if all(
                type(op) in _COMPARISONS for op in ops
            ):
                operands = [self._compile(operand) for operand in (left, *others)]
                comparisons = [_COMPARISONS[type(op)] for op in ops]
                return lambda fields: _evaluate_comparisons(operands, comparisons, fields)
        source = ast.get_source_segment(self.text, node)
        raise self._error(f"has {source}, which isn't allowed")

    def _error(self, what: str) -> ConfigError:
        return ConfigError(
            f"the condition {safe_text(self.text)} {safe_text(what)}: write comparisons of names "
            "and values, for example optim.lr < 0.1 and state == 'finished'"
        )


def _is_literal(node: ast.expr) -> bool:
    match node:
        case ast.Name(id=name):
            return name in _LITERALS
        case ast.UnaryOp(op=ast.USub()):
            return True
    return isinstance(node, (ast.Constant, ast.List, ast.Tuple))


def _is_name(node: ast.expr) -> bool:
    parts = (ast.Name, ast.Attribute, ast.Load)
    return all(isinstance(part, parts) for part in ast.walk(node))


def _evaluate_and_or(operands: Iterable[_ValueOf], decisive: bool, fields: RunFields) -> Any:
    """Return the value of `and` or `or`: the first operand that decides it, or else the last.

    Args:
        decisive: truth of an operand that decides: False for `and`, True for `or`.
    """
    value = None
    for operand in operands:
        value = operand(fields)
        if bool(value) == decisive:
            break
    return value


def _evaluate_comparisons(
    operands: Sequence[_ValueOf],
    comparisons: Iterable[Callable[[Any, Any], bool]],
    fields: RunFields,
) -> bool:
    """Return whether a chain of comparisons is true; it is false if values have no order."""
    values = [operand(fields) for operand in operands]
    try:
        return all(map(operator.call, comparisons, values, values[1:]))
    except TypeError:
        return False
