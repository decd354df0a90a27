"""What is refused, in one class for Python and HTTP: the message says what is wrong and what to do about it."""

from typing import Any


class RequestError(ValueError):
    """A request, to a `Pipeline` or over HTTP, that cannot be served as it is.

    Args:
        message: One or two sentences for whoever made the request; the server sends them back.
        status: HTTP status of the answer.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status: int = status


class Overloaded(RequestError):
    """There is no room for a request now; there will be later."""

    def __init__(self, message: str) -> None:
        super().__init__(message, status=503)


def abbreviate(value: Any) -> str:
    """A value as text for an error: at most a line long whatever was sent, and without walking through all of it."""
    match value:
        case None:
            return "nothing"
        case dict():
            return "an object" if value else "{}"
        case list() if len(value) > 8 or any(isinstance(part, list | dict) for part in value):
            return f"a list of {len(value)}"
        case list():
            return f"[{', '.join(map(abbreviate, value))}]"
        case str() if len(value) > 30:
            return repr(value[:30]) + "..."
        case int() if abs(value) >= 10**40:  # of too many digits Python makes no text
            return "a whole number of more than 40 digits"
        case _:
            text = repr(value)
            return text if len(text) <= 40 else text[:40] + "..."
