"""Imported before everything else, so that a missing package is a sentence and not a traceback from the depths.

onnxruntime and onnxruntime-gpu have files of the same names. pip installs one over the other without a word, and to
uninstall one takes the files of both: what is left can be a folder that can be imported, and holds nothing.
"""

from importlib import metadata

WHEELS: tuple[str, str] = ("onnxruntime-gpu", "onnxruntime")


def is_installed(name: str) -> bool:
    """Whether pip has a record of a package."""
    return next(iter(metadata.distributions(name=name)), None) is not None


def conflict() -> str | None:
    """What is wrong where the files of onnxruntime cannot be those of one wheel, and what mends it; else None.

    To be asked only where something is wrong: it looks through the folders of installed packages.
    """
    installed = [name for name in WHEELS if is_installed(name)]
    if not installed:
        return None
    what = (
        "onnxruntime and onnxruntime-gpu are both installed, and one has overwritten files of the other"
        if len(installed) == 2
        else f"files of {installed[0]} are missing, as where onnxruntime or onnxruntime-gpu was uninstalled and the "
        "other was not"
    )
    return f"{what}: run `pip uninstall -y onnxruntime onnxruntime-gpu`, then `pip install {installed[0]}`"


try:
    import onnxruntime

    _ = onnxruntime.InferenceSession
except (ImportError, AttributeError) as _error:
    _reason = conflict()
    if _reason is None and not isinstance(_error, ModuleNotFoundError | AttributeError):
        raise  # it is there, and says what it lacks
    raise ModuleNotFoundError(
        f"keras_vae_serving cannot use onnxruntime ({_error}): {_reason}."
        if _reason
        else 'keras_vae_serving needs onnxruntime: pip install "keras-vae[serving]".',
        name="onnxruntime",
    ) from None
