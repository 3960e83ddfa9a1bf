"""What `squeeze paths` and `squeeze detect` do between parsing and printing."""

import json
from pathlib import Path

from squeeze.files import write_text
from squeeze.gating.codes import load_codes
from squeeze.paths import Asked, Paths, find_paths
from squeeze.paths.page import render_paths
from squeeze.progress import say
from squeeze_cli.given import Look, Source
from squeeze_cli.opening import check_free, opened

PATHS = ("codes.safetensors", "paths.json", "paths.html")


def looked_at(source: Source, look: Look, out: Path | None, force: bool) -> Paths:
    """The paths of a gated network; written to a folder if there is one.

    Raises:
        InputError: The model has no gates, there is no data, or a file is there already.
        ArtifactError: The codes are damaged, or of another architecture.
    """
    # Codes that were read are not written again.
    written = PATHS[1:] if look.codes else PATHS
    for name in written if out else ():
        check_free(Path(out or "") / name, force)
    target = opened(source)
    known = load_codes(look.codes, target.model) if look.codes else None
    found = find_paths(target.model, target.task, Asked(look.most, look.sample, look.silence), known)
    for note in found.notes:
        say(note)
    if out is not None:
        if known is None:
            found.codes.save(out / PATHS[0])
        write_text(out / PATHS[1], json.dumps(found.to_dict(), indent=1))
        write_text(out / PATHS[2], render_paths(found, str(target.about.get("arch") or type(target.model).__name__)))
    return found
