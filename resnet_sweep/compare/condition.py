"""A condition on runs, such as `optim.lr < 0.1 and state == "finished"`."""

import ast
import operator
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from resnet_sweep.compare.text import shown
from resnet_sweep.errors import RequestError

LONGEST = 1000
DEEPEST = 30

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


class Condition:
    """A condition in a small part of Python's grammar, which can do nothing but compare.

    It has comparisons, `and`, `or`, `not`, `in`, literals, and the names of facts, which may have
    dots. A comparison that can't be made, as of a number with what a run hasn't got, doesn't hold.

    Args:
        text: the condition.

    Attributes:
        names: of the facts that it asks for.

    Raises:
        RequestError: it isn't such a condition.
    """

    def __init__(self, text: str) -> None:
        self.text = text = text.strip()
        self.names: set[str] = set()
        if len(text) > LONGEST:
            raise RequestError(
                f"a condition of {len(text)} characters is too long: write up to {LONGEST}"
            )
        try:
            # Python warns of what looks odd in a program.
            with warnings.catch_warnings(action="ignore"):
                self._tree = ast.parse(text, mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            reason = error.msg if isinstance(error, SyntaxError) else str(error)
            raise self._refusal(f"can't be read ({reason})") from error
        self._check(self._tree)

    def holds(self, facts: Mapping[str, Any]) -> bool:
        """Whether it is true of a run; a fact that the run hasn't got is None."""
        return bool(self._value(self._tree, facts))

    def _check(self, node: ast.AST, depth: int = 0) -> None:
        if depth > DEEPEST:
            raise self._refusal("is nested too deep")
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
            case ast.Compare(ops=comparisons) if all(type(each) in _COMPARISONS
                                                     for each in comparisons):  # fmt: skip
                pass
            case _:
                raise self._refusal(f"has {self._source(node)}, which isn't allowed")
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self._check(child, depth + 1)

    def _name(self, node: ast.AST) -> str:
        parts = []
        first = node
        while isinstance(first, ast.Attribute):
            parts.append(first.attr)
            first = first.value
        if not isinstance(first, ast.Name):
            raise self._refusal(f"has {self._source(node)}, which isn't allowed")
        return ".".join([first.id, *reversed(parts)])

    def _source(self, node: ast.AST) -> str:
        return ast.get_source_segment(self.text, node) or ""

    def _refusal(self, what: str) -> RequestError:
        return RequestError(
            f"the condition {shown(self.text)} {shown(what)}: write comparisons of names and "
            "values, such as optim.lr < 0.1 and state == 'finished'"
        )

    def _value(self, node: ast.AST, facts: Mapping[str, Any]) -> Any:
        match node:
            case ast.Constant(value=value):
                return value
            case ast.List(elts=entries) | ast.Tuple(elts=entries):
                values = [self._value(each, facts) for each in entries]
                return values if isinstance(node, ast.List) else tuple(values)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return not self._value(operand, facts)
            case ast.UnaryOp(operand=operand):
                return -self._value(operand, facts)
            case ast.BoolOp(op=connective, values=values):
                stop = isinstance(connective, ast.Or)
                for each in values:
                    value = self._value(each, facts)
                    if bool(value) == stop:
                        break
                return value
            case ast.Compare(left=left, ops=comparisons, comparators=others):
                value = self._value(left, facts)
                for comparison, other in zip(comparisons, others, strict=True):
                    right = self._value(other, facts)
                    if not _compare(comparison, value, right):
                        return False
                    value = right
                return True
        return facts.get(self._name(node))


def _compare(comparison: ast.cmpop, left: Any, right: Any) -> bool:
    try:
        return _COMPARISONS[type(comparison)](left, right)
    except TypeError:
        return False
