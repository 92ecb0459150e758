"""dcnify offsets: where the new layers sample, drawn on a photograph."""

from __future__ import annotations

from dcnify.cli.flatten import verb
from dcnify.cli.options import Artifact
from dcnify.cli.terminal import Terminal
from dcnify.report.offsets.spec import OffsetsSpec


@verb
def offsets(request: Artifact, spec: OffsetsSpec, terminal: Terminal) -> None:
    """Draw where an artifact's deformable layers sample in a photograph, and how far they reach.

    Each panel is a layer: the cross is a query, the markers are the points that its operator
    sampled for it, as large as their weights; circles add, squares subtract.

    \b
    $ dcnify offsets out/ --image photo.jpg -o offsets.png
    $ dcnify offsets out/ --image photo.jpg --at 0.5,0.4 --site blocks.3.0.conv_dw -o offsets.svg
    """
    spec.check()
    from dcnify.artifact import read_artifact
    from dcnify.files import write_file
    from dcnify.report.offsets.look import look
    from dcnify.report.offsets.picture import draw, reach_table
    from dcnify.report.render.drawing import require_matplotlib, save

    require_matplotlib()
    with terminal.progress("reading") as shown:
        record = read_artifact(request.artifact)
        looked = look(record, spec, trust_code=request.trust_code, progress=shown.phase)
        shown.phase("drawing", 0, 1)
        figure = draw(looked)
        write_file(spec.output, lambda path: save(figure, path), spec.overwrite)
    data = {
        "artifact": str(request.artifact),
        "image": str(spec.image),
        "output": str(spec.output),
        **looked.to_dict(),
    }
    terminal.emit(data, lambda: [reach_table(looked), f"wrote {spec.output}"])
