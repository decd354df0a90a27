"""For `nox -- mutation`: functions that mutmut has wrapped keep their signatures, which Keras reads from its layers."""

import inspect

from mutmut.mutation import trampoline

_wrap = trampoline.wrap_in_trampoline


def _wrap_with_signature(*arguments, **options):
    def decorate(function):
        wrapper = _wrap(*arguments, **options)(function)
        wrapper.__signature__ = inspect.signature(function)
        return wrapper

    return decorate


trampoline.wrap_in_trampoline = _wrap_with_signature
