"""One file for each runtime; each runs by :mod:`enc_caffe.runtimes.worker` in the Python that has the runtime.

An adapter has ``version()`` and a class ``Net(prototxt, caffemodel, folder, inputs, threads)``: it converts by the runtime's own
importer into ``folder`` and holds the inputs (float32 arrays by blob); ``run()`` is one forward pass, and ``outputs(inputs)`` gives
the outputs by their names.

Where conversion takes long to begin with it may have ``together([(prototxt, caffemodel, inputs), ...], folder, threads)`` too: several
networks converted as one, a ``Net`` for each. What adapters share is in ``by_*.py``, which goes out with them.
"""
