"""ONNX Runtime with its CUDA provider, where the installed build has one."""

import sys

import numpy
import onnxruntime
from cases import case, close

if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
    print("skipped: this ONNX Runtime has no CUDA provider")
    sys.exit(77)


def model():
    from onnx import TensorProto, helper, numpy_helper

    numbers = numpy.random.default_rng(1)
    weights = [numpy_helper.from_array(numbers.integers(-2, 3, shape).astype("f"), name) for name, shape in (("w", (8, 3, 3, 3)), ("m", (8, 5)))]
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]), helper.make_node("Relu", ["c"], ["r"]), helper.make_node("GlobalAveragePool", ["r"], ["p"]),
             helper.make_node("Flatten", ["p"], ["f"]), helper.make_node("MatMul", ["f", "m"], ["y"])]
    graph = helper.make_graph(nodes, "small", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 16, 16])], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 5])], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()


@case("a small network")
def network():
    x = numpy.random.default_rng(2).integers(-2, 3, (2, 3, 16, 16)).astype("f")
    results = []
    for provider in ("CUDAExecutionProvider", "CPUExecutionProvider"):
        session = onnxruntime.InferenceSession(model(), providers=[provider])
        assert session.get_providers()[0] == provider
        results.append(session.run(None, {"x": x})[0])
    close(*results)
    return results[0]
