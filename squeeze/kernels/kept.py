"""A convolution that its module keeps prepared for the kernel, until one of its tensors changes."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor

from squeeze.kernels.gated import Filters, GatedOperands, why_not
from squeeze.kernels.native import code, extension

Place = tuple[dict[str, Any], str, Any]
"""A dict, a key, and what is found there."""
Seen = tuple[dict[str, Any], str, Any, int | None, int | None]
"""A place, and for a tensor its version and address."""


class KeptFilters:
    """A convolution that its module keeps prepared while its tensors do not change; not copied with the module.

    Attributes:
        filters: The convolution as it was when it was last prepared; None if no native kernel can compute it.
    """

    def __init__(self) -> None:
        self.filters: Filters | None = None
        self._seen: tuple[Seen, ...] = ()
        self._held: tuple[Tensor, ...] = ()
        self._same = same

    def __deepcopy__(self, memo: Any) -> "KeptFilters":
        return KeptFilters()

    def __reduce__(self) -> Any:
        return KeptFilters, ()

    def get(
        self, operands: Callable[[], GatedOperands | None], places: Callable[[], Iterable[Place]]
    ) -> "Filters | None":
        """The convolution, prepared anew if a tensor has changed; None if no native kernel can compute it.

        Args:
            operands: Makes the convolution, where it is needed; None if there is none to be made.
            places: Says where the tensors are that it is made of, and the modules that hold them, all of which may be
                changed or replaced; tensors made in inference mode do not say when they are.
        """
        return self.filters if self.unchanged() else self._prepared(operands, places)

    def unchanged(self) -> bool:
        """It is prepared, and no tensor has changed since: with small layers this is a good part of a call."""
        return self._same(self._seen) and bool(self._seen)

    def _prepared(
        self, operands: Callable[[], GatedOperands | None], places: Callable[[], Iterable[Place]]
    ) -> "Filters | None":
        try:
            seen = tuple([(*place, *version_and_address(place[2])) for place in places()])
        except RuntimeError:
            return None
        made = operands() if seen else None
        native = None if made is None or why_not(made) else code()
        self.filters = None if made is None or native is None else Filters(made, native)
        module = extension()
        # Memory that is held is not given to other tensors, which would look the same.
        self._held = tuple(value.detach() for _, _, value, _, _ in seen if isinstance(value, Tensor))
        self._seen, self._same = seen, same if module is None else module.unchanged
        return self.filters


def same(seen: tuple[Seen, ...]) -> bool:
    """All is where it was, and tensors have the version that they had, at the address that they had."""
    try:
        return all(
            own[name] is value and (pointer is None or (value._version == version and value.data_ptr() == pointer))
            for own, name, value, version, pointer in seen
        )
    except KeyError:
        return False


def version_and_address(value: Any) -> tuple[int | None, int | None]:
    """Of a tensor."""
    return (value._version, value.data_ptr()) if isinstance(value, Tensor) else (None, None)
