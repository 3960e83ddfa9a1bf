"""Modules that a compressed model may contain."""

from squeeze.nn.absent import Absent as Absent
from squeeze.nn.absent import Removed as Removed
