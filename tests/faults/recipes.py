"""The settings of small runs on digits, one for each feature with a state in the checkpoint."""

# Such a run takes less than a second. The last batch of an epoch is smaller than the others.
SMALL = (
    "data=digits",
    "data.limit_train=72",
    "data.limit_test=40",
    "model=resnet8v2",
    "model.widths=[4,8]",
    "model.blocks=[1,1]",
    "model.strides=[2,2]",
    "model.dropout=0.2",
    "trainer.epochs=4",
    "trainer.batch_size=16",
    "trainer.threads=1",
    "trainer.device=cpu",
    "trainer.precision=float32",
    "logger=csv",
)
RECIPES = {
    "crop and flip": (),
    "cutmix": ("augmentation=cutmix",),
    "mixup and color jitter": ("augmentation=[color_jitter,mixup]",),
    "cutmix or mixup": ("augmentation=cutmix_mixup", "loss=label_smoothing"),
    "cutout and erasing": ("augmentation=[cutout,random_erasing]",),
    "TrivialAugment": ("augmentation=trivial_augment",),
    "average of weights": ("trainer.ema_decay=0.9", "data.holdout=30"),
    "averages and trapezoid": ("trainer.ema_decay=[0.9,0.5]", "schedule=trapezoid"),
    "progressive resizing": ("trainer.progressive_resizing=[16,24,32]",),
    "plateau": ("schedule=plateau", "schedule.patience=0", "schedule.factor=0.5"),
    "early stopping": ("trainer.early_stopping.patience=1",),
    "warm restarts": ("schedule=cosine_warm_restarts", "schedule.T_0=0.3"),
    "AdamW and attention": ("optim=adamw", "model.attention=se", "trainer.clip_grad_norm=1"),
    "Muon and stochastic depth": ("optim=muon", "model.stochastic_depth=0.5"),
}
