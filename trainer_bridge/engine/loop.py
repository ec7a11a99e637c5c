"""The training run, from the job's folder to the finished LoRA: one function that reads from top to
bottom.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch

from .. import environment
from ..dataset.buckets import bucket_for
from ..dataset.order import Order
from ..errors import EXIT_DONE, EXIT_STOPPED, RunStopped
from ..spec import JobSpec
from . import cache, convolutions, device, loss, memory, metadata, optim, prepare, save, state
from .batch import Batches, Chunk
from .control import Control
from .families import for_checkpoint
from .judge import Judge
from .lora import LoraSet, Rank
from .previews import Previews
from .progress import Progress
from .setup import apply_plan, broken, dropout_seed, read_manifest, restore, unchanged_base, vectors_of

#: How much a difference from the base counts beside the loss of the pictures: at 1 other captions changed more than
#: they need, at 3 the subject was learnt less well (pocket base, a character).
HOLD_WEIGHT = 1.5


def train(folder: Path, spec: JobSpec, progress: Progress, control: Control) -> int:
    """Train the job in `folder`, or go on with it.

    Returns:
        The exit code: done or stopped.

    Raises:
        UserError: the input cannot be used.
        RunFailed, Broken: the run cannot go on.
        RunStopped: it was asked to stop before the first step.
    """
    # ---- what was asked for
    settings = spec.settings
    total, accumulation = int(settings["max_train_steps"]), int(settings["gradient_accumulation_steps"])
    manifest = read_manifest(folder)
    base = unchanged_base(spec)
    family = for_checkpoint(base)
    buckets = [bucket_for(*picture.shown, settings) for picture in manifest.pictures]
    order = Order(buckets, [picture.hash for picture in manifest.pictures], settings)
    epochs = -(-total * accumulation // order.batches_per_epoch)
    encoders_learn = not settings["network_train_unet_only"] and float(settings["text_encoder_lr"]) > 0.0

    # ---- how it is computed: decided at the first start, obeyed by every later one
    plan = memory.read_plan(folder)
    if plan is None or not device.is_there(plan.device):
        plan = memory.decide(spec, base, buckets, environment.fingerprint())
        memory.write_plan(folder, plan)
    progress.events.write("plan", plan=plan.to_json())
    device.check_precision(plan.device, plan.precision)
    device.prepare(plan.device, plan.threads)
    dtype = device.DTYPES[plan.precision]

    # ---- pictures and captions become numbers, once
    def caching(done: int, count: int) -> None:
        progress.phase("caching", done, count)
        if control.poll() == "stop":
            raise RunStopped("The run was stopped before its first step.")

    store = folder.parent.parent / "cache"
    latents = prepare.latents(
        family,
        manifest.pictures,
        buckets,
        flips=(False, True) if settings["flip_aug"] else (False,),
        cache=store,
        kind=plan.device,
        on_progress=caching,
    )
    captions = prepare.Captions.of(manifest, settings)
    previews = Previews(folder, spec, family, plan)
    texts = None
    if not encoders_learn:
        texts = prepare.text_features(
            family,
            list(dict.fromkeys([*captions.different(), *previews.prompts()])),
            clip_skip=int(settings["clip_skip"]),
            dtype=dtype,
            cache=store,
            kind=plan.device,
            on_progress=caching,
        )
    cache.prune(store)

    # ---- the base, frozen, and what is trained on it
    progress.phase("loading")
    parts = (["unet"] if float(settings["unet_lr"]) > 0.0 else []) + (list(family.text_parts) if encoders_learn else [])
    modules = family.load(dict.fromkeys(["unet", *parts]), device=plan.device, dtype=dtype)
    unet, encoders = modules["unet"], {part: modules[part] for part in parts if part != "unet"}
    apply_plan(plan, modules)
    if plan.device == "cpu":
        convolutions.speed_up(unet)
    conv = int(settings["conv_dim"])
    targets = [t for part in parts for t in family.lora_targets(part, modules[part], conv=conv > 0)]
    rank = Rank(
        int(settings["network_dim"]),
        float(settings["network_alpha"]),
        conv,
        float(settings["conv_alpha"]),
        float(settings["network_dropout"]),
    )
    lora = LoraSet(targets, modules, rank, int(settings["seed"]))
    optimizer = optim.make_optimizer(lora.vectors, settings)
    scaler = device.scaler(plan.device, plan.precision)
    shifted = bool(settings["zero_terminal_snr"])
    schedule = loss.Schedule.of(
        family.alphas_cumprod(zero_terminal_snr=shifted),
        family.alphas_cumprod(zero_terminal_snr=False),
        v_prediction=bool(settings["v_parameterization"]),
    ).to(plan.device)
    batches = Batches(order, manifest.pictures, buckets, latents, captions, schedule, settings)

    # ---- where an earlier start stopped
    judge, step, seconds_before, good, skipped = Judge(), 0, 0.0, "", 0
    saved, damaged = state.load_state(folder / "state")
    for sentence in damaged:
        progress.note(sentence)
    if saved is not None:
        step = saved.step
        restore(saved, lora, optimizer, scaler)
        judge = Judge.of(saved.loop["judge"])
        seconds_before, good, skipped = saved.loop["seconds"], saved.loop["good"], saved.loop["skipped"]
    progress.step = step
    facts = metadata.Facts.of(folder.name, family.metadata(spec))
    texts_of_run = metadata.run_metadata(spec, manifest, plan, buckets, order.batches_per_epoch, facts)

    def remember() -> None:
        begun = time.monotonic()
        numbers = {"judge": judge.to_json(), "seconds": spent(), "good": good, "skipped": skipped}
        kept = state.State(
            step,
            {**vectors_of(lora), **optim.optimizer_tensors(optimizer)},
            {**numbers, "scaler": scaler.state_dict()},
        )
        state.save_state(folder / "state", kept)
        due.saved(time.monotonic() - begun)
        progress.events.write("state_saved", step=step)

    def spent() -> float:
        return seconds_before + time.monotonic() - started

    def keep(name: str) -> Path:
        path = folder / "epochs" / f"{name}.safetensors"
        epoch = min(epochs, 1 + order.epoch(max(0, step * accumulation - 1)))
        place = metadata.Place(step, epoch, epochs, time.time())
        texts_of_file = metadata.file_metadata(texts_of_run, name, place)
        save.write_lora(path, lora.state_dict(), texts_of_file, str(settings["save_precision"]))
        progress.events.write("epoch_saved", path=str(path), epoch=epoch, step=step)
        return path

    def predict(chunk: Chunk, captions: list[str]) -> torch.Tensor:
        if texts is not None:
            text = texts.features(captions)
        else:
            text = family.encode_text(encoders, captions, clip_skip=int(settings["clip_skip"]))
        return family.predict(unet, chunk.noisy, chunk.timesteps, text, chunk.sizes).float()

    # ---- the loop
    started, due = time.monotonic(), state.Due()
    command: str | None = None
    progress.phase("training", step, total)
    while step < total and command != "stop":
        begun = time.perf_counter()
        lighter = None
        lora.zero_grad()
        rate = optim.set_rate(optimizer, optim.rate_factor(settings, step))
        batch_loss, nothing = torch.zeros(2, device=plan.device)
        try:
            for micro in range(step * accumulation, (step + 1) * accumulation):
                command = control.poll() or command
                if command == "stop":
                    break
                torch.manual_seed(dropout_seed(int(settings["seed"]), micro))
                for chunk in batches.chunks(micro, plan.chunk):
                    prediction = predict(chunk, chunk.captions)
                    part = loss.batch_loss(prediction, chunk.target, chunk.weights)
                    part = part * (chunk.share / accumulation)
                    scaler.scale(part).backward()
                    batch_loss += part.detach()
                    nothing += loss.of_nothing(chunk.target, chunk.weights) * (chunk.share / accumulation)
                    if chunk.plain:
                        with torch.no_grad(), lora.weight_scale(0.0):
                            base_says = predict(chunk, chunk.plain)
                        held = loss.batch_loss(predict(chunk, chunk.plain), base_says, chunk.weights)
                        scaler.scale(held * (HOLD_WEIGHT * chunk.share / accumulation)).backward()
        except (RuntimeError, MemoryError) as error:
            lighter = plan.lighter() if device.is_out_of_memory(error) else None
            if lighter is None:
                raise
        if lighter is not None:
            plan = lighter
            device.forget_unused(plan.device)
            apply_plan(plan, modules)
            memory.write_plan(folder, plan)
            progress.note(
                f"The memory did not suffice: the run goes on with {plan.chunk} at a time and activations"
                " computed twice. It is not repeatable bit by bit any more."
            )
            continue
        if command == "stop":
            break

        # ---- one step of the optimiser, unless the loss says that the run has broken
        scaler.unscale_(optimizer)
        norm = optim.clip(lora.vectors, float(settings["max_grad_norm"]))
        value, blank, length = torch.stack([batch_loss, nothing, norm]).tolist()
        verdict = judge.see(value, blank)
        overflow = not length < float("inf")
        skipped = skipped + 1 if overflow else 0
        if overflow and (not scaler.is_enabled() or skipped > 20):
            verdict = verdict or "nan"
        if verdict is not None:
            raise broken(verdict, step + 1, judge, good)
        scaler.step(optimizer)
        scaler.update()
        step += 1
        epoch, inside = divmod(step * accumulation, order.batches_per_epoch)
        ended = inside < accumulation and epoch > 0
        rounds = previews.rounds_left(epoch, epochs)
        progress.stepped(
            (step, min(epochs, epoch + 1), epochs),
            (value, judge.average),
            rate,
            time.perf_counter() - begun,
            device.peak_memory(plan.device),
            rounds,
        )

        # ---- what is kept and shown at the end of an epoch; the state comes last, so that a killed run
        # redoes it
        if ended and step < total:
            if epoch % int(settings["save_every_n_epochs"]) == 0:
                path = keep(f"{spec.output_name}-{epoch:06d}")
                good = str(path) if judge.calm else good
            if previews.due(epoch):
                previews.draw(unet, lora, texts, encoders, epoch=epoch, step=step, progress=progress)
        if command == "save":
            command = None
            keep(f"{spec.output_name}-step{step:08d}")
        if ended or step == total or due():
            remember()

    # ---- stopped: everything is kept to go on from
    if step < total:
        remember()
        path = keep(f"{spec.output_name}-step{step:08d}")
        progress.events.write("stopped", step=step, path=str(path))
        return EXIT_STOPPED

    # ---- the finished LoRA
    if previews.wanted:
        previews.draw(unet, lora, texts, encoders, epoch=epochs, step=step, progress=progress)
    progress.phase("saving")
    texts_of_run["ss_new_sd_model_hash"] = metadata.file_hash(base, store)
    texts_of_file = metadata.file_metadata(
        texts_of_run, spec.output_name, metadata.Place(step, epochs, epochs, time.time())
    )
    finished, digest = save.publish(
        Path(spec.out_dir),
        spec.output_name,
        lora.state_dict(),
        texts_of_file,
        str(settings["save_precision"]),
    )
    if finished.stem != spec.output_name:
        progress.note(f"A file named {spec.output_name}.safetensors appeared meanwhile; the LoRA is {finished.name}.")
    save.describe(finished, family.key, spec.trigger, previews.last())
    peak = device.peak_memory(plan.device)
    progress.events.write("done", path=str(finished), sha256=digest, steps=step, seconds=spent(), peak_memory=peak)
    return EXIT_DONE
