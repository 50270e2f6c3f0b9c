"""OpenCV 4: ``readNetFromCaffe`` and its own CPU code."""

import cv2


def version():
    """Of the package; OpenCV 5 reads no Caffe files."""
    if int(cv2.__version__.split(".")[0]) != 4:
        raise RuntimeError(f"OpenCV {cv2.__version__} reads no Caffe files; OpenCV 4 does")
    return cv2.__version__


class Net:
    """A network in OpenCV."""

    def __init__(self, prototxt, caffemodel, folder, inputs, threads):
        cv2.setNumThreads(threads)
        self._net = cv2.dnn.readNetFromCaffe(prototxt, caffemodel)
        self._net.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
        self._names = self._net.getUnconnectedOutLayersNames()
        self._feed(inputs)

    def _feed(self, inputs):
        for name, value in inputs.items():
            self._net.setInput(value, name)

    def run(self):
        """One pass."""
        return self._net.forward(self._names)

    def outputs(self, inputs):
        """Outputs by the layers that make them."""
        self._feed(inputs)
        return dict(zip(self._names, self.run()))
