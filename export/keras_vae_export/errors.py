"""The errors of an export and of a check. An export that fails leaves nothing on disk."""


class ExportError(ValueError):
    """A model that could not be exported."""


class ConversionError(ExportError):
    """A graph that an engine could not convert; the message names the layer or operation, and what to do."""


class StructureError(ExportError):
    """A converted file whose names, order, dtypes, shapes, operators or opset are not as promised."""


class ParityError(ExportError):
    """A converted file that does not compute what the model computes.

    Attributes:
        graph, tensor: Names of the graph and of its output; `tensor` is None if the graph did not run.
        index: Position of the value with the largest error, in the tensor of that batch, or None.
        expected, found: Value of the model and value of the file.
    """

    graph: str
    tensor: str | None
    index: tuple[int, ...] | None
    expected: float | None
    found: float | None

    def __init__(
        self,
        message: str,
        graph: str,
        tensor: str | None = None,
        index: tuple[int, ...] | None = None,
        expected: float | None = None,
        found: float | None = None,
    ) -> None:
        super().__init__(message)
        self.graph, self.tensor, self.index, self.expected, self.found = graph, tensor, index, expected, found


class AccuracyError(ExportError):
    """A smaller variant of a graph that loses more of the bound than was allowed."""
