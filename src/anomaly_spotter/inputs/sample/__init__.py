"""The package's own procedural data set: eight kinds of goods, drawn, lit and photographed by arithmetic.

It needs no download and no licence, knows every defect to the pixel, and is laid out like MVTec AD, so that the
tool can be tried and tested anywhere. The pictures are made up; no measurement on them says anything about real parts.
"""

from anomaly_spotter.inputs.sample.picture import CATEGORIES, DEFECT_KINDS, render
from anomaly_spotter.inputs.sample.writer import write_sample

__all__ = ["CATEGORIES", "DEFECT_KINDS", "render", "write_sample"]
