"""Every setting of a run, declared once.

The command line, the job file, the advanced panel and the engine all derive from :data:`FIELDS`. A setting is
named as kohya-ss sd-scripts names it where such an argument exists, so that its documentation applies.
"""

from __future__ import annotations

from .field_type import Field

GROUPS: tuple[tuple[str, str], ...] = (
    ("dataset", "Dataset"),
    ("captions", "Captions"),
    ("network", "Network"),
    ("optimizer", "Optimiser"),
    ("schedule", "Schedule"),
    ("loss", "Noise and loss"),
    ("memory", "Precision and memory"),
    ("samples", "Samples"),
    ("saving", "Saving"),
)

# One setting is two or three lines here, as in a table, rather than the ten that a formatter makes of it.
# fmt: off
FIELDS: tuple[Field, ...] = (
    # ---- dataset
    Field("resolution", "int", 512, "dataset", "Resolution",
          "Side in px of the square whose area every picture is fitted to; larger shows finer detail and "
          "costs time and memory.", 64, 2048),
    Field("train_batch_size", "int", 1, "dataset", "Batch size",
          "Pictures per step; larger is steadier and needs more memory.", 1, 64),
    Field("num_repeats", "int", 1, "dataset", "Repeats",
          "How often each picture is seen in one epoch.", 1, 10_000),
    Field("enable_bucket", "bool", True, "dataset", "Keep aspect ratios",
          "Group pictures by aspect ratio instead of cropping all to a square."),
    Field("bucket_no_upscale", "bool", True, "dataset", "Never enlarge",
          "Train small pictures at their own size instead of enlarging them."),
    Field("bucket_reso_steps", "int", 64, "dataset", "Bucket step",
          "Bucket sides are multiples of this many px.", 8, 256),
    Field("min_bucket_reso", "int", 256, "dataset", "Smallest bucket side",
          "No bucket has a side shorter than this, in px.", 32, 2048),
    Field("max_bucket_reso", "int", 1024, "dataset", "Largest bucket side",
          "No bucket has a side longer than this, in px.", 64, 4096),
    Field("flip_aug", "bool", False, "dataset", "Mirror at random",
          "Show half of the pictures mirrored; wrong for subjects that are not symmetric."),
    # ---- captions
    Field("shuffle_caption", "bool", True, "captions", "Shuffle tags",
          "Put the tags of a caption in a new order at each step, so that none depends on its place."),
    Field("keep_tokens", "int", 1, "captions", "Keep first tags",
          "How many tags at the front keep their place; the trigger word is the first.", 0, 75),
    Field("caption_dropout_rate", "float", 0.05, "captions", "Caption dropout",
          "Share of steps without any caption; teaches what holds whatever the prompt says.", 0.0, 1.0),
    Field("caption_tag_dropout_rate", "float", 0.0, "captions", "Tag dropout",
          "Share of tags left out at each step.", 0.0, 1.0),
    Field("clip_skip", "int", 1, "captions", "Clip skip",
          "Which layer of the text encoder is read, counted from the last.", 1, 12),
    # ---- network
    Field("network_dim", "int", 16, "network", "Rank",
          "Size of the LoRA; larger holds more and makes a larger file.", 1, 512),
    Field("network_alpha", "float", 8.0, "network", "Alpha",
          "Strength of the LoRA is alpha / rank; follows the rank unless it is set.", 0.01, 1024.0),
    Field("conv_dim", "int", 0, "network", "Convolution rank",
          "Rank of the LoRA on 3x3 convolutions; 0 leaves them out.", 0, 512),
    Field("conv_alpha", "float", 1.0, "network", "Convolution alpha",
          "Alpha of the LoRA on 3x3 convolutions.", 0.01, 1024.0),
    Field("network_dropout", "float", 0.0, "network", "Network dropout",
          "Share of LoRA activations left out at each step.", 0.0, 0.9),
    Field("network_train_unet_only", "bool", True, "network", "U-Net only",
          "Leave the text encoders as they are."),
    # ---- optimizer
    Field("optimizer_type", "choice", "AdamW", "optimizer", "Optimiser",
          "How gradients become changes of the LoRA.", choices=("AdamW",)),
    Field("unet_lr", "float", 0.0001, "optimizer", "U-Net learning rate",
          "Size of the steps; too large burns, too small learns nothing.", 0.0, 1.0),
    Field("text_encoder_lr", "float", 5e-05, "optimizer", "Text encoder learning rate",
          "The same for the text encoders, if they are trained.", 0.0, 1.0),
    Field("weight_decay", "float", 0.01, "optimizer", "Weight decay",
          "Pull of all LoRA weights towards zero.", 0.0, 1.0, sd_scripts=False),
    Field("max_grad_norm", "float", 1.0, "optimizer", "Gradient clipping",
          "Longest gradient that is taken as it is; 0 takes all.", 0.0, 1000.0),
    # ---- schedule
    Field("max_train_steps", "int", 1600, "schedule", "Steps",
          "Length of the training in steps.", 1, 1_000_000),
    Field("lr_scheduler", "choice", "cosine", "schedule", "Learning rate schedule",
          "How the learning rate runs over the training.",
          choices=("constant", "constant_with_warmup", "cosine")),
    Field("lr_warmup_steps", "int", 0, "schedule", "Warm-up steps",
          "Steps over which the learning rate rises from zero.", 0, 100_000),
    Field("gradient_accumulation_steps", "int", 1, "schedule", "Gradient accumulation",
          "Batches that make one step; a larger batch without more memory.", 1, 256),
    Field("seed", "int", 42, "schedule", "Seed",
          "Same seed, same job, same machine: same LoRA.", 0, 2**32 - 1),
    # ---- loss
    Field("min_snr_gamma", "float", 5.0, "loss", "Min-SNR gamma",
          "Evens out how much each noise level counts; 0 turns it off.", 0.0, 100.0),
    Field("prior_preservation_rate", "float", 0.0, "loss", "Hold the base",
          "Share of steps that also teach the LoRA to change nothing where the trigger word is missing; 0 is off.",
          0.0, 1.0, sd_scripts=False),
    Field("noise_offset", "float", 0.0, "loss", "Noise offset",
          "Adds brightness noise, so that very dark and very bright pictures are learnt.", 0.0, 1.0),
    Field("min_timestep", "int", 0, "loss", "First timestep",
          "Least noisy timestep that is trained.", 0, 999),
    Field("max_timestep", "int", 1000, "loss", "Last timestep",
          "Timesteps from this one on are not trained.", 1, 1000),
    Field("v_parameterization", "bool", False, "loss", "v-prediction",
          "The base predicts velocity instead of noise; read from the base."),
    Field("zero_terminal_snr", "bool", False, "loss", "Zero terminal SNR",
          "The noisiest step is pure noise; for v-prediction bases made so."),
    # ---- memory
    Field("mixed_precision", "choice", "no", "memory", "Precision",
          "Number format of the computation: no is fp32.", choices=("no", "bf16", "fp16")),
    Field("gradient_checkpointing", "bool", False, "memory", "Gradient checkpointing",
          "Compute activations twice instead of keeping them; slower, far less memory."),
    # ---- samples
    Field("sample_every_n_epochs", "int", 1, "samples", "Sample every n epochs",
          "Draw sample pictures after every n-th epoch; 0 draws none.", 0, 10_000),
    Field("sample_count", "int", 2, "samples", "Sample pictures",
          "How many prompts are drawn each time.", 0, 8, sd_scripts=False),
    Field("sample_steps", "int", 20, "samples", "Sample steps",
          "Sampler steps of a sample picture.", 1, 150, sd_scripts=False),
    Field("sample_cfg", "float", 7.0, "samples", "Sample CFG",
          "How strictly sample pictures follow the prompt.", 1.0, 30.0, sd_scripts=False),
    # ---- saving
    Field("save_every_n_epochs", "int", 1, "saving", "Save every n epochs",
          "Keep a LoRA of every n-th epoch to choose from.", 1, 10_000),
    Field("save_precision", "choice", "fp16", "saving", "File precision",
          "Number format of the LoRA file.", choices=("float", "fp16", "bf16")),
)
# fmt: on
