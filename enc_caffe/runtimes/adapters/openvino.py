"""OpenVINO up to 2023.3: Model Optimizer's Python function, and the CPU plugin in float32."""

import numpy as np
from openvino.runtime import Core, get_version
from openvino.tools.mo import convert_model


def version():
    """Of the runtime."""
    return get_version().split("-")[0]


class Net:
    """A network in OpenVINO."""

    def __init__(self, prototxt, caffemodel, folder, inputs, threads):
        model = convert_model(input_model=caffemodel, input_proto=prototxt, compress_to_fp16=False, silent=True)
        # Both would compute in bfloat16 where the CPU can.
        exact = {"ENFORCE_BF16": "NO"} if get_version().startswith("2022") else {"INFERENCE_PRECISION_HINT": "f32"}
        self._net = Core().compile_model(
            model, "CPU", {**exact, "INFERENCE_NUM_THREADS": str(threads), "NUM_STREAMS": "1"}
        )
        self._request = self._net.create_infer_request()
        self._feed(inputs)

    def _feed(self, inputs):
        for port in self._net.inputs:
            names = set(port.get_names()) | {port.get_node().get_friendly_name()}
            self._request.get_tensor(port).data[:] = inputs[next(n for n in inputs if n in names)]

    def run(self):
        """One pass."""
        self._request.infer()

    def outputs(self, inputs):
        """Outputs by the layers that make them."""
        self._feed(inputs)
        self.run()
        return {
            port.get_node().input_value(0).get_node().get_friendly_name(): np.array(self._request.get_tensor(port).data)
            for port in self._net.outputs
        }
