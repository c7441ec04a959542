"""Where the parameters of a `ViT` lie in published checkpoints.

Known names: Hugging Face's of CLIP, DINOv2, MAE and ViT; OpenAI's of CLIP; and those of timm and of
the original DINOv2, MAE and DeiT code, which agree.
"""

from collections.abc import Iterable

from w2s_jax.backbones.layers import linear_sources, norm_sources
from w2s_jax.backbones.vit import ViTConfig
from w2s_jax.backbones.weights import Source

# What published checkpoints hold beside the image encoder: text towers, decoders, heads, buffers.
UNUSED_TENSORS = (
    r"(text_model|text_projection|token_embedding|transformer|ln_final|decoder|head)\b.*",
    r"(decoder_.*|positional_embedding|logit_scale|input_resolution|context_length|vocab_size)",
    r"((vit|dinov2)\.)?(embeddings\.)?mask_token",
    r"(vision_model\.)?embeddings\.position_ids",
    r"((vit\.)?pooler\.dense|classifier|fc_norm|pre_logits\.fc)\..*",
)

_CLIP = {
    "cls": "embeddings.class_embedding",
    "positions": "embeddings.position_embedding.weight",
    "patches": "embeddings.patch_embedding",
    "first_norm": "pre_layrnorm",  # so spelled in the published files
    "blocks": "encoder.layers",
    "attention_norm": "layer_norm1",
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "attention_out": "self_attn.out_proj",
    "norm": "layer_norm2",
    "inner": "mlp.fc1",
    "outer": "mlp.fc2",
    "last_norm": "post_layernorm",
}
_OPENAI = {
    "cls": "class_embedding",
    "positions": "positional_embedding",
    "patches": "conv1",
    "first_norm": "ln_pre",
    "blocks": "transformer.resblocks",
    "attention_norm": "ln_1",
    "qkv": "attn.in_proj",
    "attention_out": "attn.out_proj",
    "norm": "ln_2",
    "inner": "mlp.c_fc",
    "outer": "mlp.c_proj",
    "last_norm": "ln_post",
}
_HF = {
    "cls": "embeddings.cls_token",
    "positions": "embeddings.position_embeddings",
    "patches": "embeddings.patch_embeddings.projection",
    "blocks": "encoder.layer",
    "query": "attention.attention.query",
    "key": "attention.attention.key",
    "value": "attention.attention.value",
    "attention_out": "attention.output.dense",
    "last_norm": "layernorm",
}
_HF_VIT = _HF | {
    "attention_norm": "layernorm_before",
    "norm": "layernorm_after",
    "inner": "intermediate.dense",
    "outer": "output.dense",
}
_HF_DINOV2 = _HF | {
    "attention_norm": "norm1",
    "norm": "norm2",
    "inner": "mlp.fc1",
    "outer": "mlp.fc2",
    "attention_scale": "layer_scale1.lambda1",
    "scale": "layer_scale2.lambda1",
}
_TIMM = {
    "cls": "cls_token",
    "positions": "pos_embed",
    "patches": "patch_embed.proj",
    "blocks": "blocks",
    "attention_norm": "norm1",
    "qkv": "attn.qkv",
    "attention_out": "attn.proj",
    "norm": "norm2",
    "inner": "mlp.fc1",
    "outer": "mlp.fc2",
    "attention_scale": "ls1.gamma",
    "scale": "ls2.gamma",
    "last_norm": "norm",
}


def vit_sources(config: ViTConfig, tensor_names: Iterable[str]) -> dict[str, Source]:
    """Where each parameter of a `ViT` lies in a checkpoint with these tensors.

    Args:
        config: Configuration of the network.
        tensor_names: Names in the checkpoint; they tell whose code wrote it.

    Returns:
        Parameter path to source.
    """
    tensor_names = set(tensor_names)
    if config.clip:
        known = [("vision_model.", _CLIP), ("", _CLIP), ("visual.", _OPENAI)]
    else:
        hugging_face = _HF_DINOV2 if config.layer_scale else _HF_VIT
        prefixes = ("", "dinov2.") if config.layer_scale else ("", "vit.")
        known = [(prefix, hugging_face) for prefix in prefixes] + [("", _TIMM)]
    found = [entry for entry in known if f"{entry[0]}{entry[1]['cls']}" in tensor_names]
    prefix, names = (found or known)[0]  # where none fits, loading names what the first would need
    sources = {
        "cls": Source(f"{prefix}{names['cls']}", "squeeze"),
        "positions": Source(f"{prefix}{names['positions']}", "squeeze"),
        "patches.kernel": Source(f"{prefix}{names['patches']}.weight", "conv"),
        **norm_sources("last_norm", f"{prefix}{names['last_norm']}"),
    }
    if config.clip:
        sources |= norm_sources("first_norm", f"{prefix}{names['first_norm']}")
    else:
        sources["patches.bias"] = Source(f"{prefix}{names['patches']}.bias")
    if config.projection_size is not None:
        sources["projection.kernel"] = (
            Source("visual.proj")
            if names is _OPENAI
            else Source("visual_projection.weight", "linear")
        )
    for index in range(config.num_layers):
        sources |= _block_sources(config, names, index, prefix)
    return sources


def _block_sources(
    config: ViTConfig, names: dict[str, str], index: int, prefix: str
) -> dict[str, Source]:
    target, block = f"blocks.{index}", f"{prefix}{names['blocks']}.{index}"
    sources = {}
    for part in ("attention_norm", "norm"):
        sources |= norm_sources(f"{target}.{part}", f"{block}.{names[part]}")
    for part in ("attention_out", "inner", "outer"):
        sources |= linear_sources(f"{target}.{part}", f"{block}.{names[part]}")
    for position, part in enumerate(("query", "key", "value")):
        if "qkv" in names:
            # Named `in_proj_weight` by torch's own attention, `qkv.weight` elsewhere.
            joint = "_" if names is _OPENAI else "."
            name, third = f"{block}.{names['qkv']}{joint}", (position, 3)
            sources[f"{target}.{part}.kernel"] = Source(f"{name}weight", "linear", third)
            sources[f"{target}.{part}.bias"] = Source(f"{name}bias", part=third)
        else:
            sources |= linear_sources(f"{target}.{part}", f"{block}.{names[part]}")
    if config.layer_scale:
        for part in ("attention_scale", "scale"):
            sources[f"{target}.{part}"] = Source(f"{block}.{names[part]}")
    return sources
