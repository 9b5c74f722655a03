import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from saccade.common.v1 import types_pb2
from services.common.errors import InvalidArgument
from services.common.tensors import from_tensor, to_tensor

finite = st.floats(-1e6, 1e6, width=32)


@given(st_numpy.arrays(np.float32, st_numpy.array_shapes(max_dims=3, max_side=6), elements=finite))
def test_an_array_comes_back_as_it_was(array: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> None:
    back = from_tensor(to_tensor(array))
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back, array)


def test_elements_are_little_endian_and_row_major() -> None:
    tensor = to_tensor(np.array([[1, 2], [3, 4]], dtype=">f4").T)
    assert tensor.data == np.array([1, 3, 2, 4], dtype="<f4").tobytes()
    assert list(tensor.shape) == [2, 2]


def test_float16_is_read() -> None:
    data = np.array([0.5, -2], dtype="<f2").tobytes()
    tensor = types_pb2.Tensor(data_type=types_pb2.DATA_TYPE_FLOAT16, shape=[2], data=data)
    np.testing.assert_array_equal(from_tensor(tensor), np.array([0.5, -2], dtype=np.float32))


@pytest.mark.parametrize(
    ("tensor", "field"),
    [
        (types_pb2.Tensor(shape=[1], data=b"\0" * 4), "parts[0].vector.data_type"),
        (
            types_pb2.Tensor(data_type=types_pb2.DATA_TYPE_FLOAT32, shape=[2], data=b"\0" * 4),
            "parts[0].vector.data",
        ),
        (to_tensor(np.array([np.nan], dtype=np.float32)), "parts[0].vector.data"),
        (to_tensor(np.array([np.inf], dtype=np.float32)), "parts[0].vector.data"),
    ],
    ids=["no element type", "length against shape", "nan", "infinite"],
)
def test_a_bad_tensor_is_refused_by_name(tensor: types_pb2.Tensor, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        from_tensor(tensor, field="parts[0].vector")
    assert caught.value.field == field
