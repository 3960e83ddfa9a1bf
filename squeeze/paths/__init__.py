"""What the paths of a gated network say of it: of its layers, its classes, single inputs."""

from squeeze.paths.silencing import silenced as silenced
from squeeze.paths.study import Asked as Asked
from squeeze.paths.study import Paths as Paths
from squeeze.paths.study import find_paths as find_paths
