"""The text of a config, which MMEngine keeps in checkpoints: Python, parsed and never run."""
from __future__ import annotations

import ast
from collections.abc import Collection


def read_config(text, names: Collection[str], calls: bool = False) -> dict | None:
    """What is assigned to ``names`` in a config that MMEngine has dumped; None for another text.

    Names, which classes are dumped as, become strings, and where ``calls`` may be among the values
    these do, too. Raises nothing, whatever ``text`` is.
    """
    try:
        lines = ast.parse(text).body
        # Whatever is no assignment to a name might change what is assigned.
        if not lines or any(
                not isinstance(line, ast.Assign) or len(line.targets) != 1
                or not isinstance(line.targets[0], ast.Name) for line in lines):
            return None
        return {line.targets[0].id: ast.literal_eval(_Plain(calls).visit(line.value))
                for line in lines if line.targets[0].id in names}
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None


class _Plain(ast.NodeTransformer):
    """``dict(a=1)`` as the literal, and bare names, which classes are dumped as, as strings."""

    def __init__(self, calls: bool):
        self._calls = calls

    def visit_Call(self, node):  # noqa: N802
        names, values = [one.arg for one in node.keywords], [one.value for one in node.keywords]
        if ast.unparse(node.func) == 'dict' and None not in names:
            if not node.args:
                return ast.Dict(list(map(ast.Constant, names)), list(map(self.visit, values)))
            if len(node.args) == 1 and isinstance(node.args[0], ast.Dict) and not names:
                return self.visit(node.args[0])  # with keys that are no identifiers
        return ast.Constant(ast.unparse(node)) if self._calls else node  # that is refused

    def visit_Name(self, node):  # noqa: N802
        return ast.Constant(ast.unparse(node))

    visit_Attribute = visit_Name  # noqa: N815

    def visit_UnaryOp(self, node):  # noqa: N802
        # '-inf'; a number with a sign is one.
        return self.visit_Name(node) if isinstance(node.operand, ast.Name) else node
