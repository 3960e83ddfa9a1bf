"""Modules that a compressed model may contain."""

from squeeze.nn.absent import Absent as Absent
from squeeze.nn.absent import Moved as Moved
from squeeze.nn.absent import Passing as Passing
from squeeze.nn.absent import Removed as Removed
from squeeze.nn.clustered import ClusteredConv2d as ClusteredConv2d
from squeeze.nn.convolving import partly_computed as partly_computed
from squeeze.nn.convolving import with_norms_folded as with_norms_folded
from squeeze.nn.duties import CountsMacs as CountsMacs
from squeeze.nn.duties import HasWays as HasWays
from squeeze.nn.duties import in_onnx_form as in_onnx_form
from squeeze.nn.gated import FollowingConv2d as FollowingConv2d
from squeeze.nn.gated import GatedConv2d as GatedConv2d
from squeeze.nn.gated import ReadingConv2d as ReadingConv2d
from squeeze.nn.gates import Signal as Signal
from squeeze.nn.gates import computing as computing
from squeeze.nn.gates import observing as observing
from squeeze.nn.gates import settled as settled
from squeeze.nn.selecting import Selecting as Selecting
from squeeze.nn.selecting import reading_dim as reading_dim
from squeeze.nn.selecting import selecting as selecting
