"""Methods that query the classifier, one file each, and the baselines of every table."""

from __future__ import annotations

from apercu.methods.base import Explainer, Kind, Method, Trained
from apercu.methods.cam import Cam
from apercu.methods.centre_box import CentreBox
from apercu.methods.grad_cam import GradCam
from apercu.methods.gradient import Gradient
from apercu.methods.occlusion import Occlusion
from apercu.methods.true_box import TrueBox
from apercu.methods.whole_box import WholeBox

__all__ = [
    "Cam",
    "CentreBox",
    "Explainer",
    "GradCam",
    "Gradient",
    "Kind",
    "Method",
    "Occlusion",
    "Trained",
    "TrueBox",
    "WholeBox",
]
