"""ndarray <-> Tensor. The only file that knows the byte layout."""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from saccade.common.v1 import types_pb2
from services.common.errors import InvalidArgument

__all__ = ["from_tensor", "to_tensor"]

_DTYPES: Final[dict[int, np.dtype[np.floating]]] = {
    types_pb2.DATA_TYPE_FLOAT32: np.dtype("<f4"),
    types_pb2.DATA_TYPE_FLOAT16: np.dtype("<f2"),
}


def to_tensor(array: NDArray[np.floating]) -> types_pb2.Tensor:
    """Pack an array of any shape as little-endian float32, row-major."""
    data = np.ascontiguousarray(array, dtype="<f4")
    return types_pb2.Tensor(data_type=types_pb2.DATA_TYPE_FLOAT32, shape=data.shape, data=data.tobytes())


def from_tensor(tensor: types_pb2.Tensor, *, field: str = "tensor") -> NDArray[np.float32]:
    """Unpack a tensor into a fresh float32 array of its shape.

    Raises:
        InvalidArgument: unknown element type, a length that the shape contradicts, or values that are not finite.
    """
    dtype = _DTYPES.get(tensor.data_type)
    if dtype is None:
        raise InvalidArgument("data_type must be DATA_TYPE_FLOAT32 or DATA_TYPE_FLOAT16", field=f"{field}.data_type")
    shape = tuple(tensor.shape)
    expected = math.prod(shape) * dtype.itemsize
    if len(tensor.data) != expected:
        raise InvalidArgument(
            f"data has {len(tensor.data)} bytes, but shape {list(shape)} needs {expected}", field=f"{field}.data"
        )
    array: NDArray[np.float32] = np.frombuffer(tensor.data, dtype=dtype).reshape(shape).astype(np.float32)
    if not np.isfinite(array).all():
        raise InvalidArgument("data must hold finite numbers only", field=f"{field}.data")
    return array
