"""Architecture decoupling (Li et al., ECCV 2020): each layer gates its filters, input by input."""

from squeeze.passes.decouple.search import Decouple as Decouple
