"""Decides whether a chat template wants a message's content as a list of parts or as one text. Renders nothing.

vLLM decides so too: a template that loops over a message's content gets parts. The reading is syntactic, it follows
names that are set from `messages` and parameters of macros, but no scopes.
"""

from collections.abc import Iterable, Iterator

from jinja2 import nodes


def wants_parts(template: nodes.Template) -> bool:
    """Whether some loop of the template goes over a message's content."""
    try:
        messages = _message_names(template)
        return any(_goes_over_content(loop, messages) for loop in _loops_of_interest(template, messages))
    except _Unclear:
        return False


class _Unclear(Exception):
    """A loop or an assignment has several targets; vLLM then stays with text."""


_Loop = tuple[nodes.For, frozenset[str]]
"""A loop, and the bare names that stand for a message's content where it is."""


def _message_names(template: nodes.Template) -> frozenset[str]:
    """Names of loop variables that stand for one message."""
    lists = _list_names(template)
    loops = template.find_all(nodes.For)
    return frozenset(_name(loop.target) for loop in loops if any(_is_whole(loop.iter, name) for name in lists))


def _list_names(template: nodes.Template) -> set[str]:
    """Names set, directly or through each other, from `messages`."""
    names = {"messages"}
    fresh = ["messages"]
    while fresh:
        source = fresh.pop()
        for assignment in template.find_all(nodes.Assign):
            if _is_whole(assignment.node, source):
                name = _name(assignment.target)
                if name not in names:
                    names.add(name)
                    fresh.append(name)
    return names


def _loops_of_interest(template: nodes.Template, messages: frozenset[str]) -> Iterator[_Loop]:
    in_macro: dict[int, frozenset[str]] = {}
    for macro in template.find_all(nodes.Macro):
        parameters = frozenset(_content_parameters(template, macro, messages))
        for loop in macro.find_all(nodes.For):
            in_macro[id(loop)] = parameters or in_macro.get(id(loop), frozenset())
    for loop in template.find_all(nodes.For):
        yield loop, in_macro.get(id(loop), frozenset({"content"}))


def _content_parameters(template: nodes.Template, macro: nodes.Macro, messages: Iterable[str]) -> Iterator[str]:
    """Parameters of `macro` that are given a message's content in some call."""
    names = [parameter.name for parameter in macro.args]
    for call in template.find_all(nodes.Call):
        if not (isinstance(call.node, nodes.Name) and call.node.name == macro.name):
            continue
        given = [*zip(names, call.args, strict=False), *((word.key, word.value) for word in call.kwargs)]
        for name, value in given:
            if name in names and any(_is_content(value, message) for message in messages):
                yield name


def _goes_over_content(found: _Loop, messages: Iterable[str]) -> bool:
    loop, names = found
    bare = isinstance(loop.iter, nodes.Name) and loop.iter.name in names
    if bare or any(_is_content(loop.iter, message) for message in messages):
        _name(loop.target)
        return True
    return False


def _is_whole(node: nodes.Node | None, name: str) -> bool:
    """Whether `node` is the variable `name`, perhaps filtered, tested or sliced."""
    node = _unwrapped(node)
    return isinstance(node, nodes.Name) and node.ctx == "load" and node.name == name


def _is_content(node: nodes.Node, message: str) -> bool:
    """Whether `node` is the content of the variable `message`, perhaps filtered, tested or sliced."""
    inner = _unwrapped(node)
    match inner:
        case nodes.Getitem(arg=nodes.Const(value="content")) | nodes.Getattr(attr="content"):
            return isinstance(inner.node, nodes.Name) and inner.node.ctx == "load" and inner.node.name == message
    return False


def _unwrapped(node: nodes.Node | None) -> nodes.Node | None:
    while isinstance(node, nodes.Filter | nodes.Test) or (
        isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice)
    ):
        node = node.node
    return node


def _name(target: nodes.Node) -> str:
    if not isinstance(target, nodes.Name):
        raise _Unclear
    return target.name
