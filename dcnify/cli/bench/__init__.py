"""dcnify bench: time the operator or a model; a file for each of its verbs."""

from dcnify.cli.bench.model import model
from dcnify.cli.bench.op import op
from dcnify.cli.flatten import verbs

app = verbs("Time the operator, or a converted model, against what it replaces.")
app.command("op")(op)
app.command("model")(model)
