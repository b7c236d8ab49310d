"""Runs a signature of a SavedModel through TensorFlow's C API, in a process without Python's TF.

`TF_LoadSessionFromSavedModel` is the loader that TF Serving uses. `predict` is for tests; the child
process, `main`, gets names of tensors and values as JSON and knows nothing of signatures.
"""

import base64
import ctypes
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from ctypes import POINTER, c_char_p, c_int, c_int64, c_size_t, c_void_p
from pathlib import Path
from typing import Any

import numpy as np

FLOAT, INT32, STRING, INT64 = 1, 3, 7, 9
NUMPY = {FLOAT: np.dtype(np.float32), INT32: np.dtype(np.int32), INT64: np.dtype(np.int64)}
STRING_BYTES = 24  # sizeof(TF_TString)


def predict(
    folder: Path, signature: str, inputs: Mapping[str, Any], ops_library: Path | None = None
) -> dict[str, np.ndarray]:
    """Answers of a signature, by output name; raises RuntimeError with TensorFlow's message."""
    from tensorflow.core.protobuf import saved_model_pb2

    saved_model = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    definition = saved_model.meta_graphs[0].signature_def[signature]
    request = {
        "folder": str(folder),
        "ops_library": str(ops_library) if ops_library else None,
        "inputs": [
            [definition.inputs[name].name, definition.inputs[name].dtype, value]
            for name, value in inputs.items()
        ],
        "outputs": [info.name for info in definition.outputs.values()],
    }
    child = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    if child.returncode:
        raise RuntimeError(child.stderr[-3000:])
    answers = json.loads(child.stdout)
    return {
        name: _decoded(answer) for name, answer in zip(definition.outputs, answers, strict=True)
    }


def _decoded(answer: dict[str, Any]) -> np.ndarray:
    if answer["dtype"] == "strings":
        values = np.array([base64.b64decode(value) for value in answer["values"]], np.object_)
    else:
        values = np.frombuffer(base64.b64decode(answer["values"]), answer["dtype"])
    return values.reshape(answer["shape"])


class _Output(ctypes.Structure):
    _fields_ = (("operation", c_void_p), ("index", c_int))


_FUNCTIONS = {
    "TF_AllocateTensor": (c_void_p, [c_int, POINTER(c_int64), c_int, c_size_t]),
    "TF_Dim": (c_int64, [c_void_p, c_int]),
    "TF_GetCode": (c_int, [c_void_p]),
    "TF_GraphOperationByName": (c_void_p, [c_void_p, c_char_p]),
    "TF_LoadLibrary": (c_void_p, [c_char_p, c_void_p]),
    "TF_LoadSessionFromSavedModel": (
        c_void_p,
        [c_void_p, c_void_p, c_char_p, POINTER(c_char_p), c_int, c_void_p, c_void_p, c_void_p],
    ),
    "TF_Message": (c_char_p, [c_void_p]),
    "TF_NewGraph": (c_void_p, []),
    "TF_NewSessionOptions": (c_void_p, []),
    "TF_NewStatus": (c_void_p, []),
    "TF_NumDims": (c_int, [c_void_p]),
    "TF_SessionRun": (
        None,
        [c_void_p, c_void_p]
        + [POINTER(_Output), POINTER(c_void_p), c_int] * 2
        + [c_void_p, c_int, c_void_p, c_void_p],
    ),
    "TF_StringCopy": (None, [c_void_p, c_char_p, c_size_t]),
    "TF_StringGetDataPointer": (c_void_p, [c_void_p]),
    "TF_StringGetSize": (c_size_t, [c_void_p]),
    "TF_StringInit": (None, [c_void_p]),
    "TF_TensorByteSize": (c_size_t, [c_void_p]),
    "TF_TensorData": (c_void_p, [c_void_p]),
    "TF_TensorType": (c_int, [c_void_p]),
}


class _TensorFlow:
    """The functions of the C API that are needed; what they allocate lives with the process."""

    def __init__(self) -> None:
        spec = importlib.util.find_spec("tensorflow")  # Finds it without importing it.
        package = Path(spec.origin).parent
        libraries = [
            ctypes.CDLL(str(package / name), mode=ctypes.RTLD_GLOBAL)
            for name in ("libtensorflow_framework.so.2", "libtensorflow_cc.so.2")
        ]
        for name, (result, arguments) in _FUNCTIONS.items():
            library = next(library for library in libraries if hasattr(library, name))
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
            setattr(self, name, function)
        self.status = self.TF_NewStatus()

    def check(self) -> None:
        if self.TF_GetCode(self.status):
            raise SystemExit(self.TF_Message(self.status).decode())

    def tensor(self, dtype: int, value: Any) -> int:
        array = np.array(value, NUMPY.get(dtype, np.object_), order="C")
        num_bytes = array.size * STRING_BYTES if dtype == STRING else array.nbytes
        shape = (c_int64 * array.ndim)(*array.shape)
        tensor = self.TF_AllocateTensor(dtype, shape, array.ndim, num_bytes)
        data = self.TF_TensorData(tensor)
        if dtype != STRING:
            ctypes.memmove(data, array.ctypes.data, array.nbytes)
            return tensor
        for position, text in enumerate(array.ravel()):
            place, encoded = data + position * STRING_BYTES, text.encode()
            self.TF_StringInit(place)
            self.TF_StringCopy(place, encoded, len(encoded))
        return tensor

    def value(self, tensor: int) -> dict[str, Any]:
        shape = [self.TF_Dim(tensor, axis) for axis in range(self.TF_NumDims(tensor))]
        data, dtype = self.TF_TensorData(tensor), self.TF_TensorType(tensor)
        if dtype != STRING:
            values = ctypes.string_at(data, self.TF_TensorByteSize(tensor))
            encoded = base64.b64encode(values).decode()
            return {"dtype": NUMPY[dtype].name, "shape": shape, "values": encoded}
        places = [data + position * STRING_BYTES for position in range(int(np.prod(shape)))]
        texts = [
            ctypes.string_at(self.TF_StringGetDataPointer(place), self.TF_StringGetSize(place))
            for place in places
        ]
        encoded = [base64.b64encode(text).decode() for text in texts]
        return {"dtype": "strings", "shape": shape, "values": encoded}


def main() -> None:
    """Reads a request from stdin, writes the answers to stdout."""
    request = json.load(sys.stdin)
    tf = _TensorFlow()
    if request["ops_library"]:
        tf.TF_LoadLibrary(request["ops_library"].encode(), tf.status)
        tf.check()
    graph = tf.TF_NewGraph()
    folder, tags = request["folder"].encode(), (c_char_p * 1)(b"serve")
    session = tf.TF_LoadSessionFromSavedModel(
        tf.TF_NewSessionOptions(), None, folder, tags, 1, graph, None, tf.status
    )
    tf.check()

    def outputs(names: list[str]) -> Any:
        places = [name.rsplit(":", 1) for name in names]
        return (_Output * len(names))(
            *(
                _Output(tf.TF_GraphOperationByName(graph, operation.encode()), int(index))
                for operation, index in places
            )
        )

    fed = [tf.tensor(dtype, value) for _, dtype, value in request["inputs"]]
    fetched = (c_void_p * len(request["outputs"]))()
    tf.TF_SessionRun(
        session,
        None,
        outputs([name for name, _, _ in request["inputs"]]),
        (c_void_p * len(fed))(*fed),
        len(fed),
        outputs(request["outputs"]),
        fetched,
        len(fetched),
        None,
        0,
        None,
        tf.status,
    )
    tf.check()
    if "tensorflow" in sys.modules:
        raise SystemExit("Python's TensorFlow was imported: this shows nothing")
    json.dump([tf.value(tensor) for tensor in fetched], sys.stdout)


if __name__ == "__main__":
    main()
