"""Words without torch: packed models as ONNX graphs on a CPU; the graphs are built here from the packed weights."""
