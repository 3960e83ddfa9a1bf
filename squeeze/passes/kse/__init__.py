"""KSE: kernel sparsity and entropy (Li et al., CVPR 2019)."""

from squeeze.passes.kse.indicator import Importance as Importance
from squeeze.passes.kse.indicator import importance as importance
from squeeze.passes.kse.indicator import indicator as indicator
from squeeze.passes.kse.search import KSE as KSE
