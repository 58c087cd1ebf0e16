"""From keyword arguments to the program's flags, and from arrays to files that it reads."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Optional, Protocol, Union

StrPath = Union[str, "os.PathLike[str]"]


class Array(Protocol):
    """Anything that numpy makes an array of: numpy's own arrays, tensors of torch on the processor, …"""

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        """The array."""


#: Samples: a path that ``--data`` takes; an array with samples along its first axis; or one for each input, by name.
Data = Union[StrPath, Array, Mapping[str, Array]]
#: The value of a flag.
Flag = Union[None, bool, int, float, str, "os.PathLike[str]", Sequence[Any], Mapping[str, Any]]

#: Flags that take one list with commas; others are repeated.
_JOINED = frozenset({"mean", "std", "criterion", "loss", "augment"})
#: Things that are done unless a flag ``--no-…`` says otherwise.
_USUAL = frozenset({"verify", "memory"})


def _text(value: object) -> str:
    return os.fspath(value) if isinstance(value, (str, os.PathLike)) else str(value)


def _items(value: Any) -> Optional[list[str]]:
    """The items of a list or mapping; ``None`` for a single value."""
    if isinstance(value, (str, os.PathLike)):
        return None
    if isinstance(value, Mapping):
        return [f"{key}={_text(item)}" for key, item in value.items()]
    # Also arrays, such as a mean that numpy computed; one without axes is a number.
    if isinstance(value, Sequence) or (hasattr(value, "__iter__") and getattr(value, "ndim", 1) > 0):
        return [_text(item) for item in value]
    return None


def flags(options: Mapping[str, Any]) -> list[str]:
    """Arguments for the program.

    ``target_macs=0.5`` becomes ``--target-macs=0.5``; ``True`` a bare flag; ``None`` and ``False`` nothing; a list a flag for
    each item, or one with commas where the program takes it so (``mean``, ``std``, ``criterion``, ``loss``, ``augment``);
    ``{"a": 1}`` is ``a=1``. ``verify=False`` and ``memory=False`` are ``--no-verify`` and ``--no-memory``.
    """
    arguments: list[str] = []
    for name, value in options.items():
        flag = "--" + name.strip("_").replace("_", "-")
        if name in _USUAL and isinstance(value, bool):
            flag, value = flag.replace("--", "--no-", 1), not value
        if value is None or value is False:
            continue
        if value is True:
            arguments.append(flag)
            continue
        items = _items(value)
        if items is None:
            items = [_text(value)]
        elif name in _JOINED:
            items = [",".join(items)] if items else []
        # With = a value may begin with a dash.
        arguments += [f"{flag}={item}" for item in items]
    return arguments


@contextmanager
def samples(**given: Optional[tuple[Optional[Data], Optional[Array]]]) -> Iterator[dict[str, Optional[str]]]:
    """A path for each flag, from (data, labels): arrays are in temporary files as long as the context lasts."""
    with TemporaryDirectory(prefix="onnx-prune-") as folder:
        yield {flag: _path(flag, pair, Path(folder)) for flag, pair in given.items()}


def _path(flag: str, pair: Optional[tuple[Optional[Data], Optional[Array]]], folder: Path) -> Optional[str]:
    data, labels = pair or (None, None)
    name = flag.strip("_")
    if data is None or isinstance(data, (str, os.PathLike)):
        if labels is not None:
            raise TypeError(f"labels go with arrays; {name} is {data!r}: put labels into its file, under the name labels")
        return None if data is None else os.fspath(data)
    try:
        import numpy
    except ImportError as error:
        raise TypeError(f"{name} is a {type(data).__name__}, which takes numpy: pip install numpy, or give a path") from error
    named: dict[str, Any]
    if isinstance(data, Mapping):
        named = {str(key): numpy.asarray(value) for key, value in data.items()}
    elif hasattr(data, "__array__"):
        named = {"data": numpy.asarray(data)}
    else:
        raise TypeError(f"{name} is a {type(data).__name__}; expected a path, an array, or a dict of arrays by input")
    if labels is None and not isinstance(data, Mapping):
        path = folder / f"{name}.npy"
        numpy.save(path, named["data"], allow_pickle=False)
        return str(path)
    if labels is not None:
        named["labels"] = numpy.asarray(labels)
    path = folder / f"{name}.npz"
    _savez(path, named)
    return str(path)


def _savez(path: Path, named: Mapping[str, Any]) -> None:
    """``numpy.savez`` without its reserved names: an input may be called ``file``."""
    import zipfile

    import numpy

    with zipfile.ZipFile(path, "w") as archive:
        for name, array in named.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                numpy.lib.format.write_array(file, array, allow_pickle=False)
