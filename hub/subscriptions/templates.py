"""Templates: Jinja2 in a sandbox where every operation is paid for, so that none can run long.

    parse      Jinja2's own grammar; what is not on the list of allowed nodes is refused
    rewrite    every operation whose cost depends on its values becomes a call of `sandbox` or `filters`
    compile    by Jinja2, without its optimizer, which would compute constants unpaid
    render     with a budget; text, or the value itself where the template is a single expression

No Python object but JSON's values, loops and namespaces is ever reachable, and a loop's step costs as much as its body
has nodes. So time and memory are bounded by the budget, not by a clock, and a template gives the same every time.
"""

from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from difflib import get_close_matches
from typing import Any

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, meta, nodes, pass_context
from jinja2 import Template as JinjaTemplate
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from hub.errors import FaultError, InputError
from hub.subscriptions.filters import FILTERS, FUNCTIONS, TESTS, Function, method, negated
from hub.subscriptions.sandbox import (
    STEPS,
    Budget,
    SandboxError,
    attribute,
    check_length,
    compared,
    compute,
    elements,
    item,
    joined,
    kind_of,
    literal,
    plain,
    sliced,
    text_of,
)

SET_NAMES = frozenset({"doc"})  # what `where` sees
WHEN_NAMES = frozenset({"doc", "before", "changed", "event", "cause", "key", "version"})
BODY_NAMES = WHEN_NAMES | {"meta"}
MAX_TEMPLATE = 1 << 16  # characters of a template
MAX_NODES = 10_000  # names, constants, operations … of a template
EXPRESSION_STEPS = STEPS // 5  # capture waits for them

_BUDGET = " budget"  # no template can write a name with a blank
_RESULT = "result"
_FILE = "<template>"


class TemplateMistake(InputError):
    """A template that is not well formed."""

    def __init__(self, what: str, place: str, line: int, column: int) -> None:
        super().__init__(f"{_placed(place, line, column)}: {what}")
        self.place = place  # as the caller named the template: body.email
        self.line = line  # in the template, from 1
        self.column = column  # of the tag on that line, from 1


class TemplateFailure(FaultError):
    """A template failed on one document; the message has its place."""


class Expression:
    """A compiled `where` or `when`."""

    def __init__(self, compiled: "_Compiled") -> None:
        self._compiled = compiled
        self.names = compiled.names  # the variables that it uses

    def evaluate(self, variables: Mapping[str, Any], budget: Budget | None = None) -> Any:
        """TemplateFailure when it can't say, or when what it gives is no value."""
        return self._compiled.run(variables, budget or Budget(EXPRESSION_STEPS), _value)


class Template:
    """A compiled string of a body."""

    def __init__(self, compiled: "_Compiled", single: bool) -> None:
        self._compiled = compiled
        self._result = _value if single else _text
        self.names = compiled.names

    def render(self, variables: Mapping[str, Any], budget: Budget | None = None) -> Any:
        """A JSON value when the template is a single expression, else text. TemplateFailure when it fails."""
        return self._compiled.run(variables, budget or Budget(), self._result)


def compile_expression(text: str, names: frozenset[str], place: str = "expression") -> Expression:
    """TemplateMistake when it is not well formed or uses another name than `names`."""
    return Expression(_compiled(text, names, place, _parse_expression))


def compile_template(text: str, names: frozenset[str], place: str = "template") -> Template:
    """TemplateMistake when it is not well formed or uses another name than `names`."""
    single = False

    def parse(text: str) -> nodes.Template:
        nonlocal single
        tree = _environment.parse(text)
        expression = _single_expression(tree)
        single = expression is not None
        return tree if expression is None else _result_of(expression)

    return Template(_compiled(text, names, place, parse), single)


def plain_json(value: Any, place: str) -> Any:
    """A scalar of YAML as JSON has it: floats exact, dates as text. InputError when there is no such."""
    if isinstance(value, bool | int | None):
        return value
    if isinstance(value, float | Decimal):
        number = Decimal(repr(value)) if isinstance(value, float) else value
        return number if number.is_finite() else str(number)
    if hasattr(value, "isoformat"):
        return value.isoformat()
    raise InputError(f"{place}: {value} is no JSON value.", "Put it in quotes.")


def is_unicode(text: str) -> bool:
    """Whether it can be written as UTF-8."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


class _Compiled:
    """Compiled code, and where it came from."""

    def __init__(self, template: JinjaTemplate, names: frozenset[str], text: str, place: str, line: int) -> None:
        self._template = template
        self._text = text
        self._place = place
        self._line = line  # where it begins
        self.names = names

    def run(
        self, variables: Mapping[str, Any], budget: Budget, result: Callable[[JinjaTemplate, Context, Budget], Any]
    ) -> Any:
        seen = {name: variables.get(name) for name in self.names}
        context = self._template.new_context({**seen, _BUDGET: budget})
        try:
            return result(self._template, context, budget)
        except (
            TemplateError,
            TypeError,
            ValueError,
            ArithmeticError,
            LookupError,
            AttributeError,
            RecursionError,
            MemoryError,
        ) as error:
            raise TemplateFailure(f"{self._where(error)}: {_sentence(error)}") from None

    def _where(self, error: BaseException) -> str:
        line, trace = self._line, error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == _FILE:
                line = self._template.get_corresponding_lineno(trace.tb_lineno)
            trace = trace.tb_next
        return _placed(self._place, line, _column(self._text, line))


def _value(template: JinjaTemplate, context: Context, budget: Budget) -> Any:
    for _ in template.root_render_func(context):
        pass
    return plain(context.vars[_RESULT], budget)


def _text(template: JinjaTemplate, context: Context, budget: Budget) -> str:
    pieces, length = [], 0
    for piece in template.root_render_func(context):
        length += len(piece)
        check_length(length)
        pieces.append(piece)
    return "".join(pieces)


def _sentence(error: BaseException) -> str:
    if isinstance(error, TemplateError):
        return error.message or "It can't be rendered."
    if isinstance(error, ZeroDivisionError):
        return "It divides by zero."
    if isinstance(error, ArithmeticError):
        return "A computation has no result, or one that is too big."
    if isinstance(error, RecursionError | MemoryError):
        return "It makes values that are too big."
    return f"It can't be computed: {error}."


def _placed(place: str, line: int, column: int) -> str:
    return f"{place}, line {line}, column {column}"


def _column(text: str, line: int) -> int:
    """Of the first tag on a line; 1 when none begins there."""
    lines = text.splitlines()
    written = lines[line - 1] if 0 < line <= len(lines) else ""
    found = [position for position in (written.find(tag) for tag in ("{{", "{%", "{#")) if position >= 0]
    return min(found, default=0) + 1


# Parsing


def _compiled(text: str, names: frozenset[str], place: str, parse: Callable[[str], nodes.Template]) -> _Compiled:
    def mistake(what: str, line: int = 1) -> TemplateMistake:
        return TemplateMistake(what, place, line, _column(text, line))

    if len(text) > MAX_TEMPLATE:
        raise mistake(f"A template has at most {MAX_TEMPLATE} characters.")
    if not is_unicode(text):
        raise mistake("It has half a character, a lone surrogate.")
    try:
        tree = parse(text)
        _check(tree)
        line = tree.body[0].lineno if tree.body else 1
        # Jinja2's search for names computes constants: only what is paid for may be left when it begins.
        tree = _Rewriter().visit(tree)
        used = meta.find_undeclared_variables(tree)
        _check_names(used, names)
        code = _environment.compile(tree, filename=_FILE)
    except TemplateSyntaxError as error:
        raise mistake(_ended(error.message or "It is not well formed"), error.lineno) from None
    except (RecursionError, MemoryError, SyntaxError, ValueError, OverflowError):
        raise mistake("It is nested too deep, or has a number that is too long.") from None
    template = JinjaTemplate.from_code(_environment, code, _environment.globals)
    return _Compiled(template, frozenset(used) & names, text, place, line)


def _ended(message: str) -> str:
    sentence = message[:1].upper() + message[1:]
    return sentence if sentence.endswith((".", "?")) else f"{sentence}."


def _parse_expression(text: str) -> nodes.Template:
    parser = Parser(_environment, text, state="variable")
    expression = parser.parse_expression()
    if not parser.stream.eos:
        raise TemplateSyntaxError("It goes on after the end of the expression", parser.stream.current.lineno)
    return _result_of(expression)


def _result_of(expression: nodes.Expr) -> nodes.Template:
    target = nodes.Name(_RESULT, "store", lineno=expression.lineno)
    tree = nodes.Template([nodes.Assign(target, expression, lineno=expression.lineno)], lineno=1)
    tree.set_environment(_environment)
    return tree


def _single_expression(tree: nodes.Template) -> nodes.Expr | None:
    parts: list[nodes.Node] = []
    for statement in tree.body:
        parts.extend(statement.nodes if isinstance(statement, nodes.Output) else [statement])
    parts = [part for part in parts if not (isinstance(part, nodes.TemplateData) and not part.data.strip())]
    if len(parts) == 1 and isinstance(parts[0], nodes.Expr) and not isinstance(parts[0], nodes.TemplateData):
        return parts[0]
    return None


_ALLOWED = (
    nodes.Template,
    *(nodes.Output, nodes.TemplateData, nodes.For, nodes.If, nodes.Assign, nodes.With, nodes.NSRef),
    *(nodes.Name, nodes.Const, nodes.Tuple, nodes.List, nodes.Dict, nodes.Pair, nodes.Keyword),
    *(nodes.CondExpr, nodes.And, nodes.Or, nodes.Not, nodes.Neg, nodes.Pos),
    *(nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod, nodes.Pow),
    *(nodes.Filter, nodes.Test, nodes.Call, nodes.Getattr, nodes.Getitem, nodes.Slice),
    *(nodes.Concat, nodes.Compare, nodes.Operand),
)


def _check(tree: nodes.Node) -> None:
    """TemplateSyntaxError for what templates here do not have."""
    waiting: list[nodes.Node] = [tree]
    count = 0
    while waiting:
        node = waiting.pop()
        count += 1
        if count > MAX_NODES:
            raise TemplateSyntaxError(f"A template has at most {MAX_NODES} operations and names.", 1)
        problem = _node_problem(node)
        if problem:
            raise TemplateSyntaxError(problem, node.lineno)
        waiting.extend(node.iter_child_nodes())


def _node_problem(node: nodes.Node) -> str:
    if type(node) not in _ALLOWED:
        return f"Templates here have no {type(node).__name__.lower()}."
    if isinstance(node, nodes.For) and node.recursive:
        return "A loop here can't be recursive."
    if isinstance(node, nodes.Filter | nodes.Test | nodes.Call) and (node.dyn_args or node.dyn_kwargs):
        return "Arguments are written out: * and ** are not allowed."
    if isinstance(node, nodes.Const) and isinstance(node.value, str) and not is_unicode(node.value):
        return "It has half a character, a lone surrogate."
    if isinstance(node, nodes.Name) and node.name == "self":
        return "There is no self here."
    if isinstance(node, nodes.Filter):
        return "" if node.node is not None and node.name in FILTERS else _unknown("filter", node.name, FILTERS)
    if isinstance(node, nodes.Test):
        return "" if node.name in TESTS else _unknown("test", node.name, TESTS)
    return ""


def _unknown(what: str, name: str, known: Mapping[str, Any]) -> str:
    near = get_close_matches(name, known, n=1)
    return f"There is no {what} {name}." + (f" Did you mean {near[0]}?" if near else "")


def _check_names(used: set[str], names: frozenset[str]) -> None:
    known = names | set(FUNCTIONS)
    for name in sorted(used - known):
        near = get_close_matches(name, known, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"Templates here see {', '.join(sorted(names))}."
        raise TemplateSyntaxError(f"There is no {name} here. {hint}", 1)


class _Rewriter(NodeTransformer):
    """Makes calls of what must be paid for. Children first, so that what it adds is not visited again."""

    def _call(self, name: str, node: Any, *arguments: nodes.Expr | None) -> nodes.Expr:
        given = [nodes.Const(None) if argument is None else argument for argument in arguments]
        call = nodes.Filter(node, name, given, [], None, None, lineno=node.lineno)
        call.set_environment(_environment)
        for argument in given:
            argument.set_lineno(node.lineno)
        return call

    def visit_For(self, node: nodes.For) -> nodes.Node:
        cost = _size(node)
        self.generic_visit(node)
        node.iter = self._call(" elements", node.iter, nodes.Const(cost))
        return node

    def visit_Const(self, node: nodes.Const) -> nodes.Node:
        if not isinstance(node.value, float):
            return node
        return self._call("decimal", nodes.Const(repr(node.value), lineno=node.lineno))

    def visit_CondExpr(self, node: nodes.CondExpr) -> nodes.Node:
        self.generic_visit(node)
        if node.expr2 is None:
            node.expr2 = nodes.Const(None, lineno=node.lineno)
        return node

    def visit_List(self, node: nodes.List) -> nodes.Node:
        self.generic_visit(node)
        return self._call(" literal", node)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        self.generic_visit(node)
        return self._call(" literal", node)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return self._call(" literal", node) if node.ctx == "load" else node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return self._call(" joined", nodes.List(node.nodes, lineno=node.lineno))

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        operands: list[nodes.Expr] = []
        for operand in node.ops:
            operands += [nodes.Const(operand.op), operand.expr]
        return self._call(" compared", node.expr, *operands)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        return self._call(" sliced", node.node, node.arg.start, node.arg.stop, node.arg.step)

    def visit_Neg(self, node: nodes.Neg) -> nodes.Node:
        self.generic_visit(node)
        return self._call(" negated", node.node)

    def visit_Pos(self, node: nodes.Pos) -> nodes.Node:
        self.generic_visit(node)
        return self._call(" computed", nodes.Const(0, lineno=node.lineno), nodes.Const("+"), node.node)

    def _computed(self, node: nodes.BinExpr) -> nodes.Node:
        self.generic_visit(node)
        return self._call(" computed", node.left, nodes.Const(node.operator), node.right)

    visit_Add = visit_Sub = visit_Mul = visit_Div = visit_FloorDiv = visit_Mod = visit_Pow = _computed


def _size(node: nodes.Node) -> int:
    """What a step of a loop costs: the nodes and the text in it."""
    size, waiting = 0, [node]
    while waiting:
        part = waiting.pop()
        size += 1 + (len(part.data) // 32 if isinstance(part, nodes.TemplateData) else 0)
        waiting.extend(part.iter_child_nodes())
    return size


# Rendering


class _Undefined(StrictUndefined):
    """Says what is not there in the words of the document."""


def _with_budget(function: Callable[..., Any]) -> Callable[..., Any]:
    @pass_context
    def called(context: Context, *arguments: Any, **named: Any) -> Any:
        return function(context.parent[_BUDGET], *arguments, **named)

    return called


def _all_compared(budget: Budget, left: Any, *operands: Any) -> bool:
    """`a < b <= c`, by pairs of a sign and what stands right of it."""
    pairs: Iterator[Any] = iter(operands)
    for sign, right in zip(pairs, pairs, strict=True):
        if not compared(budget, left, sign, right):
            return False
        left = right
    return True


def _known(function: Callable[..., Any]) -> Callable[..., Any]:
    """For filters that take no undefined value, say what is undefined."""

    def called(budget: Budget, value: Any, *arguments: Any, **named: Any) -> Any:
        if isinstance(value, StrictUndefined):
            kind_of(value)
        return function(budget, value, *arguments, **named)

    return called


_OPERATIONS: Mapping[str, Callable[..., Any]] = {
    " elements": lambda budget, value, cost: elements(value, budget, cost),
    " literal": literal,
    " joined": joined,
    " compared": _all_compared,
    " sliced": sliced,
    " negated": negated,
    " computed": compute,
}
_TAKES_UNDEFINED = frozenset({"default", "d", "decimal", "int"})


class _Environment(ImmutableSandboxedEnvironment):
    """Reaches fields of objects, elements of lists, and nothing of Python."""

    def getattr(self, obj: Any, attribute_: str) -> Any:
        try:
            return attribute(obj, attribute_)
        except KeyError:
            return method(obj, attribute_) or self._missing(obj, attribute_)

    def getitem(self, obj: Any, argument: Any) -> Any:
        try:
            return item(obj, argument)
        except LookupError:
            return self._missing(obj, argument)

    def call(self, context: Context, obj: Any, *arguments: Any, **named: Any) -> Any:
        if not isinstance(obj, Function):
            raise SandboxError(f"{kind_of(obj).capitalize()} can't be called.")
        # Jinja2 adds the local variables of the loop that the call stands in.
        given = {name: value for name, value in named.items() if name not in ("_loop_vars", "_block_vars")}
        return obj.call(context.parent[_BUDGET], *arguments, **given)

    def _missing(self, obj: Any, name: Any) -> StrictUndefined:
        if isinstance(obj, StrictUndefined):
            kind_of(obj)
        shown = name if isinstance(name, str | int) else kind_of(name)
        if obj is None:
            return _Undefined(hint=f"It asks null for {shown}: test it first, or use the filter default.")
        near = get_close_matches(name, obj, n=1) if isinstance(obj, dict) and isinstance(name, str) else []
        return _Undefined(hint=f"There is no {shown} in it." + (f" Did you mean {near[0]}?" if near else ""))


def _new_environment() -> _Environment:
    environment = _Environment(
        undefined=_Undefined,
        optimized=False,
        autoescape=False,
        finalize=pass_context(lambda context, value: text_of(value, context.parent[_BUDGET])),
    )
    filters = {name: filter_ if name in _TAKES_UNDEFINED else _known(filter_) for name, filter_ in FILTERS.items()}
    environment.filters = {name: _with_budget(call) for name, call in {**filters, **_OPERATIONS}.items()}
    environment.tests = {name: _with_budget(test) for name, test in TESTS.items()}
    environment.globals = dict(FUNCTIONS)
    return environment


_environment = _new_environment()
