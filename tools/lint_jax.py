"""Find two slips that JAX does not report: a random key used twice, jit in a loop.

A key is a name bound to ``random.key``, ``split`` or ``fold_in``, or a parameter called
``key`` or ``..._key``. Any call that takes it uses it up, except ``fold_in`` and calls
that only look at it. Each function is a scope of its own; all cells of a notebook are
one scope. To reuse a key deliberately, for example to compare two fits on the same
draws, say so in a comment on that line with the words "on purpose".
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from execute import UnreadableError, name_of, python_source, read

MAKERS = {"key", "PRNGKey", "split", "fold_in", "clone", "wrap_key_data"}
LOOKERS = set(
    [
        "key",
        "fold_in",
        "clone",
        "key_data",
        "key_impl",
        "print",
        "len",
        "repr",
        "str",
        "type",
        "isinstance",
        "append",
        "zip",
        "enumerate",
        "tuple",
        "list",
        "hoisted",  # these two are the course's own
        "Keeper",
    ]
)
KEY_NAME = re.compile(r"(^|_)keys?$")
LOOPS = (ast.For, ast.While, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def last_name(node: ast.expr) -> str:
    """Return ``c`` of ``a.b.c``, and a plain name as it is."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def is_jit(node: ast.expr) -> bool:
    """Recognize ``jit``, ``jax.jit``, ``jax.jit(...)``, ``partial(jax.jit, ...)``."""
    if isinstance(node, ast.Call):
        inside = [node.func, *node.args[:1]]
        return any(is_jit(x) for x in inside if not isinstance(x, ast.Call))
    return last_name(node) == "jit"


def parameters(function: ast.AST) -> Iterator[str]:
    """Yield the names of a function's parameters."""
    a = function.args
    for argument in (*a.posonlyargs, *a.args, *a.kwonlyargs):
        yield argument.arg


class Scope:
    """Follow the keys through the statements of one scope, in order."""

    def __init__(self, lines: list[str]):
        self.lines = lines
        self.keys: set[str] = set()  # names known to hold keys
        self.used: dict[str, int] = {}  # key expression -> line of its first use
        self.faults: list[tuple[int, str]] = []
        self.loops = 0

    def excused(self, node: ast.AST) -> bool:
        """Return whether a comment on the node says "on purpose"."""
        return any(
            "on purpose" in line
            for line in self.lines[node.lineno - 1 : node.end_lineno]
        )

    def fault(self, node: ast.AST, text: str) -> None:
        """Note a fault, unless a comment excuses it."""
        if not self.excused(node) and (node.lineno, text) not in self.faults:
            self.faults.append((node.lineno, text))

    # Which expressions are keys

    def key_of(self, node: ast.expr) -> str | None:
        """Return the text of a key expression: ``key``, ``keys[1]``, else None."""
        if isinstance(node, ast.Starred):
            return self.key_of(node.value)
        if isinstance(node, ast.Name) and node.id in self.keys:
            return node.id
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            return ast.unparse(node) if self.key_of(node.value) else None
        return None

    def makes_keys(self, node: ast.expr) -> bool:
        """Return whether an expression is a key or an array of keys."""
        if isinstance(node, ast.Call):
            if last_name(node.func) in {"zip", "enumerate", "list", "tuple", "iter"}:
                return any(self.makes_keys(x) for x in node.args)
            return self.from_random(node.func)
        if isinstance(node, ast.Subscript):
            return self.makes_keys(node.value)
        return self.key_of(node) is not None

    @staticmethod
    def from_random(function: ast.expr) -> bool:
        """Recognize ``random.split`` and the like, also as ``jr.split``."""
        if isinstance(function, ast.Attribute):
            module = last_name(function.value)
            return function.attr in MAKERS and module in {"random", "jr", "jrandom"}
        return False

    # What a statement does

    def bind(self, target: ast.expr, holds_keys: bool) -> None:
        """Give a name a new value, which may hold keys."""
        if isinstance(target, (ast.Tuple, ast.List)):
            for element in target.elts:
                self.bind(element, holds_keys)
        elif isinstance(target, ast.Starred):
            self.bind(target.value, holds_keys)
        elif isinstance(target, ast.Name):
            for text in [x for x in self.used if re.match(rf"{target.id}\b", x)]:
                del self.used[text]
            (self.keys.add if holds_keys else self.keys.discard)(target.id)

    def bind_loop(self, target: ast.expr, values: ast.expr) -> None:
        """Bind the names of a loop, pairing them with the arguments of zip."""
        if isinstance(values, ast.Call) and isinstance(target, ast.Tuple):
            name, arguments = last_name(values.func), values.args
            if name == "enumerate" and len(target.elts) == 2:
                self.bind(target.elts[0], False)
                return self.bind_loop(target.elts[1], arguments[0])
            if name == "zip" and len(target.elts) == len(arguments):
                for element, argument in zip(target.elts, arguments, strict=True):
                    self.bind_loop(element, argument)
                return None
        return self.bind(target, self.makes_keys(values))

    def use(self, node: ast.expr, key: str) -> None:
        """Mark a key as used; note a fault if it was used before."""
        first = self.used.get(key)
        if first is not None and not self.excused(node):
            where = "in a loop" if first == node.lineno else "again"
            text = f"the key {key!r} is used {where}; split it first"
            self.fault(node, f"{text}, or say why it is reused on purpose")
        self.used.setdefault(key, node.lineno)

    def expression(self, node: ast.expr | None) -> None:
        """Follow the calls of an expression, the inner ones first."""
        if node is None:
            return
        if isinstance(node, ast.Lambda):
            self.function(node, [node.body])
            return
        if isinstance(node, LOOPS):
            self.comprehension(node)
            return
        if isinstance(node, ast.IfExp):
            self.expression(node.test)
            self.branches([[node.body], [node.orelse]])
            return
        for child in ast.iter_child_nodes(node):
            inner = child.value if isinstance(child, ast.keyword) else child
            if isinstance(inner, ast.expr):
                self.expression(inner)
        if isinstance(node, ast.Call):
            if (
                self.loops
                and is_jit(node)
                and last_name(node.func) in {"jit", "partial"}
            ):
                self.fault(node, "jit inside a loop compiles anew each time")
            if last_name(node.func) not in LOOKERS:
                for argument in (*node.args, *(k.value for k in node.keywords)):
                    if key := self.key_of(argument):
                        self.use(argument, key)

    def comprehension(self, node: ast.expr) -> None:
        """Follow a comprehension as a loop."""
        outer_keys = set(self.keys)
        for generator in node.generators:
            self.expression(generator.iter)
            self.bind_loop(generator.target, generator.iter)
        bound = {
            x.id
            for g in node.generators
            for x in ast.walk(g.target)
            if isinstance(x, ast.Name)
        }
        parts = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        self.repeat([*parts, *(c for g in node.generators for c in g.ifs)], bound)
        self.keys = outer_keys

    def repeat(self, body: list, bound: set[str]) -> None:
        """Follow the body of a loop twice, so that the second round meets the first."""
        self.loops += 1
        for _ in range(2):
            for name in bound:
                for text in [x for x in self.used if re.match(rf"{name}\b", x)]:
                    del self.used[text]
            self.block(body)
        self.loops -= 1

    def branches(self, bodies: list[list]) -> None:
        """Follow alternatives, each from the same state, and join what they used."""
        before, joined = dict(self.used), dict(self.used)
        for body in bodies:
            self.used = dict(before)
            self.block(body)
            if not (
                body
                and isinstance(
                    body[-1], (ast.Return, ast.Raise, ast.Break, ast.Continue)
                )
            ):
                joined |= self.used
        self.used = joined

    def function(self, node: ast.AST, body: list) -> None:
        """Follow a function as a scope of its own."""
        inner = Scope(self.lines)
        inner.keys = {name for name in parameters(node) if KEY_NAME.search(name)}
        inner.keys |= self.keys - set(parameters(node))
        inner.block(body)
        for fault in inner.faults:
            if fault not in self.faults:
                self.faults.append(fault)

    def block(self, body: list) -> None:
        """Follow statements (or bare expressions) in order."""
        for node in body:
            if isinstance(node, ast.expr):
                self.expression(node)
            else:
                self.statement(node)

    def statement(self, node: ast.stmt) -> None:
        """Follow one statement."""
        if isinstance(node, FUNCTIONS):
            for decorator in node.decorator_list:
                if self.loops and is_jit(decorator):
                    self.fault(decorator, "jit inside a loop compiles anew each time")
            self.function(node, node.body)
        elif isinstance(node, ast.ClassDef):
            self.block(node.body)
        elif isinstance(node, ast.For):
            self.expression(node.iter)
            self.bind_loop(node.target, node.iter)
            bound = {x.id for x in ast.walk(node.target) if isinstance(x, ast.Name)}
            self.repeat(node.body, bound)
            self.block(node.orelse)
        elif isinstance(node, ast.While):
            self.repeat([node.test, *node.body], set())
            self.block(node.orelse)
        elif isinstance(node, ast.If):
            self.expression(node.test)
            self.branches([node.body, node.orelse])
        elif isinstance(node, ast.Try):
            self.branches([node.body, *(h.body for h in node.handlers)])
            self.block([*node.orelse, *node.finalbody])
        elif isinstance(node, (ast.With, ast.AsyncWith)):
            for item in node.items:
                self.expression(item.context_expr)
                if item.optional_vars is not None:
                    self.bind(item.optional_vars, False)
            self.block(node.body)
        elif isinstance(node, ast.Assign):
            self.expression(node.value)
            self.assign(node.targets, node.value)
        elif isinstance(node, ast.AnnAssign):
            self.expression(node.value)
            if node.value is not None:
                self.assign([node.target], node.value)
        else:
            for child in ast.iter_child_nodes(node):
                if isinstance(child, ast.expr):
                    self.expression(child)

    def assign(self, targets: list[ast.expr], value: ast.expr) -> None:
        """Bind targets, element by element where both sides are tuples."""
        for target in targets:
            pair = isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
            if pair and len(target.elts) == len(value.elts):
                makes = [self.makes_keys(x) for x in value.elts]
                for element, holds_keys in zip(target.elts, makes, strict=True):
                    self.bind(element, holds_keys)
            else:
                self.bind(target, self.makes_keys(value))


def check_source(source: str) -> list[tuple[int, str]]:
    """Return line and text of each fault in a module."""
    scope = Scope(source.splitlines())
    scope.block(ast.parse(source).body)
    return sorted(scope.faults)


def check_notebook(nb: dict) -> list[str]:
    """Return the faults of a notebook, each with the name of its cell."""
    lines: list[str] = []
    owner: list[str] = []
    for number, cell in enumerate(nb["cells"], 1):
        if cell["cell_type"] == "code":
            code = python_source(cell).splitlines()
            lines += code
            owner += [name_of(cell, number)] * len(code)
    found = check_source("\n".join(lines))
    return [f"{owner[n - 1]}: {text}: {lines[n - 1].strip()}" for n, text in found]


def main(arguments: list[str]) -> int:
    """Check Python files, notebooks and folders of them; return the exit status."""
    faults = []
    for path in map(Path, arguments):
        inside = sorted([*path.glob("*.py"), *path.glob("*.ipynb")])
        for file in inside if path.is_dir() else [path]:
            if file.suffix == ".ipynb":
                try:
                    found = check_notebook(read(file))
                except UnreadableError as error:
                    found = [str(error)]
                faults += [f"{file}: {text}" for text in found]
            else:
                found = check_source(file.read_text(encoding="utf-8"))
                faults += [f"{file}:{line}: {text}" for line, text in found]
    print("\n".join(faults) or "Random keys and jit: nothing to complain about.")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
