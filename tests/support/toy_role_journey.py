"""Register the toy role, then go the whole way with it; prints what a user would see, as JSON."""

import json
import sys
from importlib import import_module
from tempfile import TemporaryDirectory

import timm
import torch

import dcnify
from dcnify.recipe import schema

RECIPE = """
version: 1
name: pools
swaps:
  - name: pool
    select: {role: max_pool, where: {pixels: 9}}
    replace: {with: dcnv4, group_channels: 8, start: center}
"""


def refusal(recipe):
    try:
        dcnify.Recipe.from_yaml(recipe)
    except dcnify.InputError as error:
        return str(error)


def resnet():
    return timm.create_model("resnet18", layers=(1, 1, 1, 1), channels=(8, 8, 8, 8)).eval()


def main():
    import_module("support.toy_role")  # after the recipe's types were made
    torch.manual_seed(0)
    model, images = resnet(), torch.randn(2, 3, 32, 32)
    recipe = dcnify.Recipe.from_yaml(RECIPE)
    seen = {"sites": [site.to_dict() for site in dcnify.find_sites(model, images)]}
    plan = dcnify.plan(model, recipe, images)
    seen["plan"] = str(plan)
    seen["same_plan"] = type(plan).from_json(plan.to_json()) == plan
    result = dcnify.convert(model, recipe, images, calibration=images)
    seen["layer"], seen["warnings"] = type(model.maxpool).__name__, result.report.warnings
    with TemporaryDirectory() as folder:
        dcnify.save(result, f"{folder}/out")
        loaded = dcnify.load(f"{folder}/out")
    with torch.no_grad():
        seen["loaded_alike"] = torch.equal(loaded(images), model(images))
    seen["written"] = recipe.to_yaml()
    seen["schema"] = schema()["$defs"]["Select"]["properties"]["role"]["enum"]
    seen["wrong_role"] = refusal(RECIPE.replace("role: max_pool", "role: attention"))
    seen["wrong_fact"] = refusal(RECIPE.replace("pixels: 9", "pixel: 9"))
    seen["calibrated"] = refusal(RECIPE + "    init: [transfer, calibrate]\n")
    json.dump(seen, sys.stdout)


if __name__ == "__main__":
    main()
