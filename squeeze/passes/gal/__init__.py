"""GAL: structured pruning by generative adversarial learning (Lin et al. 2019, CVPR)."""

from squeeze.passes.gal.search import GAL as GAL
