"""Runs recorded for later: parameters, metrics, files and models go to MLflow, curves and pictures to TensorBoard.

A run is first written to a journal on this disk (:mod:`~anomaly_spotter.tracking.journal`) and from there delivered by a
thread of its own, so that a server that is slow or away never holds up a training; what is not delivered waits there.
"""
