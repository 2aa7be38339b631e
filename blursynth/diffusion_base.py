"""An own small base of the classes of Stable Diffusion, and what makes any base usable.

The small base has weights of 10 MB in float16, of which a third are CLIP's 49408 words; it is made
untrained here, but for its codec, which needs no training.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import ControlNetModel, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from blursynth.clip_tokens import CONTEXT, clip_merges, clip_tokenizer
from blursynth.diffusion_change import latent_sets
from blursynth.diffusion_conditions import CONTROL_CHANNELS, CameraEncoder, widen_controlnet
from blursynth.diffusion_pipeline import BlurSynthPipeline
from blursynth.diffusion_tiles import pitch
from blursynth.pixel_codec import PixelCodec
from freqdiff.errors import ModelError


@dataclasses.dataclass(frozen=True)
class CodecConfig:
    """`PixelCodec`.

    Attributes:
        levels: of resolution, each but the first at half that of the one before.
        width: channels of its network.
        layers: residual blocks of its network.
        latent_channels: values that are kept of a block of pixels.
    """

    levels: int = 3
    width: int = 32
    layers: int = 1
    latent_channels: int = 16


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """`CLIPTextModel`; its width is that of the cross-attention."""

    width: int = 32
    layers: int = 2
    heads: int = 4


@dataclasses.dataclass(frozen=True)
class DenoiserConfig:
    """`UNet2DConditionModel` and the `ControlNetModel` beside it.

    Attributes:
        widths: of the levels; all but the first have attention.
        blocks: residual blocks of each level.
        head: channels of an attention head.
        groups: of the normalisation.
        control_widths: of the levels that the ControlNet's input goes through, as many as the
            codec has.
    """

    widths: tuple[int, ...] = (48, 64, 80)
    blocks: int = 1
    head: int = 16
    groups: int = 8
    control_widths: tuple[int, ...] = (16, 32, 48)


@dataclasses.dataclass(frozen=True)
class SmallBaseConfig:
    """The whole small base.

    Attributes:
        codec, text, denoiser: see there.
        camera_tokens: of `CameraEncoder`.
        change_scale: of `BlurSynthPipeline`; None: as in Stable Diffusion.
        seed: of the weights.
    """

    codec: CodecConfig = dataclasses.field(default_factory=CodecConfig)
    text: TextConfig = dataclasses.field(default_factory=TextConfig)
    denoiser: DenoiserConfig = dataclasses.field(default_factory=DenoiserConfig)
    camera_tokens: int = 4
    change_scale: float | None = 2.0
    seed: int = 0


def make_small_base(
    config: SmallBaseConfig | None = None, merges: Sequence[tuple[str, str]] | None = None
) -> BlurSynthPipeline:
    """An untrained base in float32 on the CPU, in eval mode; the same seed gives the same weights.

    Args:
        config: its sizes.
        merges: of the tokenizer; CLIP's without.

    Raises:
        ModelError: the vocabulary of CLIP is not installed.
    """
    config = config or SmallBaseConfig()
    tokenizer = clip_tokenizer(clip_merges() if merges is None else merges)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        unet = _unet(config)
        controlnet = ControlNetModel.from_unet(
            unet,
            conditioning_channels=CONTROL_CHANNELS,
            conditioning_embedding_out_channels=config.denoiser.control_widths,
        )
        pipeline = BlurSynthPipeline(
            vae=_vae(config.codec),
            text_encoder=_text_encoder(config.text, tokenizer),
            tokenizer=tokenizer,
            unet=unet,
            controlnet=controlnet,
            scheduler=make_scheduler({"prediction_type": "v_prediction"}, zero_terminal_snr=True),
            camera_encoder=CameraEncoder(config.text.width, config.camera_tokens),
            change_scale=config.change_scale,
        )
    return ready(pipeline)


def _vae(config: CodecConfig) -> Any:
    return PixelCodec(
        latent_channels=config.latent_channels,
        block_out_channels=(3,) * (config.levels - 1) + (config.width,),
        layers_per_block=config.layers,
    )


def _text_encoder(config: TextConfig, tokenizer: Any) -> Any:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.width,
            intermediate_size=4 * config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            max_position_embeddings=CONTEXT,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _unet(config: SmallBaseConfig) -> Any:
    sizes = config.denoiser
    deeper = len(sizes.widths) - 1
    channels = config.codec.latent_channels
    taken, given = latent_sets(config.change_scale)
    return UNet2DConditionModel(
        in_channels=channels * taken,
        out_channels=channels * given,
        down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * deeper),
        up_block_types=(*["CrossAttnUpBlock2D"] * deeper, "UpBlock2D"),
        block_out_channels=sizes.widths,
        layers_per_block=sizes.blocks,
        cross_attention_dim=config.text.width,
        # What diffusers calls the dimension of a head is their number (its issue 2011).
        attention_head_dim=tuple(max(1, width // sizes.head) for width in sizes.widths),
        norm_num_groups=sizes.groups,
    )


def make_scheduler(settings: dict[str, Any], zero_terminal_snr: bool | None = None) -> Any:
    """DDIM for a base: trailing steps, no clipping of latents (Lin et al. 2024).

    Args:
        settings: of the base's own scheduler; what is missing is as in Stable Diffusion.
        zero_terminal_snr: whether the last step is pure noise; None: as the base was trained.

    Raises:
        ModelError: zero terminal SNR for a base that predicts the noise, which says nothing there.
    """
    own = {
        name: value
        for name in ("beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type")
        if (value := settings.get(name)) is not None
    }
    if zero_terminal_snr is None:
        zero_terminal_snr = bool(settings.get("rescale_betas_zero_snr"))
    scheduler = DDIMScheduler(
        **{"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", **own},
        num_train_timesteps=settings.get("num_train_timesteps", 1000),
        clip_sample=False,
        timestep_spacing="trailing",
        rescale_betas_zero_snr=zero_terminal_snr,
    )
    if zero_terminal_snr and scheduler.config.prediction_type == "epsilon":
        raise ModelError(
            "A base that predicts the noise cannot start from a signal of 0: use one that predicts "
            "the velocity, or no zero terminal SNR."
        )
    return scheduler


def make_controlnet(unet: Any, vae: Any) -> Any:
    """An untrained ControlNet with the weights of a U-Net: it does nothing until it is trained."""
    widths = (16, 32, 96, 256)[: len(vae.config.block_out_channels)]
    return ControlNetModel.from_unet(
        unet,
        conditioning_channels=CONTROL_CHANNELS,
        conditioning_embedding_out_channels=widths,
    )


def ready(pipeline: BlurSynthPipeline) -> BlurSynthPipeline:
    """Check that the parts of a pipeline fit together; frozen and in eval mode, with a ControlNet
    that takes the physics map.

    Raises:
        ModelError: a part is missing or does not fit the others.
    """
    check_parts({**pipeline.components, "change_scale": pipeline.config.change_scale})
    widen_controlnet(pipeline.controlnet)
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    return pipeline


def check_parts(parts: dict[str, Any]) -> None:
    """Whether parts make a Stable Diffusion 1.x or 2.x with a ControlNet.

    Raises:
        ModelError: one sentence on what does not fit.
    """
    for name in ("vae", "text_encoder", "tokenizer", "unet", "controlnet"):
        if parts.get(name) is None:
            raise ModelError(f"The base has no {name}: give a whole Stable Diffusion 1.x or 2.x.")
    unet, vae, control = (parts[name].config for name in ("unet", "vae", "controlnet"))
    width = parts["text_encoder"].config.hidden_size
    if unet.addition_embed_type is not None:
        raise ModelError(
            "The base is a Stable Diffusion XL or one like it, whose U-Net needs more than a text: "
            "give a Stable Diffusion 1.x or 2.x."
        )
    channels = vae.latent_channels
    taken, given = latent_sets(parts.get("change_scale"))
    if (unet.in_channels, unet.out_channels) != (channels * taken, channels * given):
        raise ModelError(
            f"The VAE of the base has {channels} latent channels and its U-Net takes "
            f"{unet.in_channels} and gives {unet.out_channels}: give a base for text to image."
        )
    told = parts["scheduler"].config.prediction_type
    if taken > 1 and told != "v_prediction":
        raise ModelError(
            f"The base makes changes of photos, from which a velocity follows, and its scheduler "
            f"expects {told}: give the scheduler that was saved with the base."
        )
    if unet.cross_attention_dim != width:
        raise ModelError(
            f"The text encoder of the base has {width} channels and its U-Net expects "
            f"{unet.cross_attention_dim}: give parts of one base."
        )
    for what in ("cross_attention_dim", "block_out_channels", "layers_per_block", "in_channels"):
        wanted, found = getattr(unet, what), getattr(control, what)
        if (list(wanted) if isinstance(wanted, tuple | list) else wanted) != (
            list(found) if isinstance(found, tuple | list) else found
        ):
            raise ModelError(
                f"The ControlNet does not fit the base ({what} is {found} instead of {wanted}): "
                "give one that was made for it."
            )
    if control.conditioning_channels not in (3, CONTROL_CHANNELS):
        raise ModelError(
            f"The ControlNet takes {control.conditioning_channels} channels, expected a photo (3) "
            f"or photo and physics map ({CONTROL_CHANNELS}): give another one."
        )
    if (found := 2 ** (len(control.conditioning_embedding_out_channels) - 1)) != pitch(
        parts["vae"]
    ):
        raise ModelError(
            f"The ControlNet shrinks photos by {found} and the VAE by {pitch(parts['vae'])}: "
            "give a ControlNet that was made for this base."
        )
    camera = parts.get("camera_encoder")
    if camera is not None and camera.config.dimension != width:
        raise ModelError(
            f"The camera encoder makes tokens of {camera.config.dimension} channels and the text "
            f"encoder of {width}: give parts of one base."
        )
