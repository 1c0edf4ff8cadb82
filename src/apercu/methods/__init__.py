"""Methods that query the classifier, one file each, and the baselines of every table.

`apercu.methods.get("rise:masks=400")` returns a method by its name.
"""

from __future__ import annotations

from apercu.methods.attention_relevance import AttentionRelevance
from apercu.methods.attention_rollout import AttentionRollout
from apercu.methods.augmented import Augmented
from apercu.methods.base import (
    BoundMethod,
    MapExplainer,
    MapScale,
    Method,
    Requirement,
    TrainedMethod,
    Wrapper,
)
from apercu.methods.baselines import CentreBlob, CentreBox, Edges, RandomMap, TrueBox, WholeBox
from apercu.methods.cam import Cam
from apercu.methods.excitation_backprop import ExcitationBackprop
from apercu.methods.grad_cam import GradCam
from apercu.methods.grad_cam_pp import GradCamPlusPlus
from apercu.methods.gradient import Gradient
from apercu.methods.gradient_shap import GradientShap
from apercu.methods.guided_backprop import GuidedBackprop
from apercu.methods.guided_integrated_gradients import GuidedIntegratedGradients
from apercu.methods.input_x_gradient import InputXGradient
from apercu.methods.integrated_gradients import IntegratedGradients
from apercu.methods.lrp import Lrp
from apercu.methods.meaningful_perturbation import MeaningfulPerturbation
from apercu.methods.mfpp import Mfpp
from apercu.methods.occlusion import Occlusion
from apercu.methods.registry import get, names
from apercu.methods.rise import Rise
from apercu.methods.second_look import SecondLook
from apercu.methods.smooth_grad import SmoothGrad
from apercu.methods.smooth_taylor import SmoothTaylor
from apercu.methods.smoothed import Smoothed
from apercu.methods.zoom_cam import ZoomCam

__all__ = [
    "AttentionRelevance",
    "AttentionRollout",
    "Augmented",
    "BoundMethod",
    "Cam",
    "CentreBlob",
    "CentreBox",
    "Edges",
    "ExcitationBackprop",
    "GradCam",
    "GradCamPlusPlus",
    "Gradient",
    "GradientShap",
    "GuidedBackprop",
    "GuidedIntegratedGradients",
    "InputXGradient",
    "IntegratedGradients",
    "Lrp",
    "MapExplainer",
    "MapScale",
    "MeaningfulPerturbation",
    "Method",
    "Mfpp",
    "Occlusion",
    "RandomMap",
    "Requirement",
    "Rise",
    "SecondLook",
    "SmoothGrad",
    "SmoothTaylor",
    "Smoothed",
    "TrainedMethod",
    "TrueBox",
    "WholeBox",
    "Wrapper",
    "ZoomCam",
    "get",
    "names",
]
