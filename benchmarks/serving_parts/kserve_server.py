"""The decoder in the KServe SDK, for `benchmarks/serving.py`: the same file, onnxruntime and number of threads as ours.

    python kserve_server.py --model PATH [KServe's own options]

It listens on all interfaces, and has no option for less.
"""

import argparse

import kserve
import onnxruntime


class Decoder(kserve.Model):
    def __init__(self, path):
        super().__init__("decoder")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._names = [output.name for output in self._session.get_outputs()]
        self.ready = True

    def predict(self, payload, headers=None, response_headers=None):
        inputs = {tensor.name: tensor.as_numpy() for tensor in payload.inputs}
        binary, outputs = payload.use_binary_outputs, []
        for name, array in zip(self._names, self._session.run(None, inputs), strict=True):
            output = kserve.InferOutput(name, list(array.shape), "FP32")
            output.set_data_from_numpy(array, binary_data=binary)
            outputs.append(output)
        return kserve.InferResponse(payload.id or "none", self.name, outputs, use_binary_outputs=binary)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(parents=[kserve.model_server.parser])
    parser.add_argument("--model", required=True)
    kserve.ModelServer().start([Decoder(parser.parse_args().model)])
