"""The model, optimizer, schedule and data of a stage."""

import hashlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dcnify.finetune.parallel.accelerator import create_accelerator, create_placement
from dcnify.finetune.run import TrainingRun
from dcnify.finetune.score import Score, against_labels, against_original
from dcnify.finetune.training.handover_schedule import HandoverSchedule
from dcnify.finetune.training.loaders import (
    label_loss,
    mixing,
    steps_of,
    training_loader,
    validation_loader,
)
from dcnify.finetune.training.objective import Objective
from dcnify.finetune.training.optimizer import create_optimizer, create_schedule, learning_rate
from dcnify.finetune.training.selection import frozen_norms, require_only, trained_by
from dcnify.graph.calls import output_tensor
from dcnify.graph.example import example_with
from dcnify.inherit.distance import are_logits
from dcnify.sources.state_dict import of_version
from dcnify.surgery.handover import handovers


class StageTrainer:
    """Stage ``index`` of a run, set up for `updates`; ``checkpoint`` is one of its own, or None."""

    def __init__(self, run: TrainingRun, index: int, checkpoint: Path | None) -> None:
        self.run, self.index = run, index
        stage = self.stage = run.plan.stages[index]
        seed = _seed_of(run.options.seed, index)
        accelerator = create_accelerator(stage, seed, cpu=run.options.cpu)
        self.accelerator, self.main = accelerator, accelerator.is_main_process
        self.shared = accelerator.num_processes > 1
        self.placement = create_placement(accelerator, stage)
        model: Any = self.placement.place(run.model)
        self.model = model
        if stage.checkpointing:
            model.set_grad_checkpointing(True)
        require_only(model, trained_by(model, stage.train, run.swapped))
        self.frozen_norms = frozen_norms(model, stage.batch_norm == "eval")
        self.handover = HandoverSchedule(model, stage.handover)
        self.ema = self.placement.create_ema(model)
        self.original = run.original_for(stage, accelerator.device)
        self.objective = Objective(
            model,
            self.original,
            run.swapped,
            stage.losses,
            label_loss(stage.augment),
            partial(accelerator.reduce, reduction="mean"),
            run.example,
        )
        # Each process sets the blends itself; those that another sends would have to be read.
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(
            self.objective, [f"model.{path}.blend" for path in handovers(model)]
        )
        if stage.compile:
            model.compile()
        rate = learning_rate(stage.optimizer, stage.batch_size)
        optimizer = create_optimizer(model, stage.optimizer, stage.batch_size)
        workers = run.options.workers or 0
        loader = training_loader(run.data.train, stage, run.config, workers)
        self.steps, self.epoch = steps_of(stage, loader)
        self.called, self.optimizer, self.loader = self.placement.prepare(
            self.objective, optimizer, loader, self.ema
        )
        self.schedule = create_schedule(self.optimizer, stage.schedule, rate, self.steps)
        self.mix = mixing(stage.augment, run.data.classes)
        self.validation = None
        if run.data.validation is not None:
            processes = accelerator.num_processes
            batch = max(1, stage.batch_size // stage.accumulate)
            batch = -(-batch // processes) * processes
            self.validation = accelerator.prepare(
                validation_loader(run.data.validation, batch, run.config, workers)
            )
        if checkpoint is not None:
            self.placement.load(checkpoint)

    @property
    def result(self) -> nn.Module:
        """The model that the stage makes: the averaged one, if there is one."""
        return self.ema.module if self.ema is not None else self.model

    def train_mode(self) -> None:
        """Put the model into training mode, but for norms that are frozen."""
        self.model.train()
        for norm in self.frozen_norms:
            norm.eval()

    def reseed(self, step: int, number: int) -> None:
        """Seed pass ``number`` of an update by its place, so that no random state is saved."""
        place = (self.run.options.seed, self.index, step, number, self.accelerator.process_index)
        torch.manual_seed(_seed_of(*place))
        np.random.seed(_seed_of(*place, 1))

    def inputs(self, images: Tensor) -> Tensor:
        """Return images in the memory format of the stage."""
        last = self.stage.channels_last
        return images.contiguous(memory_format=torch.channels_last) if last else images

    @property
    def look_every(self) -> int:
        """Steps between two validations: an epoch, or a fifth of a stage without labels."""
        usual = -(-self.steps // 5) if self.run.unlabelled else self.epoch
        return self.run.options.look_every or usual

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> Score | None:
        """Compare with the labels of the validation images, or without labels with the original.

        None if there are no images. The model's training mode is restored.
        """
        if self.validation is None:
            return None
        measure, rows = "accuracy", []
        with self.placement.evaluating(model) as called:
            training = called.training
            called.eval()
            example = None if called is self.called else self.run.example  # it knows its own
            try:
                for images, labels in self.validation:
                    images = self.inputs(images)
                    with self.accelerator.autocast():
                        output = output_tensor(example_with(images, example).call(called))
                    if self.run.unlabelled:
                        measure, found = self._against_original(images, output)
                    else:
                        found = against_labels(output, labels)
                    rows.append(self.accelerator.gather_for_metrics(found).cpu())
            finally:
                called.train(training)
        return Score(measure, *torch.cat(rows).double().mean(0).tolist())

    def _against_original(self, images: Tensor, output: Tensor) -> tuple[str, Tensor]:
        """Return the measure, and for each image its value and distance."""
        assert self.original is not None, "without labels there are no losses but on the original"
        with self.accelerator.autocast():
            wanted = output_tensor(example_with(images, self.run.example).call(self.original))
        logits = are_logits(wanted, self.original)
        measure = "agreement" if logits else "cosine"
        return measure, against_original(output, wanted, logits=logits)

    def finish(self) -> None:
        """Leave the stage's result in the run's model, without hooks and wrappers."""
        self.objective.release()
        model: Any = self.run.model
        if self.result is not model:
            model.load_state_dict(of_version(self.placement.weights(self.result), model))
        if getattr(model, "_compiled_call_impl", None) is not None:
            model._compiled_call_impl = None
        if self.stage.checkpointing:
            model.set_grad_checkpointing(False)
        if self.run.unlabelled:
            self.run.load_best()
        self.run.finish_handover(self.stage)
        self.accelerator.free_memory()


def _seed_of(*parts: int | None) -> int:
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
