"""What a template may be made of, and where its meter is built in."""

from __future__ import annotations

from math import isfinite
from typing import Any, cast

from jinja2 import nodes
from jinja2.visitor import NodeTransformer

from mailsender.templates.meter import CHARACTERS_A_STEP, MAX_BITS
from mailsender.templates.template import TemplateError

NODES_A_STEP = 8
"""Of plain code (a condition, a name) so much is counted as one step."""

MAX_TOKENS = 20_000
"""Words, brackets and spaces within ``{{ }}`` and ``{% %}``, and texts between them: to read and compile as
many takes most of a second, and templates of letters have hundreds."""

MAX_NESTING = 100
"""Nodes of a template within each other; Python's own compiler ends at 200 brackets."""

INLINE_DATA = 256
"""Characters of plain text that are counted by themselves, and not with the code around them."""


# No template can write a filter's name with a space in it.
TICK, WEIGHED, EACH, KEY, CONCATENATED = "a tick", "a weighed", "an each", "a key", "a concatenated"
COPIED, LOOKED_UP = "a copied", "a looked up"

_NODES = (
    *(nodes.Template, nodes.Output, nodes.TemplateData, nodes.Extends, nodes.Include, nodes.Import),
    *(nodes.FromImport, nodes.Block, nodes.For, nodes.If, nodes.Macro, nodes.CallBlock, nodes.FilterBlock),
    *(nodes.With, nodes.Assign, nodes.AssignBlock, nodes.NSRef, nodes.Name, nodes.Const, nodes.Tuple),
    *(nodes.List, nodes.Dict, nodes.Pair, nodes.Keyword, nodes.CondExpr, nodes.Filter, nodes.Test),
    *(nodes.Call, nodes.Getitem, nodes.Getattr, nodes.Slice, nodes.Concat, nodes.Compare, nodes.Operand),
    *(nodes.BinExpr, nodes.UnaryExpr),
)

REFERENCES = (nodes.Extends, nodes.Include, nodes.Import, nodes.FromImport)
"""What names another template."""


def check(tree: nodes.Template, label: str) -> None:
    """Raises TemplateError for what no template may hold."""
    open_: list[tuple[nodes.Node, int]] = [(tree, 0)]
    while open_:
        node, depth = open_.pop()
        reason = _fault(node)
        if depth > MAX_NESTING:
            reason = f"its parts are nested more than {MAX_NESTING} deep"
        if reason:
            line = node.lineno or next((each.lineno for each in node.iter_child_nodes()), None)
            raise TemplateError(reason, template=label, line=line)
        open_.extend((child, depth + 1) for child in node.iter_child_nodes())


def _fault(node: nodes.Node) -> str | None:  # noqa: PLR0911  one for each
    """Why `node` may not be in a template."""
    if not isinstance(node, _NODES):
        return f"{_SPOKEN.get(type(node), type(node).__name__)} is not for templates of letters"
    if isinstance(node, REFERENCES):
        target = node.template
        if not (isinstance(target, nodes.Const) and isinstance(target.value, str)):
            return "another template is named by a text in quotes"
        if isinstance(node, nodes.Include) and not node.with_context:
            # Jinja keeps what it wrote and writes it again past every meter.
            return "'without context' is not for templates of letters"
    elif isinstance(node, nodes.For) and node.recursive:
        return "a recursive loop is not for templates of letters; use a macro"
    elif isinstance(node, nodes.Call | nodes.Filter | nodes.Test) and (node.dyn_args or node.dyn_kwargs):
        return "'*' and '**' are not for templates of letters"
    elif isinstance(node, nodes.Name) and node.name in {"varargs", "kwargs"}:
        return "'varargs' and 'kwargs' are not for templates of letters; name the arguments"
    elif isinstance(node, nodes.Const) and _too_large(node.value):
        return "a number in it is too large"
    elif isinstance(node, nodes.Getattr) and node.attr.startswith("_"):
        return "an attribute does not begin with '_'"
    return None


def _too_large(value: Any) -> bool:
    if isinstance(value, int):
        return value.bit_length() > MAX_BITS
    return isinstance(value, float) and not isfinite(value)


_SPOKEN: dict[type[nodes.Node], str] = {
    nodes.ScopedEvalContextModifier: "{% autoescape %}",
    nodes.EvalContextModifier: "{% autoescape %}",
    nodes.Scope: "{% autoescape %}",
}

_REPEATED = (nodes.For, nodes.Macro, nodes.CallBlock, nodes.Block, nodes.Template)


def _filter(node: nodes.Expr, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _ticking(steps: int, lineno: int) -> nodes.ExprStmt:
    return nodes.ExprStmt(_filter(nodes.Const(steps, lineno=lineno), TICK), lineno=lineno)


def _copying(lineno: int) -> nodes.ExprStmt:
    return nodes.ExprStmt(_filter(nodes.Const(None, lineno=lineno), COPIED), lineno=lineno)


def _steps(body: list[nodes.Node]) -> int:
    """What running through `body` once is counted as, but for what counts itself."""
    count = 0
    open_ = list(body)
    while open_:
        node = open_.pop()
        count += 1
        if isinstance(node, nodes.TemplateData) and len(node.data) < INLINE_DATA:
            count += len(node.data) * NODES_A_STEP // CHARACTERS_A_STEP
        if isinstance(node, _REPEATED):  # its body counts for itself
            open_.extend(each for each in node.iter_child_nodes(exclude=("body",)))
        else:
            open_.extend(node.iter_child_nodes())
    return 1 + count // NODES_A_STEP


class Counting(NodeTransformer):
    """Puts the meter around what Jinja has no hook for."""

    def _body(self, node: Any) -> Any:
        steps = _steps(node.body)
        self.generic_visit(node)
        node.body.insert(0, _ticking(steps, node.lineno))
        return node

    visit_Template = visit_Macro = visit_CallBlock = _body  # noqa: N815  Jinja's names

    def visit_Block(self, node: nodes.Block) -> nodes.Block:  # noqa: N802
        """A scoped one is given a copy of all variables."""
        self._body(node)
        if node.scoped:
            node.body.insert(0, _copying(node.lineno))
        return node

    def visit_Include(self, node: Any) -> list[nodes.Node]:  # noqa: N802
        """What goes with the context is given a copy of all variables."""
        return [_copying(node.lineno), node] if node.with_context else [node]

    visit_Import = visit_FromImport = visit_Include  # noqa: N815

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802
        """What it goes over is counted before it begins."""
        self._body(node)
        node.iter = _filter(cast("nodes.Expr", node.iter), EACH)
        return node

    def visit_Output(self, node: nodes.Output) -> list[nodes.Node]:  # noqa: N802
        """Long plain text is counted where it is written."""
        self.generic_visit(node)
        large = sum(
            len(each.data)
            for each in node.nodes
            if isinstance(each, nodes.TemplateData) and len(each.data) >= INLINE_DATA
        )
        return [_ticking(large // CHARACTERS_A_STEP, node.lineno), node] if large else [node]

    def _weighed(self, node: Any) -> nodes.Node:
        self.generic_visit(node)
        if getattr(node, "ctx", "load") != "load" or all(
            isinstance(each, nodes.Const) for each in node.items
        ):
            return node  # type: ignore[no-any-return]
        return _filter(node, WEIGHED)

    visit_List = visit_Tuple = _weighed  # noqa: N815

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:  # noqa: N802
        """A literal is weighed, and its keys looked at."""
        self.generic_visit(node)
        for pair in node.items:
            pair.key = _filter(pair.key, KEY)
        return _filter(node, WEIGHED)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:  # noqa: N802
        """Both sides are weighed."""
        self.generic_visit(node)
        node.expr = _filter(node.expr, WEIGHED)
        for each in node.ops:
            each.expr = _filter(each.expr, WEIGHED)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:  # noqa: N802
        """Joined by a filter of ours."""
        self.generic_visit(node)
        return _filter(nodes.List(node.nodes, lineno=node.lineno), CONCATENATED)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Getitem:  # noqa: N802
        """A slice copies, and has no hook. A key that is computed is a value, which no error may tell."""
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            node.node = _filter(node.node, WEIGHED)
        elif not isinstance(node.arg, nodes.Const):
            node.arg = _filter(node.arg, LOOKED_UP)
        return node
