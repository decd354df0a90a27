"""Where a graph runs: "auto", "cpu", "cuda", and never somewhere else without a word.

onnxruntime lists every provider that its wheel was built with, usable or not, and a session asked for CUDA on a machine
without it runs on the CPU, with a line on stderr and no exception (onnxruntime issues 23372, 17801, 21424). So what a
GPU needs is looked for first, and a session's providers are compared with those asked for after it was made.
"""

import ctypes
import functools
import pathlib
import sys
import warnings
from collections.abc import Sequence
from typing import Any, TypeAlias

import onnxruntime

from keras_vae_serving import _requirements

Providers: TypeAlias = str | Sequence[str | tuple[str, dict[str, Any]]]

_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_NAMES = {"cpu": _CPU, "cuda": _CUDA}


class ProviderError(RuntimeError):
    """An execution provider that was asked for cannot be used."""


def resolve(providers: Providers = "auto") -> list[Any]:
    """The list that onnxruntime takes.

    Args:
        providers: "auto" (CUDA where it can be used, else the CPU, which is said once where the installed onnxruntime
            could use a GPU), "cpu", "cuda", or a sequence of these, of onnxruntime's own names, and of pairs of a name
            and a dict of options.

    Raises:
        ProviderError: If one of them cannot be used here; says why.
    """
    if providers == "auto":
        reason = why_no_cuda()
        if reason is None:
            return [_CUDA, _CPU]
        if _CUDA in onnxruntime.get_available_providers() or _gpu_wheel_overwritten():
            _say_once(reason)
        return [_CPU]
    chosen = []
    for provider in [providers] if isinstance(providers, str) else providers:
        name, options = (provider, None) if isinstance(provider, str) else provider
        name = _NAMES.get(name, name)
        if name == _CUDA and (reason := why_no_cuda()):
            raise ProviderError(f'CUDA cannot be used: {reason}. Use providers="cpu", or "auto" to take what there is.')
        if name not in onnxruntime.get_available_providers():
            have = ", ".join(onnxruntime.get_available_providers())
            raise ProviderError(
                f'onnxruntime has no provider {name!r} here; it has {have}. Use "cpu", "cuda" or "auto".'
            )
        chosen.append(name if options is None else (name, options))
    if not chosen:
        raise ValueError('providers is empty: use "cpu", "cuda" or "auto".')
    return chosen


def check(session: Any, asked: list[Any], fall_back: bool = False) -> None:
    """Raises a ProviderError, or says once, that a session dropped one of the providers it was asked to use."""
    names = [provider if isinstance(provider, str) else provider[0] for provider in asked]
    missing = [name for name in names if name not in session.get_providers()]
    if missing and fall_back:
        _say_once(f"onnxruntime dropped {missing[0]}; its reason is on standard error")
    elif missing:
        raise ProviderError(
            f"onnxruntime dropped {missing[0]} and would run on {session.get_providers()[0]}: it could not set the "
            "provider up; its reason is on standard error."
        )


@functools.cache
def why_no_cuda() -> str | None:
    """None if CUDA can be used, else the reason in words."""
    if _CUDA not in onnxruntime.get_available_providers():
        return _gpu_wheel_overwritten() or (
            "this onnxruntime was built without CUDA (run `pip uninstall -y onnxruntime`, then `pip install "
            "onnxruntime-gpu`)"
        )
    if sys.platform != "linux":
        return None  # how the driver is called elsewhere was not tried: `check` will tell
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "there is no NVIDIA driver on this machine (libcuda.so.1 is not found)"
    count = ctypes.c_int()
    if (code := driver.cuInit(0)) or (code := driver.cuDeviceGetCount(ctypes.byref(count))):
        return f"the NVIDIA driver finds no usable GPU (CUDA error {code})"
    if count.value == 0:
        return "the NVIDIA driver finds no GPU"
    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # from the nvidia-* wheels, where they are installed
    library = pathlib.Path(str(onnxruntime.__file__)).parent / "capi" / "libonnxruntime_providers_cuda.so"
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        # The provider's library wants symbols of its host, which only onnxruntime gives it: not an error.
        if "undefined symbol" not in str(error):
            return f"a library is missing: {error} (pip install 'onnxruntime-gpu[cuda,cudnn]' brings them)"
    return None


@functools.cache
def _gpu_wheel_overwritten():
    """What is wrong where onnxruntime has no CUDA although the wheel that has it is installed beside it; else None."""
    return _requirements.conflict() if all(map(_requirements.is_installed, _requirements.WHEELS)) else None


@functools.cache
def _say_once(reason):
    warnings.warn(f"Running on the CPU: {reason}.", RuntimeWarning, stacklevel=4)
