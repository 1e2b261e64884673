"""Examples of the chapters about data, models, evaluation, optimizers, schedules and hooks."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from playing import accuracy_metric, classifier, example, image_model, images
from torch import nn
from torch.optim import SGD
from torch.utils.data import DataLoader


def ordered_loaders():
    """Loaders whose order of samples needs no random numbers."""
    sampler = dict(type="DefaultSampler", shuffle=True, seed=6)
    return dict(
        train_dataloader=dict(
            batch_size=8,
            sampler=sampler,
            dataset=images(24, 1),
            collate_fn=dict(type="default_collate"),
        ),
        val_dataloader=DataLoader(batch_size=8, shuffle=False, dataset=images(12, 2)),
    )


def runner_of(model, **changes):
    """A runner with a line for each iteration."""
    from mmengine.runner import Runner

    settings = dict(
        model=model,
        work_dir="work_dir",
        optim_wrapper=dict(optimizer=dict(type=SGD, lr=0.05, momentum=0.9)),
        train_cfg=dict(by_epoch=True, max_epochs=3),
        val_cfg=dict(),
        val_evaluator=dict(type=accuracy_metric()),
        default_hooks=dict(
            logger=dict(type="LoggerHook", interval=1),
            checkpoint=dict(type="CheckpointHook", interval=3),
        ),
        randomness=dict(seed=0),
        **ordered_loaders(),
    )
    settings.update(changes)
    return Runner(**{k: v for k, v in settings.items() if v is not None})


WITHOUT_VALIDATION = dict(val_cfg=None, val_evaluator=None, val_dataloader=None)


# Data --------------------------------------------------------------------------------------------


@example
def sampler_and_collate_function(play):
    from torch.utils.data import Sampler

    from mmengine.registry import DATA_SAMPLERS, FUNCTIONS

    @DATA_SAMPLERS.register_module()
    class MySampler(Sampler):
        def __init__(self, dataset, seed=None):
            self.size = len(dataset)

        def __len__(self):
            return self.size

        def __iter__(self):
            return iter(range(self.size - 1, -1, -1))

    @FUNCTIONS.register_module()
    def my_collate_func(data_batch, scale):
        pictures, labels = zip(*data_batch, strict=True)
        return torch.stack(pictures) * scale, torch.stack(labels)

    runner = runner_of(
        image_model()(),
        train_cfg=dict(type="EpochBasedTrainLoop", max_epochs=2),
        train_dataloader=dict(
            batch_size=8,
            sampler=dict(type="MySampler"),
            dataset=images(36, 1),
            collate_fn=dict(type="my_collate_func", scale=0.5),
            drop_last=True,
            num_batch_per_epoch=3,
        ),
        **WITHOUT_VALIDATION,
    )
    play(runner, "train")


# Models ------------------------------------------------------------------------------------------


def mix_up(base):
    class MixUpDataPreprocessor(base):
        def __init__(self, num_class, alpha):
            super().__init__()
            self.num_class = num_class
            self.alpha = alpha

        def forward(self, data, training=True):
            img, label = super().forward(data, training)
            # Only perform MixUp in training mode
            if not training:
                return img, label

            label = F.one_hot(label, self.num_class)  # label to OneHot
            batch_size = len(label)
            index = torch.randperm(batch_size)  # Get the index of fused image
            lam = np.random.beta(self.alpha, self.alpha)  # Fusion factor

            # MixUp
            img = lam * img + (1 - lam) * img[index, :]
            label = lam * label + (1 - lam) * label[index, :]
            return img, label

    return MixUpDataPreprocessor


@example
def steps_and_preprocessor(play):
    """The equivalent steps of the chapter about models, with the preprocessor for MixUp."""
    from mmengine.model import BaseDataPreprocessor, BaseModel

    class MMResNet50(BaseModel):
        def __init__(self):
            super().__init__(mix_up(BaseDataPreprocessor)(num_class=4, alpha=0.4))
            self.resnet = classifier()

        def forward(self, imgs, labels, mode):
            x = self.resnet(imgs)
            if mode == "loss":
                return {"loss": F.cross_entropy(x, labels)}
            elif mode == "predict":
                return x, labels

        def train_step(self, data, optim_wrapper):
            data = self.data_preprocessor(data, training=True)
            loss = self(*data, mode="loss")
            parsed_losses, log_vars = self.parse_losses(loss)
            optim_wrapper.update_params(parsed_losses)
            return log_vars

        def val_step(self, data):
            data = self.data_preprocessor(data, training=False)
            return self(*data, mode="predict")

        def test_step(self, data):
            data = self.data_preprocessor(data, training=False)
            return self(*data, mode="predict")

    play(runner_of(MMResNet50()), "train")


# Evaluation --------------------------------------------------------------------------------------


def simple_accuracy():
    from mmengine.evaluator import BaseMetric

    class SimpleAccuracy(BaseMetric):
        """Accuracy Evaluator

        Default prefix: ACC
        """

        default_prefix = "ACC"  # set default_prefix

        def process(self, data_batch, data_samples):
            score, gt = data_samples
            self.results.append({"pred": score.argmax(dim=1).numpy(), "gt": gt.numpy()})

        def compute_metrics(self, results):
            preds = np.concatenate([res["pred"] for res in results])
            gts = np.concatenate([res["gt"] for res in results])
            acc = (preds == gts).sum() / preds.size
            return {"accuracy": acc}

    return SimpleAccuracy


def top_k():
    from mmengine.evaluator import BaseMetric

    class TopK(BaseMetric):
        def __init__(self, top_k=(1,), prefix=None):
            super().__init__(prefix=prefix)
            self.top_k = top_k

        def process(self, data_batch, data_samples):
            score, gt = data_samples
            for row, target in zip(score, gt, strict=True):
                self.results.append(row.argsort(descending=True).tolist().index(int(target)))

        def compute_metrics(self, results):
            return {
                f"top{k}": 100 * sum(place < k for place in results) / len(results)
                for k in self.top_k
            }

    return TopK


def confusion():
    from mmengine.evaluator import BaseMetric

    class Confusion(BaseMetric):
        """Results that are no numbers."""

        default_prefix = "matrix"

        def process(self, data_batch, data_samples):
            score, gt = data_samples
            self.results += zip(gt.tolist(), score.argmax(dim=1).tolist(), strict=True)

        def compute_metrics(self, results):
            counts = np.zeros((4, 4), dtype=np.int64)
            for target, predicted in results:
                counts[target, predicted] += 1
            return {"counts": counts, "note": f"of {len(results)}", "hits": torch.tensor(1.5)}

    return Confusion


@example
def several_metrics(play):
    from mmengine.evaluator import Evaluator
    from mmengine.registry import METRICS

    METRICS.register_module(module=simple_accuracy())
    METRICS.register_module(module=top_k())
    runner = runner_of(
        image_model()(),
        val_evaluator=[dict(type="SimpleAccuracy"), dict(type="TopK", top_k=(1, 3), prefix="best")],
        test_dataloader=DataLoader(batch_size=3, dataset=images(9, 3)),
        test_cfg=dict(),
        test_evaluator=dict(metrics=[top_k()(top_k=(1, 2)), confusion()()]),
        log_processor=dict(window_size=2, num_digits=2),
    )
    scores, labels = torch.randn(12, 4, generator=torch.Generator().manual_seed(2)), [0, 1, 2] * 4
    samples = [dict(score=s, label=y) for s, y in zip(scores, labels, strict=True)]

    class OfDicts(top_k()):
        def process(self, data_batch, data_samples):
            rows = torch.stack([sample["score"] for sample in data_samples])
            super().process(data_batch, (rows, [sample["label"] for sample in data_samples]))

    evaluator = Evaluator(metrics=OfDicts(top_k=(1, 3)))
    results = evaluator.offline_evaluate(samples, samples, chunk_size=5)
    play(runner, "train", "test", offline=results)


# Optimizer wrappers ------------------------------------------------------------------------------


@example
def update_in_single_steps(play):
    """The finer interface, and validation in half precision."""
    base = image_model()

    class Model(base):
        def __init__(self):
            super().__init__()
            self.done = 0

        def train_step(self, data, optim_wrapper):
            with optim_wrapper.optim_context(self):
                data = self.data_preprocessor(data, True)
                losses = self._run_forward(data, mode="loss")
            loss, log_vars = self.parse_losses(losses)
            optim_wrapper.backward(loss)
            if self.done % 2 == 0:
                optim_wrapper.step()
                optim_wrapper.zero_grad()
            self.done += 1
            return log_vars

    runner = runner_of(
        Model(),
        optim_wrapper=dict(
            type="OptimWrapper",
            optimizer=dict(type="SGD", lr=0.05, momentum=0.9, weight_decay=0.0001),
            clip_grad=dict(max_norm=1),
        ),
        val_cfg=dict(fp16=True),
    )
    play(runner, "train")


@example
def mixed_precision(play):
    """In bfloat16, which needs no accelerator; MMEngine is told that there is one."""
    runner = runner_of(
        image_model()(),
        optim_wrapper=dict(
            type="AmpOptimWrapper",
            dtype="bfloat16",
            optimizer=dict(type="SGD", lr=0.01, momentum=0.9, weight_decay=0.0001),
            accumulative_counts=2,
        ),
        val_cfg=dict(fp16=True),
    )
    play(runner, "train")


@example
def accumulation_and_clipping_by_value(play):
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 4))

    def make():
        base = image_model()

        class Model(base):
            def __init__(self):
                super().__init__()
                self.resnet = model

        return Model()

    runner = runner_of(
        make(),
        optim_wrapper=dict(
            type="OptimWrapper",
            optimizer=dict(type="SGD", lr=0.01, momentum=0.9, weight_decay=0.0001),
            accumulative_counts=2,
            clip_grad=dict(type="value", clip_value=0.2),
        ),
        **WITHOUT_VALIDATION,
    )
    play(runner, "train")


@example
def several_optimizers(play):
    from mmengine.model import BaseModel
    from mmengine.optim import OptimWrapper, OptimWrapperDict
    from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS

    class GAN(BaseModel):
        def __init__(self):
            super().__init__()
            self.gen = nn.Linear(2, 3)
            self.disc = nn.Linear(3, 1)

        def forward(self, inputs, noise, mode="tensor"):
            return self.gen(noise)

        def train_step(self, data, optim_wrapper):
            inputs, noise = self.data_preprocessor(data, True)
            with optim_wrapper["disc"].optim_context(self.disc):
                fake = self.gen(noise).detach()
                loss_disc = F.softplus(-self.disc(inputs)) + F.softplus(self.disc(fake))
            loss_disc, disc_vars = self.parse_losses(dict(loss_disc=loss_disc))
            optim_wrapper["disc"].update_params(loss_disc)
            with optim_wrapper["gen"].optim_context(self.gen):
                loss_gen = F.softplus(-self.disc(self.gen(noise)))
            loss_gen, gen_vars = self.parse_losses(dict(loss_gen=loss_gen))
            optim_wrapper["gen"].update_params(loss_gen)
            return dict(loss_disc=disc_vars["loss_disc"], loss_gen=gen_vars["loss_gen"])

    @OPTIM_WRAPPER_CONSTRUCTORS.register_module()
    class MultipleOptimiWrapperConstructor:
        def __init__(self, optim_wrapper_cfg, paramwise_cfg=None):
            self.rates = optim_wrapper_cfg

        def __call__(self, module):
            optimizer_gen = SGD(module.gen.parameters(), lr=self.rates["gen"], momentum=0.5)
            optimizer_disc = SGD(module.disc.parameters(), lr=self.rates["disc"])
            return OptimWrapperDict(
                gen=OptimWrapper(optimizer=optimizer_gen),
                disc=OptimWrapper(optimizer=optimizer_disc),
            )

    generator = torch.Generator().manual_seed(8)
    data = [
        (torch.randn(3, generator=generator), torch.randn(2, generator=generator))
        for _ in range(12)
    ]
    runner = runner_of(
        GAN(),
        train_dataloader=DataLoader(data, batch_size=4),
        optim_wrapper=dict(constructor="MultipleOptimiWrapperConstructor", gen=0.01, disc=0.02),
        param_scheduler=dict(
            gen=dict(type="StepLR", step_size=1, gamma=0.5),
            disc=[dict(type="LinearLR", start_factor=0.5, end=4, by_epoch=False)],
        ),
        **WITHOUT_VALIDATION,
    )
    play(runner, "train")


def model_of_parts(head_of):
    from mmengine.model import BaseModel

    class ToyModel(BaseModel):
        def __init__(self):
            super().__init__()
            self.backbone = nn.ModuleDict(dict(layer0=nn.Linear(48, 6), layer1=nn.Linear(6, 6)))
            self.head = head_of()

        def forward(self, imgs, labels, mode):
            x = self.backbone.layer1(self.backbone.layer0(imgs.flatten(1)).relu())
            x = self.head(x)
            return {"loss": F.cross_entropy(x, labels)} if mode == "loss" else (x, labels)

    return ToyModel()


@example
def settings_of_parameters(play):
    """No weight decay for norms, and other rates for some modules."""
    runner = runner_of(
        model_of_parts(lambda: nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4))),
        optim_wrapper=dict(
            optimizer=dict(type="SGD", lr=0.01, weight_decay=0.0001),
            paramwise_cfg=dict(
                norm_decay_mult=0,
                custom_keys={
                    "backbone.layer0": dict(lr_mult=0, decay_mult=0),
                    "backbone": dict(lr_mult=1),
                    "head": dict(lr_mult=0.1),
                },
            ),
        ),
        param_scheduler=dict(type="ExponentialLR", gamma=0.5),
        **WITHOUT_VALIDATION,
    )
    play(runner, "train")


@example
def constructor_of_ones_own(play):
    from mmengine.logging import print_log
    from mmengine.optim import DefaultOptimWrapperConstructor
    from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS

    @OPTIM_WRAPPER_CONSTRUCTORS.register_module(force=True)
    class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
        def __init__(self, optim_wrapper_cfg, paramwise_cfg=None):
            super().__init__(optim_wrapper_cfg, paramwise_cfg=None)
            self.decay_factor = paramwise_cfg.get("decay_factor", 0.5)

            super().__init__(optim_wrapper_cfg, paramwise_cfg)

        def add_params(self, params, module, prefix="", lr=None):
            if lr is None:
                lr = self.base_lr

            for name, param in module.named_parameters(recurse=False):
                param_group = dict()
                param_group["params"] = [param]
                param_group["lr"] = lr
                params.append(param_group)
                full_name = f"{prefix}.{name}" if prefix else name
                print_log(f"{full_name} : lr={lr}", logger="current")

            for name, child in module.named_children():
                chiled_prefix = f"{prefix}.{name}" if prefix else name
                self.add_params(params, child, chiled_prefix, lr=lr * self.decay_factor)

    runner = runner_of(
        model_of_parts(lambda: nn.Linear(6, 4)),
        optim_wrapper=dict(
            optimizer=dict(type="SGD", lr=0.01, weight_decay=0.0001),
            paramwise_cfg=dict(decay_factor=0.5),
            constructor="LayerDecayOptimWrapperConstructor",
        ),
        **WITHOUT_VALIDATION,
    )
    play(runner, "train")


# Schedules ---------------------------------------------------------------------------------------


@example
def scheduler_built_by_hand(play):
    from mmengine.optim.scheduler import MultiStepLR

    model = image_model()()
    optimizer = SGD(model.parameters(), lr=0.01, momentum=0.9)
    param_scheduler = MultiStepLR(optimizer, milestones=[1, 2], gamma=0.1)
    runner = runner_of(
        model,
        optim_wrapper=dict(optimizer=optimizer),
        param_scheduler=param_scheduler,
        **WITHOUT_VALIDATION,
    )
    play(runner, "train")


@example
def warm_up_and_steps(play):
    """And momentum and weight decay, each with a schedule of its own."""
    runner = runner_of(
        image_model()(),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.01, momentum=0.9, weight_decay=0.0001)),
        param_scheduler=[
            # Linear learning rate warm-up scheduler
            dict(
                type="LinearLR",
                start_factor=0.001,
                by_epoch=False,  # Updated by iterations
                begin=0,
                end=4,
            ),  # Warm up for the first 50 iterations
            # The main LRScheduler
            dict(
                type="MultiStepLR",
                by_epoch=True,  # Updated by epochs
                milestones=[1, 2],
                gamma=0.1,
            ),
            # the momentum scheduler
            dict(type="LinearMomentum", start_factor=0.001, by_epoch=False, begin=0, end=7),
            dict(
                type="LinearParamScheduler",
                param_name="weight_decay",  # adjust 'weight_decay' in `optimizer.param_groups`
                start_factor=0.001,
                by_epoch=False,
                begin=0,
                end=5,
            ),
        ],
        **WITHOUT_VALIDATION,
    )
    play(runner, "train")


@example
def warm_up_and_cosine(play):
    """By iterations, in a loop that counts them; then by epochs that are made iterations."""
    loader = ordered_loaders()["train_dataloader"]
    runner = runner_of(
        image_model()(),
        train_cfg=dict(by_epoch=False, max_iters=9),
        train_dataloader={**loader, "sampler": dict(type="InfiniteSampler", seed=6)},
        param_scheduler=[
            # Use a linear warm-up at [0, 100) iterations
            dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=3),
            # Use a cosine learning rate at [100, 900) iterations
            dict(type="CosineAnnealingLR", T_max=6, by_epoch=False, begin=3, end=9),
        ],
        log_processor=dict(by_epoch=False),
        experiment_name="by_iteration",
        **WITHOUT_VALIDATION,
    )
    play(runner, "train")
    runner = runner_of(
        image_model()(),
        param_scheduler=[
            dict(
                type="MultiStepLR",
                by_epoch=True,
                milestones=[1, 2],
                gamma=0.1,
                convert_to_iter_based=True,
            ),
            dict(type="CosineAnnealingLR", by_epoch=True, T_max=12, convert_to_iter_based=True),
        ],
        experiment_name="converted",
        **WITHOUT_VALIDATION,
    )
    play(runner, "train")


# Hooks -------------------------------------------------------------------------------------------


@example
def hook_of_ones_own(play):
    """A hook by its name, at its priority, which logs a number, beside one that checks losses."""
    from mmengine.hooks import Hook
    from mmengine.registry import HOOKS

    @HOOKS.register_module()
    class CheckInvalidLossHook(Hook):
        priority = "VERY_LOW"

        def __init__(self, interval=50):
            self.interval = interval

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if self.every_n_train_iters(runner, self.interval):
                assert torch.isfinite(outputs["loss"]), runner.logger.info("loss become infinite!")

    @HOOKS.register_module()
    class ConfidenceHook(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            runner.message_hub.update_scalar("train/confidence", 1 / (1 + batch_idx))
            if self.end_of_epoch(runner.train_dataloader, batch_idx):
                runner.message_hub.update_info("train/note", "not a number")

        def after_train_epoch(self, runner):
            if self.is_last_train_epoch(runner):
                runner.logger.info("the last epoch has ended")

        def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            runner.message_hub.update_scalar("val/size", len(outputs[0]))

    runner = runner_of(
        image_model()(),
        custom_hooks=[
            dict(type="CheckInvalidLossHook", interval=2, priority="ABOVE_NORMAL"),
            dict(type="ConfidenceHook", priority=55),
        ],
        log_processor=dict(
            custom_cfg=[dict(data_src="confidence", method_name="mean", window_size="epoch")]
        ),
    )
    play(runner, "train")


@example
def averaged_weights(play):
    runner = runner_of(
        image_model()(),
        custom_hooks=[dict(type="EMAHook", ema_type="ExponentialMovingAverage", momentum=0.1)],
    )
    play(runner, "train", "val")


@example
def best_checkpoint_and_early_stop(play):
    runner = runner_of(
        image_model()(),
        optim_wrapper=dict(optimizer=dict(type=SGD, lr=0.0)),
        train_cfg=dict(by_epoch=True, max_epochs=9),
        default_hooks=dict(
            logger=dict(type="LoggerHook", interval=2, ignore_last=False),
            checkpoint=dict(
                type="CheckpointHook",
                interval=1,
                max_keep_ckpts=2,
                save_best="accuracy",
                rule="greater",
            ),
        ),
        custom_hooks=[dict(type="EarlyStoppingHook", monitor="accuracy", patience=2)],
    )
    play(runner, "train")


@example
def files_elsewhere(play):
    """Checkpoints and logs in directories of their own, a checkpoint to publish, and what is kept."""
    runner = runner_of(
        image_model()(),
        train_cfg=dict(by_epoch=True, max_epochs=4),
        param_scheduler=dict(type="StepLR", step_size=2),
        default_hooks=dict(
            logger=dict(type="LoggerHook", interval=2, out_dir="logs"),
            checkpoint=dict(
                type="CheckpointHook",
                interval=2,
                out_dir="checkpoints",
                filename_tmpl="at_{}.pth",
                save_begin=1,
                save_last=True,
                save_best="auto",
                rule="greater",
                published_keys=["meta", "state_dict"],
            ),
        ),
    )
    play(runner, "train")
