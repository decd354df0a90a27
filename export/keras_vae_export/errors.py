"""What can go wrong in an export, or show in a check. An export that fails leaves no bundle and no part of one."""


class ExportError(ValueError):
    """A model that could not be exported."""


class ConversionError(ExportError):
    """A graph that an engine could not convert: names the layer or operation, and what to do."""


class StructureError(ExportError):
    """A converted file that is not what was promised: names, order, dtypes, shapes, operators, opset."""


class ParityError(ExportError):
    """A converted file that does not compute what the model computes.

    Attributes:
        graph, tensor: Where.
        index: Of the value that is furthest off, in the tensor of that batch; None if the graph did not run at all.
        expected, found: The model's value and the file's.
    """

    def __init__(self, message, graph, tensor=None, index=None, expected=None, found=None):
        super().__init__(message)
        self.graph, self.tensor, self.index, self.expected, self.found = graph, tensor, index, expected, found


class AccuracyError(ExportError):
    """A smaller variant of a graph that loses more of the bound than was allowed."""
