"""dcnify ablate: variants of a recipe, tried and compared; a file for each of its verbs."""

from dcnify.cli.ablate.ls import ls
from dcnify.cli.ablate.report import report, status
from dcnify.cli.ablate.run import run
from dcnify.cli.ablate.worker import worker
from dcnify.cli.flatten import verbs

app = verbs("Try variants of a recipe, measure each, and compare.")
for made in (run, worker, status, report, ls):
    app.command(made.__name__)(made)
