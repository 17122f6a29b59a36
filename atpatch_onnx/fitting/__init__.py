"""The steps of `atpatch_onnx.fit`: split, capture, detector, benign pair, calibration, evidence."""
