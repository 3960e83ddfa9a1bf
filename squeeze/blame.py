"""Which line of the user's code is behind an error or an op."""

import os
import re
import sys
from pathlib import Path
from types import CodeType, FrameType

import torch
from torch import nn

_INSIDE = (f"{Path(torch.__file__).parent}{os.sep}", f"{Path(__file__).parent}{os.sep}", "<")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")

Place = tuple[CodeType, int]
"""A line of code."""


def user_place() -> Place | None:
    """The innermost caller that is neither torch nor this package."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_INSIDE):
        frame = frame.f_back
    return None if frame is None else (frame.f_code, frame.f_lineno)


def line_at(place: Place | None) -> str:
    """``file:line in function``; "" for no place."""
    return "" if place is None else f"{Path(place[0].co_filename).name}:{place[1]} in {place[0].co_name}"


def line_of(error: BaseException) -> str:
    """`line_at` of the innermost frame of a traceback outside torch and this package."""
    place, trace = None, error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if not code.co_filename.startswith(_INSIDE):
            place = (code, trace.tb_lineno)
        trace = trace.tb_next
    return line_at(place)


def modules_of(error: BaseException) -> list[nn.Module]:
    """The modules at work when an error came up, innermost first."""
    frames, trace = list[FrameType](), error.__traceback__
    while trace is not None:
        frames.append(trace.tb_frame)
        trace = trace.tb_next
    values = (value for frame in reversed(frames) for value in frame.f_locals.values())
    return list(dict.fromkeys(value for value in values if isinstance(value, nn.Module)))


def first_line(error: BaseException) -> str:
    """What an error says first, without colours; its type if it says nothing."""
    lines = (_COLOUR.sub("", line).strip() for line in str(error).splitlines())
    return next((line for line in lines if line), type(error).__name__)
