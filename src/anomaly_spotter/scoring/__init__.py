"""Stage 3, anomaly map to decision: smoothing, normalisation, image score, calibration, mask and regions."""
