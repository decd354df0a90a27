"""One order and one set of names for a graph, whatever order and names its engine gave it.

tf2onnx keeps nodes in sets: which of two equal nodes survives, and its name, differ from run to run. Here the nodes are
sorted from the outputs backwards, as each is needed, and everything but inputs and outputs is named after that order.
The same model then gives the same file to the last byte, so that its hash identifies it.
"""

from collections.abc import Iterator

import onnx


def canonical(graph: onnx.GraphProto) -> None:
    """Sorts and renames a `GraphProto` in place; drops what no output needs."""
    _canonical(graph, {}, {value.name: value.name for value in (*graph.input, *graph.output)}, "")


def nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """All nodes of a graph, including those inside loops and conditions."""
    for node in graph.node:
        yield node
        for body in _bodies(node):
            yield from nodes(body)


def _canonical(graph, outer, own, prefix):
    """Renames a graph, given the new names of the outer values and of its inputs and outputs."""
    names = {**outer, **own}
    _settle_copies(graph)
    ordered, weights = _in_order_of_need(graph), {tensor.name: tensor for tensor in graph.initializer}
    used = []
    for name in (name for node in ordered for name in _reads(node)):
        if name in weights:
            tensor = weights.pop(name)
            names[name] = own.get(name, f"{prefix}weight_{len(used)}")
            used.append(tensor)
    used += [weights[value.name] for value in graph.output if value.name in weights]
    for i, node in enumerate(ordered):
        node.name = f"{prefix}{node.op_type}_{i}"
        for j, output in enumerate(node.output):
            if output:
                names[output] = own.get(output, f"{node.name}_{j}" if len(node.output) > 1 else node.name)
    for node in ordered:
        for i, body in enumerate(_bodies(node)):
            inside = f"{node.name}/{i}/" if i else f"{node.name}/"
            values = [*body.input, *body.output]
            renamed = {value.name: f"{inside}value_{j}" for j, value in enumerate(values)}
            # An output may be an outer value or an input, passed through.
            made = {name for inner in body.node for name in inner.output} | {tensor.name for tensor in body.initializer}
            made |= {value.name for value in body.input}
            renamed = {name: new for name, new in renamed.items() if name in made}
            _canonical(body, names, renamed, inside)
            body.name = inside.rstrip("/")
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for values in (graph.input, graph.output, used):
        for value in values:
            value.name = names.get(value.name, value.name)
    _replace(graph.node, ordered)
    _replace(graph.initializer, used)


def _settle_copies(graph):
    """If one output is a copy of another, as in tf2onnx's loops, makes the earlier one the original, which all read."""
    position = {value.name: i for i, value in enumerate(graph.output)}
    for copy in graph.node:
        if copy.op_type != "Identity" or copy.input[0] not in position or copy.output[0] not in position:
            continue
        source = next((node for node in graph.node if copy.input[0] in node.output), None)
        if source is None:
            continue
        first, second = sorted((copy.input[0], copy.output[0]), key=lambda name: position[name])
        source.output[:] = [first if name == copy.input[0] else name for name in source.output]
        copy.input[:], copy.output[:] = [first], [second]
        for node in graph.node:
            node.input[:] = [first if name == second else name for name in node.input]


def _in_order_of_need(graph):
    """The nodes that the outputs need, each after those that it needs, in the order of inputs and outputs."""
    found = list(graph.node)
    producer = {name: i for i, node in enumerate(found) for name in node.output if name}
    done = {}  # a dict, for its order
    for value in graph.output:
        stack = [producer[value.name]] if value.name in producer else []
        while stack:
            needs = (producer[name] for name in _reads(found[stack[-1]]) if name in producer)
            pending = next((i for i in needs if i not in done), None)
            if pending is None:
                done[stack.pop()] = None
            else:
                stack.append(pending)
    return [found[i] for i in done]


def _reads(node):
    """The names that a node reads, including those that its bodies read from outside."""
    return [*node.input, *(name for body in _bodies(node) for name in _free(body))]


def _free(graph):
    bound = {value.name for value in (*graph.input, *graph.initializer)}
    bound |= {name for node in graph.node for name in node.output}
    read = [name for node in graph.node for name in _reads(node)] + [value.name for value in graph.output]
    return [name for name in read if name not in bound]


def _bodies(node):
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def _replace(field, values):
    copies = [type(value).FromString(value.SerializeToString()) for value in values]
    del field[:]
    field.extend(copies)
