"""Telling attacked inputs by the codes of a gated network."""

from squeeze.detection.attacks import BIM as BIM
from squeeze.detection.attacks import FGSM as FGSM
from squeeze.detection.attacks import PGD as PGD
from squeeze.detection.attacks import Attack as Attack
from squeeze.detection.attacks import Box as Box
from squeeze.detection.attacks import DeepFool as DeepFool
from squeeze.detection.detector import Detector as Detector
from squeeze.detection.detector import load_detector as load_detector
from squeeze.detection.judging import Detection as Detection
from squeeze.detection.judging import Threats as Threats
from squeeze.detection.judging import Verdict as Verdict
from squeeze.detection.judging import detect as detect
