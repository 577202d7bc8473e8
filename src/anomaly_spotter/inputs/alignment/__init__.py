"""Alignment: where the part lies in a picture, so that every part can be looked at in the same pose.

Good pictures in, an :class:`Aligner` out; a picture in, a :class:`Pose` out: a rigid motion, a quality, and the
reason why the picture cannot be judged where there is one (no part, several, cut by the border, not like the good).
"""

from anomaly_spotter.inputs.alignment.aligner import Aligner, Pose, Reason
from anomaly_spotter.inputs.alignment.learning import AlignmentError, fit_aligner

__all__ = ["Aligner", "AlignmentError", "Pose", "Reason", "fit_aligner"]
